"""Boundary refinement on the pretended GPU: results of the CPU, and few waits whatever the number of patches."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.refinement.patches import plan_refiner
from autoseg.inference.refinement.refine import CoarseCase, LoadedRefiners, refine_labels
from autoseg.networks.devices import choose_device
from autoseg.networks.layout import place_network
from autoseg.networks.refiner import RefinerNetwork
from autoseg.records.selection import PatchSettings
from autoseg.training.refinement import Patches, RefinementOptions, train_refiner
from tests.gpu.pretended_gpu import PretendedGpu

CPU = torch.device("cpu")
SIZE = (4, 8, 8)
ENCODING = make_encoding({"background": 0, "ball": 1})
IMAGE = np.random.default_rng(0).normal(size=(2, 12, 40, 36)).astype(np.float32)


def settings_of(distance):
    return PatchSettings(size=SIZE, training_distance=distance, prediction_distance=distance)


SPEC = plan_refiner(settings_of(SIZE), channels=2)


def make_case():
    """A soft ball, whose surface crosses the border of the image."""
    axes = [np.linspace(-1, 1, size) for size in IMAGE.shape[1:]]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    ball = 1 / (1 + np.exp(9 * (distance - 1.1)))
    labels = (ball > 0.5).astype(np.uint8)
    return CoarseCase(labels, labels, np.stack([1 - ball, ball]).astype(np.float16), IMAGE)


def load_refiners(device, distance):
    torch.manual_seed(0)
    network = RefinerNetwork(SPEC)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return LoadedRefiners(settings_of(distance), (place_network(network, SPEC, device).eval(),), device)


@pytest.mark.parametrize("distance", [(2, 5, 4), (1, 2, 2)], ids=["few patches", "many patches"])
def test_refined_maps_are_those_of_the_cpu_and_a_head_crosses_the_bus_once(distance):
    expected, found = make_case(), make_case()
    refine_labels(expected, ENCODING, load_refiners(CPU, distance))
    assert np.abs(expected.probabilities[1].astype(float) - make_case().probabilities[1]).max() > 0.05
    with PretendedGpu() as gpu:
        refiners = load_refiners(choose_device("auto"), distance)
        gpu.waits.clear()
        gpu.bytes_to_device = gpu.bytes_to_host = 0
        refine_labels(found, ENCODING, refiners)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-3)
    assert np.mean(found.labels == expected.labels) > 0.999
    # image, probability, weight of a voxel and places of patches, once each; then the refined probability comes back
    assert Counter(wait.reason for wait in gpu.waits) == {"copy from pageable memory": 4, "copy to the host": 1}
    voxels = IMAGE[0].size
    assert gpu.bytes_to_host <= 4 * voxels
    assert gpu.bytes_to_device < (len(IMAGE) + 1) * 4 * voxels + 50_000


def test_refinement_goes_on_in_ram_where_the_device_is_too_small(monkeypatch):
    expected, found = make_case(), make_case()
    refine_labels(expected, ENCODING, load_refiners(CPU, SIZE))
    with PretendedGpu() as gpu:
        refiners = load_refiners(choose_device("auto"), SIZE)
        real = torch.zeros_like

        def refuse(tensor, **options):
            if gpu.is_on_device(tensor):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(tensor, **options)

        monkeypatch.setattr(torch, "zeros_like", refuse)
        refine_labels(found, ENCODING, refiners)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-3)


@pytest.mark.parametrize(("steps", "max_loss"), [(2, 1.3), (20, 1.2)])
def test_training_waits_for_its_last_loss_alone(steps, max_loss):
    generator = np.random.default_rng(0)
    reference = (generator.random((24, *SIZE)) < 0.4).astype(np.uint8)
    images = np.stack([4.0 * reference - 2, generator.normal(size=reference.shape)], axis=1).astype(np.float16)
    patches = Patches(images, np.full(reference.shape, 0.5, dtype=np.float16), reference)
    options = RefinementOptions(seconds=math.inf, max_steps=steps)
    with PretendedGpu() as gpu:
        device = choose_device("auto")
        trained = train_refiner(patches, SPEC, options, device=device, seed=3, mirror_axes=(0, 2))
        assert all(map(gpu.is_on_device, trained.network.parameters()))
    assert trained.steps == steps
    assert trained.loss < max_loss
    weights = list(trained.network.parameters())
    assert Counter(wait.reason for wait in gpu.waits) == {"copy from pageable memory": 3 + len(weights), "tolist": 1}
    once = sum(array.nbytes for array in (images, patches.coarse, reference)) + sum(weight.nbytes for weight in weights)
    assert gpu.bytes_to_device < once + (steps + 1) * 500  # a batch is drawn before the end is noticed
