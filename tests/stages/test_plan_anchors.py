"""Anchors for instances of known sizes: levels, overlap, axes, and the rule's promises on any sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.records.fingerprint import LabelFacts
from autoseg.stages.plan_anchors import choose_anchors, measured_sizes
from autoseg.testing.fingerprints import synthetic_fingerprint
from tests.builders import make_plan

FLAT = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2), (2, 2))
DEEP = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def iou(first, second):
    common = np.minimum(first, second).prod()
    return common / (np.prod(first) + np.prod(second) - common)


def mean_of_best(sizes, choice):
    """Mean over instances of the best IoU, pair by pair."""
    return np.mean([max(iou(size, anchor) for level in choice.anchors for anchor in level) for size in sizes])


def chosen(sizes, strides, patch_size, num_levels=4):
    choice = choose_anchors(np.array(sizes, float), strides, patch_size, num_levels)
    assert choice is not None
    return choice


def test_three_sizes_get_an_anchor_each():
    sizes = [(10, 16)] * 8 + [(14, 20)] * 8 + [(24, 40)] * 8
    choice = chosen(sizes, FLAT, (128, 128))
    assert choice.levels == (1, 2, 3, 4)
    assert mean_of_best(sizes, choice) > 0.9
    assert all(len(level) == 3 for level in choice.anchors)
    assert np.array(choice.anchors[1]) == pytest.approx(2 * np.array(choice.anchors[0]), rel=1e-3)


def test_large_instances_begin_at_a_quarter_and_scale_along_each_axis():
    sizes = [(20, 80, 100), (24, 70, 90), (18, 90, 80)] * 5
    choice = chosen(sizes, DEEP, (32, 128, 128))
    assert choice.levels == (2, 3, 4)
    assert np.array(choice.anchors[1]) == pytest.approx(np.array(choice.anchors[0]) * 2, rel=1e-3)
    small = chosen(np.array(sizes) / 10, DEEP, (32, 128, 128))
    assert small.levels == (1, 2, 3, 4)
    assert np.array(small.anchors[1]) == pytest.approx(np.array(small.anchors[0]) * [2, 2, 2], rel=1e-3)


def test_the_reason_names_what_does_not_fit():
    sizes = [(10, 10)] * 15 + [(200, 20)] * 5
    assert "75% of them fit into the patch" in chosen(sizes, FLAT, (64, 64)).reason


def test_few_instances_say_nothing():
    assert choose_anchors(np.full((9, 2), 12.0), FLAT, (64, 64), 4) is None
    assert choose_anchors(np.zeros((0, 3)), DEEP, (64, 64, 64), 4) is None


def test_sizes_are_at_the_spacing_and_along_the_axes_of_the_patch():
    fingerprint = synthetic_fingerprint([(1.0, 2.0, 3.0)], [(40, 50, 60)])
    facts = LabelFacts(voxels=9, volume_mm3=9.0, components=2, instance_sizes=((4, 5, 6), (8, 8, 8)))
    absent = LabelFacts(voxels=0, volume_mm3=0.0, components=0)
    case = fingerprint.cases[0].model_copy(update={"labels": {"one": facts, "none": absent}})
    fingerprint = fingerprint.model_copy(update={"cases": (case,)})
    plan = make_plan({"3d_fullres": (3.0, 2.0, 0.5), "2d": (2.0, 0.5)}, transpose=(2, 1, 0))
    found = measured_sizes(plan, "3d_fullres", fingerprint)
    assert found.tolist() == [[6, 5, 8], [8, 8, 16]]
    assert measured_sizes(plan, "2d", fingerprint).tolist() == [[5, 8], [8, 16]]


sizes_of_2d = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=10, max_size=30)


@settings(max_examples=5, deadline=None)
@given(sizes_of_2d, st.randoms(use_true_random=False))
def test_anchors_do_not_depend_on_the_order_and_overlap_as_the_reason_says(sizes, random):
    choice = chosen(sizes, FLAT, (96, 96))
    random.shuffle(sizes)
    assert chosen(sizes, FLAT, (96, 96)) == choice
    assert all(edge > 0 for level in choice.anchors for anchor in level for edge in anchor)
    named = float(choice.reason.split("anchor by ")[1].split(" ")[0])
    assert named == pytest.approx(mean_of_best(sizes, choice), abs=0.006)
