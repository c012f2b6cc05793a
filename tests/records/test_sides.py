"""Words for sides in label names, and where left and right lie in a patch."""

import itertools

import numpy as np
import pytest

from autoseg.imaging.arrays.border_core import divide_encoding
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.dataset import LabelEncoding, LabelValues
from autoseg.records.sides import (
    Pairs,
    SideSwap,
    find_side_pairs,
    find_side_swap,
    find_sided_names,
    left_right_axes,
    read_axes,
)


@pytest.mark.parametrize(
    "name",
    [
        "left lung", "lung_left", "kidney-R", "L_hippocampus", "RIGHT", "Left-Thalamus-Proper", "kidneyLeft",
        "leftKidney", "eyeL", "LEye", "rib_left_12", "Left1", "ctx-lh-insula", "Lung (right)", "optic nerve Rt", "l",
        "ren sin.", "ren_dex", "Pulmo Dexter",
    ],
)  # fmt: skip
def test_a_word_for_a_side_is_found(name):
    assert find_sided_names(["background", name, "liver"]) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "liver", "l1", "L1", "L5", "vertebrae_L3", "RV", "LV", "LVC", "RVC", "MLV", "LVMyo", "LAD", "brightness",
        "cleft", "Lösion", "Rückenmark", "label1", "tumor core", "ulcer", "", "sinus", "index", "dextran",
    ],
)  # fmt: skip
def test_other_names_have_no_side(name):
    assert find_sided_names([name]) == ()


def test_names_keep_their_order():
    assert find_sided_names(["b_r", "x", "a_l"]) == ("b_r", "a_l")


@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_axis_is_where_a_transposed_array_keeps_the_columns(transpose, dimensions):
    shape = np.zeros((3, 5, 7)).transpose(transpose).shape[-dimensions:]
    expected = (shape.index(7),) if 7 in shape else ()
    assert left_right_axes(transpose, dimensions, "canonical") == expected


@pytest.mark.parametrize("dimensions", [2, 3])
def test_images_as_stored_may_have_it_anywhere(dimensions):
    assert left_right_axes((1, 0, 2), dimensions, "as_stored") == tuple(range(dimensions))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left lung", "right lung"), ("lung_left", "Lung Right"), ("kidney-L", "kidney-R"), ("L_hippo", "r hippo"),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle"), ("brain_ventricle_left", "brain_ventricle_right"),
        ("ctx-lh-insula", "ctx-rh-insula"), ("ren sin", "ren dex"), ("rib_left_12", "rib_right_12"), ("eyeL", "eyeR"),
        ("leftEye", "rightEye"), ("lefthand", "righthand"), ("left", "right"),
        ("lung_upper_lobe_left", "lung upper lobe R"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_reversed", [False, True])
def test_names_that_differ_by_the_side_are_a_pair(left, right, is_reversed):
    names = ["background", "rib_left_1", *([right, left] if is_reversed else [left, right]), "liver"]
    found = find_side_pairs(names)
    assert found.pairs == ((left, right),)
    assert found.unpaired == ("rib_left_1",)


@pytest.mark.parametrize(
    "names",
    [
        ("lung_upper_lobe_left", "lung_lower_lobe_right"), ("kidney_left",), ("kidney left", "right kidney"),
        ("heart_atrium_left", "heart_atrium_right"), ("Left Ventricle", "Right Ventricle"),
        ("kidney_left", "kidney left", "kidney_right"),
    ],
)  # fmt: skip
def test_other_names_are_no_pair(names):
    assert find_side_pairs(["background", *names]) == find_side_pairs(names)
    assert find_side_pairs(names).pairs == ()
    assert find_side_pairs(names).unpaired == names


LABELS: dict[str, LabelValues] = {"background": 0, "left": 2, "liver": 4, "right": 9, "ignore": 12}
PAIR = (("left", "right"),)


def swap_of(axis: int, pairs: Pairs, encoding: LabelEncoding) -> SideSwap:
    swap = find_side_swap(axis, pairs, encoding)
    assert swap is not None
    return swap


def test_labels_and_heads_change_places_and_the_ignored_stay():
    swap = swap_of(2, PAIR, make_encoding(LABELS))
    assert swap.axis == 2
    assert swap.labels == (0, 3, 2, 1, 4)  # indices of the values 0, 2, 4, 9, ignored
    assert swap.heads == (0, 3, 2, 1)


def test_core_and_border_change_places_together():
    swap = swap_of(0, PAIR, divide_encoding(make_encoding(LABELS)))
    assert swap.labels == (*swap.heads, 7) == (0, 5, 6, 3, 4, 1, 2, 7)


def test_regions_change_places_with_the_labels_that_they_hold():
    regions: dict[str, LabelValues] = {
        "background": 0,
        "both": (1, 2, 3, 4),
        "left": (1, 2),
        "right": (3, 4),
        "left core": 2,
        "right core": 4,
    }
    encoding = make_encoding(regions, (1, 1, 3, 2, 4))
    swap = swap_of(1, (*PAIR, ("left core", "right core")), encoding)
    assert swap.heads == (0, 2, 1, 4, 3)
    values = np.array(encoding.values)
    assert values[list(swap.labels[:-1])].tolist() == [
        {0: 0, 1: 3, 2: 4, 3: 1, 4: 2}[value] for value in values.tolist()
    ]
    assert find_side_swap(1, PAIR, encoding) is None  # the core would be outside its organ


def test_letters_of_axes():
    assert [read_axes(letters, 3) for letters in ("all", "none", "z", "yx")] == [(0, 1, 2), (), (0,), (1, 2)]
    assert [read_axes(letters, 2) for letters in ("all", "none", "z", "yx")] == [(0, 1), (), (), (0, 1)]
