"""Prediction on the pretended GPU: label maps of the CPU, and no window waits for the device without need."""

import numpy as np
import pytest
import torch

from autoseg.inference.windows.logit_slab import CPU, SlabStorage
from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses, PrecisionTrial, mean_forward
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits
from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device
from autoseg.training.probe import measured_configuration
from tests.gpu.pretended_gpu import PretendedGpu

IMAGE = np.random.default_rng(0).standard_normal((6, 90, 80), dtype=np.float32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(measured_configuration(2, 4).network, deep_supervision=False).eval()


def predict(forward, passes, place="ram"):
    storage = SlabStorage(place, device=passes.device)
    run = NetworkPass(forward, passes, mirror_axes=(0, 1))
    slices = stream_logits(run, [IMAGE], (64, 64), 3, (0, 1), WindowSettings(storage=storage))
    return torch.stack([logits.cpu() for logits in slices])


@pytest.mark.parametrize("place", ["device", "ram", "file"])
def test_logits_are_those_of_the_cpu(network, place):
    expected = predict(mean_forward([network, network]), NetworkPasses(CPU))
    with PretendedGpu():
        network.to("cuda")
        found = predict(mean_forward([network, network]), NetworkPasses(choose_device("auto")), place).numpy()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_the_choice_of_precision_stays_on_the_device(network):
    with PretendedGpu():
        network.to("cuda")
        trial = PrecisionTrial(torch.bfloat16, is_softmax=True)
        predict(network, NetworkPasses(choose_device("auto"), trial=trial))
    assert trial.accepted is not None
