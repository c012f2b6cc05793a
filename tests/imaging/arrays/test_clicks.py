"""Nearness to clicks: geodesic distances against relaxation by hand, and their limits."""

from itertools import product

import numpy as np
import pytest

from autoseg.imaging.arrays.clicks import PlacedClick, box_around, make_click_maps
from autoseg.records.clicks import ClickSettings


def relaxed_distances(costs, start, spacing):
    """Shortest ways between neighbours, each step its length times the mean of both costs, until nothing changes."""
    distances = np.full(costs.shape, np.inf)
    distances[start] = 0
    steps = [step for step in product((-1, 0, 1), repeat=costs.ndim) if any(step)]
    while True:
        before = distances.copy()
        for voxel in np.ndindex(costs.shape):
            for step in steps:
                other = tuple(np.add(voxel, step))
                if all(0 <= place < size for place, size in zip(other, costs.shape, strict=True)):
                    length = np.linalg.norm(np.multiply(step, spacing))
                    way = distances[other] + length * (costs[voxel] + costs[other]) / 2
                    distances[voxel] = min(distances[voxel], way)
        if (before == distances).all():
            return distances


def relative_gradients(image, spacing):
    squared = sum(np.square(np.gradient(image, size, axis=axis)) for axis, size in enumerate(spacing))
    return np.sqrt(squared) / np.sqrt(squared).mean()


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 0.8), (1.5, 0.7)])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_nearness_falls_with_the_shortest_way_through_the_image(spacing, weight):
    shape = (4, 6, 7)[-len(spacing) :]
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    start = (2, 3, 2)[-len(spacing) :]
    settings = ClickSettings(reach_mm=30.0, edge_weight=weight)
    maps = make_click_maps(image[None], [PlacedClick(1, start)], 2, spacing, settings)
    costs = 1 + weight * relative_gradients(image.astype(float), spacing)
    expected = np.maximum(1 - relaxed_distances(costs, start, spacing) / 30.0, 0)
    np.testing.assert_allclose(maps[1], expected, atol=1e-6)
    assert maps[1][start] == 1
    assert not maps[[0, 2]].any()


def test_nothing_is_near_beyond_the_reach_and_edges_keep_a_click_in_its_structure():
    image = np.zeros((9, 20, 20), dtype=np.float32)
    image[:, :, 12:] = 1.0
    settings = ClickSettings(reach_mm=6.0)
    (_, near) = make_click_maps(image[None], [PlacedClick(1, (4, 10, 10))], 1, (1.0, 1.0, 1.0), settings)
    squared = np.sum([(axis - place) ** 2 for axis, place in zip(np.indices(image.shape), (4, 10, 10), strict=True)], 0)
    assert not near[squared > 36].any()
    assert near[4, 10, 7] > 0.45
    assert near[4, 10, 13] == 0  # as far away by a ruler


def test_the_nearer_of_two_clicks_counts_and_labels_have_channels_of_their_own():
    image, settings = np.zeros((1, 12, 12), dtype=np.float32), ClickSettings(reach_mm=5.0)
    clicks = [PlacedClick(0, (2, 2)), PlacedClick(2, (6, 6)), PlacedClick(2, (6, 8))]
    maps = make_click_maps(image, clicks, 2, (1.0, 1.0), settings)
    assert maps.shape == (3, 12, 12)
    assert maps.dtype == np.float32
    assert not maps[1].any()
    np.testing.assert_allclose(maps[2][6, 6:9], [1, 0.8, 1])
    assert maps[0][2, 2] == 1


def test_boxes_end_at_the_border():
    assert box_around((0, 9), (5, 10), (2.0, 1.0), 3.5) == (slice(0, 2), slice(6, 10))
