"""The memory layout by device and normalisation, in strides counted by hand."""

import pytest
import torch

from autoseg.networks.build import build_network
from autoseg.networks.layout import channels_last, choose_layout, place_network
from autoseg.training.invented_data import measured_configuration

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPES = {2: (2, 3, 4, 5), 3: (2, 3, 4, 5, 6)}
SIDE_BY_SIDE = {2: (60, 1, 15, 3), 3: (360, 1, 90, 18, 3)}
ORDINARY = {2: (60, 20, 5, 1), 3: (360, 120, 30, 6, 1)}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_channels_of_a_voxel_are_side_by_side(dimensions):
    batch = torch.zeros(SHAPES[dimensions]).contiguous(memory_format=channels_last(dimensions))
    assert batch.stride() == SIDE_BY_SIDE[dimensions]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("device", "normalization", "strides"),
    [(CPU, "instance", SIDE_BY_SIDE), (CPU, "batch", SIDE_BY_SIDE), (GPU, "instance", ORDINARY),
     (GPU, "batch", SIDE_BY_SIDE)],
)  # fmt: skip
def test_instance_normalisation_on_a_gpu_stays_in_the_ordinary_layout(dimensions, device, normalization, strides):
    layout = choose_layout(dimensions, normalization, device)
    batch = torch.zeros(SHAPES[dimensions]).contiguous(memory_format=layout)
    assert batch.stride() == strides[dimensions]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_weights_lie_in_the_layout(dimensions):
    spec = measured_configuration(dimensions, 4).network
    network = place_network(build_network(spec, deep_supervision=False), spec, CPU)
    wide = [weight for weight in network.parameters() if weight.ndim > 2 and min(weight.shape) > 1]
    assert wide
    assert all(weight.is_contiguous(memory_format=channels_last(dimensions)) for weight in wide)
