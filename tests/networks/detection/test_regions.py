"""Features of regions against linear interpolation by hand, point by point."""

import itertools

import numpy as np
import pytest
import torch

from autoseg.networks.detection.regions import align_regions, bin_grid, paste_mask

BINS = {2: (3, 2), 3: (2, 3, 2)}
SHAPES = {2: (12, 20), 3: (4, 12, 20)}
STEPS = {2: (2, 4), 3: (1, 2, 4)}


def interpolate_by_hand(level, point):
    """Linear between the centres of voxels; the border's values outside of them."""
    point = [min(max(place, 0.0), edge - 1.0) for place, edge in zip(point, level.shape, strict=True)]
    value = 0.0
    for corner in itertools.product((0, 1), repeat=len(point)):
        weight, index = 1.0, []
        for place, side, edge in zip(point, corner, level.shape, strict=True):
            low = int(np.floor(place))
            weight *= place - low if side else 1.0 - (place - low)
            index.append(min(low + side, edge - 1))
        value += weight * level[tuple(index)]
    return value


def align_by_hand(level, box, bins, step):
    """Two points along each axis of a bin, and their mean."""
    dimensions = len(bins)
    result = np.zeros(bins)
    for bin_index in np.ndindex(*bins):
        values = []
        for part in itertools.product((0.25, 0.75), repeat=dimensions):
            point = []
            for axis in range(dimensions):
                start, stop = box[axis], box[dimensions + axis]
                place = start + (bin_index[axis] + part[axis]) / bins[axis] * (stop - start)
                point.append(place / step[axis] - 0.5)
            values.append(interpolate_by_hand(level, point))
        result[bin_index] = np.mean(values)
    return result


@pytest.mark.parametrize("dimensions", [2, 3])
def test_features_are_those_by_hand(dimensions):
    generator = np.random.default_rng(0)
    shape, step, bins = SHAPES[dimensions], STEPS[dimensions], BINS[dimensions]
    level = generator.normal(size=[edge // by for edge, by in zip(shape, step, strict=True)]).astype(np.float32)
    corners = np.sort(generator.uniform(0, 1, (6, 2, dimensions)), axis=1) * shape
    boxes = corners.reshape(6, -1)
    boxes[0] = [0.0] * dimensions + list(shape)  # the whole patch
    features = torch.from_numpy(np.stack((level, -2 * level)))
    found = align_regions(features, torch.from_numpy(boxes).float(), bins, shape)
    assert found.shape == (6, 2, *bins)
    for box, regions in zip(boxes, found.numpy(), strict=True):
        expected = align_by_hand(level, box, bins, step)
        np.testing.assert_allclose(regions[0], expected, atol=2e-4)
        np.testing.assert_allclose(regions[1], -2 * expected, atol=4e-4)


def test_features_of_no_region():
    assert align_regions(torch.zeros(5, 4, 6), torch.zeros(0, 4), (3, 2), (8, 12)).shape == (0, 5, 3, 2)


def test_gradients_reach_the_features():
    features = torch.zeros(1, 6, 6, requires_grad=True)
    align_regions(features, torch.tensor([[0.0, 0.0, 12.0, 12.0]]), (3, 3), (12, 12)).sum().backward()
    assert features.grad is not None
    assert float(features.grad.sum()) == pytest.approx(9.0)


def test_bins_have_their_middle_inside_the_box():
    grid = bin_grid(torch.tensor([[0.0, 2.0, 8.0, 6.0]]), (2, 4), (8, 8))
    assert grid.shape == (1, 2, 4, 2)
    assert grid[0, :, 0, 1].tolist() == [-0.5, 0.5]  # y: 2 and 6 of 8
    assert grid[0, 0, :, 0].tolist() == pytest.approx([-0.375, -0.125, 0.125, 0.375])  # x: 2.5, 3.5, 4.5, 5.5


def test_a_mask_comes_back_where_its_box_is():
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    slices, pasted = paste_mask(mask, torch.tensor([1.0, 2.0, 5.0, 6.0]), (6, 7))
    assert slices == (slice(1, 5), slice(2, 6))
    assert ((pasted >= 0.5) == torch.tensor([[True, True, False, False]] * 4)).all()


def test_a_box_without_the_middle_of_a_voxel_has_no_mask():
    slices, pasted = paste_mask(torch.ones(2, 2), torch.tensor([1.1, 2.0, 1.3, 6.0]), (6, 7))
    assert pasted.numel() == 0
    assert slices[0].start == slices[0].stop
