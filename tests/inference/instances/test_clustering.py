"""Clusters of boxes against scores by hand: mirrored looks, cut instances, looks that saw nothing, slices."""

import math

import numpy as np
import pytest

from autoseg.inference.instances.clustering import cluster_instances, combine_members, link_slices
from autoseg.inference.instances.found import FoundInstances, Views, center_weights

LEFT, RIGHT = ((0, 0, 0), (16, 16, 64)), ((0, 0, 32), (16, 16, 96))


def found_of(*instances):
    """Instances from (box, window, view, label, score)."""
    boxes, windows = (np.array([entry[part] for entry in instances], np.float32) for part in (0, 1))
    views, labels, scores = ([entry[part] for entry in instances] for part in (2, 3, 4))
    return FoundInstances(
        boxes,
        windows,
        np.array(views),
        np.array(labels),
        np.array(scores, np.float32),
        center_weights(boxes.mean(axis=1), windows),
        (np.full((2, 2, 2), 255, np.uint8),) * len(boxes),
    )


def views_of(*windows, times=1):
    return Views(np.array(windows, np.float32), times)


def test_the_weight_of_a_point_is_a_gaussian_about_the_centre_of_its_window():
    windows = np.array([LEFT, LEFT], np.float32)
    points = np.array([[8, 8, 32], [8, 8, 64]], np.float32)
    assert center_weights(points, windows) == pytest.approx([1, (2 + math.exp(-0.5 / 0.8**2)) / 3])


def test_one_look_keeps_its_score_and_labels_stay_apart():
    box = ((4, 4, 4), (8, 8, 8))
    found = found_of((box, LEFT, 0, 1, 0.9), (box, LEFT, 0, 2, 0.6))
    first, second = cluster_instances(found, views_of(LEFT), 0.5)
    assert [first.label, second.label] == [1, 2]
    assert [first.score, second.score] == pytest.approx([0.9, 0.6])


def test_scores_of_mirrored_looks_are_averaged_by_overlap():
    box, shifted = ((6, 6, 30), (10, 10, 34)), ((6, 6, 31), (10, 10, 35))
    found = found_of((box, LEFT, 0, 1, 0.9), (shifted, LEFT, 1, 1, 0.6))
    (cluster,) = cluster_instances(found, views_of(LEFT, times=2), 0.5)
    iou = 3 / 5
    weight = iou * center_weights(np.array([[8, 8, 33]], np.float32), np.array([LEFT], np.float32))[0]
    assert cluster.score == pytest.approx((0.9 + 0.6 * weight) / (1 + weight))
    assert sorted(cluster.pieces) == [0, 1]


def test_looks_that_saw_nothing_lower_the_score():
    box = ((6, 6, 30), (10, 10, 34))
    (cluster,) = cluster_instances(found_of((box, LEFT, 0, 1, 0.8)), views_of(LEFT, times=4), 0.5)
    assert cluster.score == pytest.approx(0.2)
    elsewhere = ((0, 0, 60), (16, 16, 124))  # shows no part of it
    (cluster,) = cluster_instances(found_of((box, LEFT, 0, 1, 0.8)), views_of(LEFT, elsewhere), 0.5)
    assert cluster.score == pytest.approx(0.8)


def test_a_part_that_a_window_cuts_off_joins_the_whole():
    whole, cut = ((6, 6, 60), (10, 10, 80)), ((6, 6, 60), (10, 10, 64))
    found = found_of((whole, RIGHT, 1, 1, 0.9), (cut, LEFT, 0, 1, 0.7))
    (cluster,) = cluster_instances(found, views_of(LEFT, RIGHT), 0.5)
    assert sorted(cluster.pieces) == [0, 1]
    assert cluster.box[:, 2].tolist() == [60, 80]


def test_an_instance_larger_than_a_window_joins_from_its_parts():
    found = found_of((((6, 6, 10), (10, 10, 64)), LEFT, 0, 1, 0.9), (((6, 6, 32), (10, 10, 90)), RIGHT, 1, 1, 0.8))
    (cluster,) = cluster_instances(found, views_of(LEFT, RIGHT), 0.5)
    assert sorted(cluster.pieces) == [0, 1]


