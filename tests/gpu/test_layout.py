"""The memory layout on the pretended GPU: how many features are copied into another layout, by normalisation."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses
from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device
from autoseg.networks.layout import place_network
from autoseg.training.data.batch import Batch
from autoseg.training.invented_data import NOISE_ENCODING, measured_configuration
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.run import Clock, StepSettings
from autoseg.training.steps.setup import build_initial_network, start_run
from tests.gpu.pretended_gpu import PretendedGpu

PATCHES = {2: (64, 64), 3: (16, 32, 32)}


class SeenLayouts(TorchDispatchMode):
    """Counts features that are copied, and lists convolutions: whether their features lie in the ordinary layout."""

    def __init__(self):
        super().__init__()
        self.num_copies = 0
        self.are_ordinary = []

    @override
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.clone.default and args[0].ndim > 3:
            self.num_copies += 1
        if func is torch.ops.aten.convolution.default and args[0].shape[1] > 1:
            self.are_ordinary.append(args[0].is_contiguous())
        return func(*args, **(kwargs or {}))


def change_normalization(configuration, normalization):
    network = configuration.network.model_copy(update={"normalization": normalization})
    return configuration.model_copy(update={"network": network})


def batches(shape):
    generator = np.random.default_rng(0)
    image = generator.standard_normal((2, 1, *shape), dtype=np.float32)
    for _ in itertools.count():
        yield Batch(image=image.copy(), target=(image[:, 0] > 0).astype(np.int16), cases=["a", "b"])


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("normalization", ["instance", "batch"])
def test_prediction_copies_no_features(dimensions, normalization):
    spec = change_normalization(measured_configuration(dimensions, 4), normalization).network
    torch.manual_seed(0)
    network = build_network(spec, deep_supervision=False).eval()
    with PretendedGpu():
        device = choose_device("auto")
        run = NetworkPass(place_network(network, spec, device), NetworkPasses(device, normalization))
        windows = torch.randn(2, 1, *PATCHES[dimensions], device=device)
        with torch.no_grad(), SeenLayouts() as seen:  # inference mode hides convolutions from a dispatch mode
            run(windows)
    assert seen.num_copies == 0
    assert set(seen.are_ordinary) == {normalization == "instance"}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_training_and_validation_stay_in_the_ordinary_layout(dimensions):
    configuration = measured_configuration(dimensions, 4)
    spec = configuration.training.model_copy(update={"validation_steps": 1})
    configuration = configuration.model_copy(update={"patch_size": PATCHES[dimensions], "training": spec})
    with PretendedGpu():
        settings = StepSettings(choose_device("auto"), torch.float32)
        run = start_run(build_initial_network(configuration, 0), configuration, NOISE_ENCODING, settings)
        stream, clock = batches(PATCHES[dimensions]), Clock(10**9, None)
        with SeenLayouts() as seen:
            train_epoch(run, stream, clock, lambda _step: None)
            validate_epoch(run, stream, clock)
    assert set(seen.are_ordinary) == {True}
    assert all(weight.is_contiguous() for weight in run.network.parameters())
