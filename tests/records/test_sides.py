"""Words for sides in label names, and where left and right lie in a patch."""

import itertools

import numpy as np
import pytest

from autoseg.records.sides import find_sided_names, left_right_axes


@pytest.mark.parametrize(
    "name",
    [
        "left lung", "lung_left", "kidney-R", "L_hippocampus", "RIGHT", "Left-Thalamus-Proper", "kidneyLeft",
        "leftKidney", "eyeL", "LEye", "rib_left_12", "Left1", "ctx-lh-insula", "Lung (right)", "optic nerve Rt", "l",
    ],
)  # fmt: skip
def test_a_word_for_a_side_is_found(name):
    assert find_sided_names(["background", name, "liver"]) == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "liver", "l1", "L1", "L5", "vertebrae_L3", "RV", "LV", "LVC", "RVC", "MLV", "LVMyo", "LAD", "brightness",
        "cleft", "Lösion", "Rückenmark", "label1", "tumor core", "ulcer", "",
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
