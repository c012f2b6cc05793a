"""Masks of instances on voxels, against shapes that are drawn voxel by voxel."""

import numpy as np
import pytest

from autoseg.inference.instances.clustering import Cluster
from autoseg.inference.instances.found import FoundInstances
from autoseg.inference.instances.pasting import paint_instances


def painted(shape, instances, threshold=0.5):
    """Paint (score, [(box, mask, window)]) into an empty map."""
    pieces = [piece for _, own in instances for piece in own]
    boxes = np.array([box for box, _, _ in pieces], np.float32)
    windows = np.array([window or ((0, 0, 0), shape) for _, _, window in pieces], np.float32)
    masks = tuple((np.asarray(mask) * 255).astype(np.uint8) for _, mask, _ in pieces)
    count = len(pieces)
    found = FoundInstances(
        boxes,
        windows,
        np.zeros(count, int),
        np.ones(count, int),
        np.ones(count, np.float32),
        np.ones(count, np.float32),
        masks,
    )
    clusters, first = [], 0
    for score, own in instances:
        indices = np.arange(first, first + len(own))
        clusters.append(Cluster(1, score, boxes[first], indices, np.ones(len(own), np.float32)))
        first += len(own)
    ids = np.zeros(shape, np.uint32)
    return ids, paint_instances(clusters, found, ids, threshold)


def test_a_full_mask_fills_its_box():
    ids, (instance,) = painted((6, 9, 12), [(0.8, [(((1, 2, 3), (4, 7, 10)), np.ones((5, 5, 5)), None)])])
    expected = np.zeros((6, 9, 12))
    expected[1:4, 2:7, 3:10] = 1
    assert np.array_equal(ids, expected)
    assert (instance.score, instance.mean_probability) == (0.8, 1)


@pytest.mark.parametrize(("bins", "least_iou"), [((8, 14, 14), 0.88), ((16, 28, 28), 0.93)])
def test_a_ball_keeps_its_shape(bins, least_iou):
    def ball(shape):
        grid = np.meshgrid(*((np.arange(n) + 0.5) / n * 2 - 1 for n in shape), indexing="ij")
        return sum(values**2 for values in grid) < 1

    ids, _ = painted((20, 40, 50), [(0.8, [(((2, 5, 8), (16, 38, 41)), ball(bins), None)])])
    expected = np.zeros((20, 40, 50), bool)
    expected[2:16, 5:38, 8:41] = ball((14, 33, 33))
    assert np.logical_and(ids, expected).sum() / np.logical_or(ids, expected).sum() > least_iou


def test_masks_are_averaged():
    box = ((0, 0, 0), (1, 4, 4))
    one, none = np.ones((1, 4, 4)), np.zeros((1, 4, 4))
    assert painted((1, 4, 4), [(0.8, [(box, one, None), (box, none, None), (box, one, None)])])[0].all()
    assert not painted((1, 4, 4), [(0.8, [(box, one, None), (box, none, None), (box, none, None)])])[0].any()


def test_a_window_that_does_not_show_a_voxel_says_nothing_about_it():
    left, right = ((0, 0, 0), (1, 4, 8)), ((0, 0, 4), (1, 4, 12))
    pieces = [(((0, 0, 1), (1, 4, 8)), np.ones((1, 4, 4)), left), (((0, 0, 4), (1, 4, 10)), np.ones((1, 4, 4)), right)]
    ids, _ = painted((1, 4, 12), [(0.8, pieces)])
    assert np.array_equal(np.flatnonzero(ids[0, 0]), np.arange(1, 10))


def test_overlaps_go_to_the_better_score_and_repetitions_vanish():
    full = np.ones((1, 4, 4))
    first, second, again = ((0, 0, 0), (1, 4, 6)), ((0, 0, 4), (1, 4, 10)), ((0, 0, 1), (1, 4, 6))
    scored = [(0.6, [(second, full, None)]), (0.9, [(first, full, None)]), (0.5, [(again, full, None)])]
    ids, instances = painted((1, 4, 10), scored)
    assert ids[0, 0].tolist() == [1] * 6 + [2] * 4
    assert [instance.score for instance in instances] == [0.9, 0.6]


def test_slices_of_a_2d_network_are_painted_slice_by_slice():
    pieces = [(((z, 1, 1 + z), (z + 1, 5, 5 + z)), np.ones((1, 6, 6)), ((z, 0, 0), (z + 1, 10, 10))) for z in range(3)]
    ids, _ = painted((3, 10, 10), [(0.8, pieces)])
    expected = np.zeros((3, 10, 10))
    for z in range(3):
        expected[z, 1:5, 1 + z : 5 + z] = 1
    assert np.array_equal(ids, expected)


def test_a_box_that_reaches_beyond_the_image_is_cut():
    ids, _ = painted((2, 4, 4), [(0.8, [(((-1, -2, 2), (1, 2, 6)), np.ones((2, 4, 4)), ((-2, -2, 0), (4, 6, 8)))])])
    expected = np.zeros((2, 4, 4))
    expected[:1, :2, 2:] = 1
    assert np.array_equal(ids, expected)