def test_neighbours_across_the_border_of_a_window_stay_apart():
    left, right = ((6, 6, 44), (10, 10, 63)), ((6, 6, 63), (10, 10, 82))
    found = found_of(
        (left, LEFT, 0, 1, 0.9), (left, RIGHT, 1, 1, 0.9), (right, RIGHT, 1, 1, 0.9),
    )  # fmt: skip
    clusters = cluster_instances(found, views_of(LEFT, RIGHT), 0.5)
    assert [sorted(cluster.pieces) for cluster in clusters] == [[0, 1], [2]]


def test_slices_are_linked_where_they_overlap():
    window = [((z, 0, 0), (z + 1, 32, 32)) for z in range(4)]
    found = found_of(
        (((0, 4, 4), (1, 12, 12)), window[0], 0, 1, 0.9),
        (((1, 4, 5), (2, 12, 13)), window[1], 1, 1, 0.6),
        (((1, 20, 20), (2, 28, 28)), window[1], 1, 1, 0.7),
        (((2, 4, 5), (3, 12, 13)), window[2], 2, 2, 0.7),
        (((3, 4, 5), (4, 12, 13)), window[3], 3, 1, 0.7),
    )
    clusters = cluster_instances(found, views_of(*window), 0.5)
    linked = link_slices(clusters)
    assert sorted(sorted(cluster.pieces.tolist()) for cluster in linked) == [[0, 1], [2], [3], [4]]
    joined = next(cluster for cluster in linked if len(cluster.pieces) == 2)
    assert joined.score == pytest.approx(0.75)
    assert joined.box.tolist() == [[0, 4, 4], [2, 12, 13]]


def test_every_instance_is_in_one_cluster():
    generator = np.random.default_rng(3)
    starts = generator.uniform(0, 60, (200, 3))
    boxes = np.stack([starts, starts + generator.uniform(2, 20, (200, 3))], axis=1)
    scores = np.sort(generator.random(200))[::-1]
    window = ((0, 0, 0), (80, 80, 80))
    found = found_of(
        *((box, window, i % 4, 1 + i % 2, score) for i, (box, score) in enumerate(zip(boxes, scores, strict=True)))
    )
    clusters = cluster_instances(found, views_of(window, times=4), 0.3)
    assert sorted(np.concatenate([cluster.pieces for cluster in clusters])) == list(range(200))
    for cluster in clusters:
        assert set(found.labels[cluster.pieces]) == {cluster.label}
        assert 0 < cluster.score <= scores[cluster.pieces].max() + 1e-6


def test_parts_that_continue_each_other_are_one_instance():
    windows = [((0, 0, start), (16, 16, start + 64)) for start in (0, 32, 64, 96)]
    found = found_of(
        *(
            (((6, 6, start), (10, 10, start + 64)), window, n, 1, 0.9)
            for n, (start, window) in enumerate(zip((0, 32, 64, 96), windows, strict=True))
        )
    )
    (cluster,) = cluster_instances(found, views_of(*windows), 0.5)
    assert sorted(cluster.pieces) == [0, 1, 2, 3]


def test_an_ensemble_joins_the_instances_of_its_members():
    first, second, alone = ((4, 4, 4), (8, 8, 8)), ((4, 4, 4), (8, 8, 9)), ((4, 4, 40), (8, 8, 44))
    groups = [
        cluster_instances(found_of((first, LEFT, 0, 1, 0.9), (alone, LEFT, 0, 1, 0.7)), views_of(LEFT), 0.5),
        cluster_instances(found_of((second, LEFT, 0, 1, 0.5), (first, LEFT, 0, 2, 0.4)), views_of(LEFT), 0.5),
    ]
    combined = combine_members(groups, [2, 2], 0.5)
    assert [cluster.score for cluster in combined] == pytest.approx([0.7, 0.35, 0.2])
    assert [cluster.pieces.tolist() for cluster in combined] == [[0, 2], [1], [3]]
    assert combined[0].weights == pytest.approx([1, 1])
