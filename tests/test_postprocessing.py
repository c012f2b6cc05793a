"""Every operation against maps made by hand and against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from autoseg.errors import RecordError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.postprocessing import (
    apply_postprocessing,
    describe_step,
    fill_holes,
    find_components,
    indices_of,
    keep_largest_component,
    remove_small_components,
    smallest_kept_voxels,
)
from autoseg.records.selection import FillHoles, KeepLargestComponent, PostprocessingStep, RemoveSmallComponents

SPACING = (3.0, 0.9, 0.7)  # 1.89 mm³ a voxel

LABELS = make_encoding({"background": 0, "one": 10, "two": 20})
REGIONS = make_encoding({"background": 0, "whole": (1, 2, 3), "core": (2, 3)}, (1, 2))


def as_map(*rows):
    return np.array([[[int(voxel) for voxel in row] for row in rows]], dtype=np.int16)


def test_smaller_components_become_background_and_other_labels_stay():
    labels = as_map("11020", "11001", "00201")
    np.testing.assert_array_equal(keep_largest_component(labels, [1]), as_map("11020", "11000", "00200"))
    np.testing.assert_array_equal(labels, as_map("11020", "11001", "00201"))


def test_the_union_is_looked_at_as_one():
    labels = as_map("120011", "000011")
    np.testing.assert_array_equal(keep_largest_component(labels, [1, 2]), as_map("000011", "000011"))


def test_components_of_equal_size_are_all_kept():
    labels = as_map("110110", "000000", "010000")
    np.testing.assert_array_equal(keep_largest_component(labels, [1]), as_map("110110", "000000", "000000"))


def test_corners_connect_in_a_slice_and_in_space():
    labels = as_map("10000", "01011", "00100")
    np.testing.assert_array_equal(keep_largest_component(labels, [1]), labels)
    space = np.zeros((3, 4, 5), dtype=np.int16)
    space[0, 0, 0] = space[1, 1, 1] = space[2, 2, 2] = 1
    space[0, 3, 3:] = 1
    expected = space.copy()
    expected[0, 3] = 0
    np.testing.assert_array_equal(keep_largest_component(space, [1]), expected)


def test_an_absent_label_changes_nothing():
    labels = as_map("2002")
    np.testing.assert_array_equal(keep_largest_component(labels, [1]), labels)


@given(labels=arrays(np.int16, (3, 5, 7), elements=st.sampled_from([0, 0, 1, 2, 3])))
@settings(deadline=None, max_examples=50)
def test_equals_counting_components_with_scipy(labels):
    components, count = ndimage.label(np.isin(labels, [1, 3]), structure=np.ones((3, 3, 3)))
    sizes = [int((components == number).sum()) for number in range(1, count + 1)]
    expected = labels.copy()
    for number, size in enumerate(sizes, start=1):
        if size < max(sizes):
            expected[components == number] = 0
    np.testing.assert_array_equal(keep_largest_component(labels, [1, 3]), expected)


def test_steps_are_applied_in_order_by_name():
    # The first part has most foreground, the second has most of label 2.
    labels = as_map("1112000", "0100022")
    union, two = KeepLargestComponent(labels=("one", "two")), KeepLargestComponent(labels=("two",))
    np.testing.assert_array_equal(
        apply_postprocessing(labels, [union, two], LABELS, SPACING), as_map("1112000", "0100000")
    )
    np.testing.assert_array_equal(
        apply_postprocessing(labels, [two, union], LABELS, SPACING), as_map("1110000", "0100000")
    )
    assert apply_postprocessing(labels, [], LABELS, SPACING) is labels


def test_regions_stand_for_all_their_indices():
    assert indices_of(["core", "whole"], REGIONS) == (1, 2, 3)
    labels = as_map("2300112", "0000110")
    result = apply_postprocessing(labels, [KeepLargestComponent(labels=("core",))], REGIONS, SPACING)
    np.testing.assert_array_equal(result, as_map("2300110", "0000110"))


def test_an_unknown_name_is_named():
    with pytest.raises(RecordError, match=r"does not have: kidney; it has background, one, two"):
        apply_postprocessing(as_map("1"), [KeepLargestComponent(labels=("kidney",))], LABELS, SPACING)


def in_space(*planes):
    return np.concatenate([as_map(*rows) for rows in planes])


def test_components_below_a_volume_are_removed_and_one_of_exactly_this_volume_stays():
    labels = in_space(("11000010", "00000000", "22200002"), ("00000010", "00000000", "00000000"))
    step = RemoveSmallComponents(labels=("one",), min_volume_mm3=3.78)  # 2 voxels, one of them across slices
    np.testing.assert_array_equal(apply_postprocessing(labels, [step], LABELS, SPACING), labels)
    above = step.model_copy(update={"min_volume_mm3": 3.79})
    expected = np.where(labels == 1, 0, labels)
    np.testing.assert_array_equal(apply_postprocessing(labels, [above], LABELS, SPACING), expected)


def test_a_volume_counts_voxels_of_the_spacing():
    labels = as_map("1101001110")
    step = RemoveSmallComponents(labels=("one",), min_volume_mm3=4.0)
    for spacing, expected in (
        ((4.0, 1.0, 1.0), "1101001110"),
        ((2.0, 1.0, 1.0), "1100001110"),
        ((1.0, 2.0, 0.7), "0000001110"),
        ((1.0, 1.0, 1.0), "0000000000"),
    ):
        np.testing.assert_array_equal(apply_postprocessing(labels, [step], LABELS, spacing), as_map(expected))


@pytest.mark.parametrize("voxels", [1, 2, 3, 7, 10, 1001, 123456])
def test_rounding_does_not_remove_a_component_of_exactly_the_volume(voxels):
    for spacing in (SPACING, (0.1, 0.1, 0.1), tuple(np.array([0.3, 0.7, 1.1], dtype=np.float32).tolist())):
        volume = float(f"{voxels * np.prod(spacing):.12g}")
        assert smallest_kept_voxels(volume, spacing) == voxels
        assert smallest_kept_voxels(volume * (1 + 2e-6), spacing) == voxels + 1
    assert smallest_kept_voxels(1e-9, SPACING) == 1


def test_the_union_of_labels_has_one_volume():
    labels = as_map("1200100", "0000002")
    step = RemoveSmallComponents(labels=("one", "two"), min_volume_mm3=3.0)
    np.testing.assert_array_equal(apply_postprocessing(labels, [step], LABELS, SPACING), as_map("1200000", "0000000"))


def test_holes_are_filled_and_those_open_at_the_border_are_not():
    labels = as_map("1111010", "1001101", "1111010", "0000000")
    np.testing.assert_array_equal(fill_holes(labels, [1], 1), as_map("1111010", "1111111", "1111010", "0000000"))
    np.testing.assert_array_equal(labels, as_map("1111010", "1001101", "1111010", "0000000"))
    at_the_border = as_map("1101", "1011", "1111")  # of the array: its first row
    np.testing.assert_array_equal(fill_holes(at_the_border, [1], 1), as_map("1101", "1111", "1111"))
    np.testing.assert_array_equal(fill_holes(at_the_border[:, 1:], [1], 1), at_the_border[:, 1:])


def test_a_diagonal_gap_is_no_way_out_and_a_gap_in_space_is_one():
    # The ring is closed by corners: foreground connects there, so background does not.
    ring = as_map("00100", "01010", "00100")
    np.testing.assert_array_equal(fill_holes(ring, [1], 1), as_map("00100", "01110", "00100"))
    in_a_volume = np.concatenate([np.zeros_like(ring), ring, np.zeros_like(ring)])
    np.testing.assert_array_equal(fill_holes(in_a_volume, [1], 1), in_a_volume)
    first_slice_only = np.concatenate([ring, np.zeros_like(ring)])
    np.testing.assert_array_equal(fill_holes(first_slice_only, [1], 1), first_slice_only)


def test_a_hole_in_space_is_filled_whichever_way_the_axes_run():
    labels = np.zeros((3, 4, 5), dtype=np.int16)
    labels[:, :3, 1:4] = 1
    labels[1, 1, 2] = 0
    for axes in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        turned = labels.transpose(axes)
        assert fill_holes(turned, [1], 1).sum() == 27
    slice_of_two_axes = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.int16)
    for axis in range(3):  # a single slice in any orientation
        flat = np.expand_dims(slice_of_two_axes, axis)
        assert fill_holes(flat, [1], 1).sum() == 9


def test_another_label_in_a_hole_stays_and_the_background_beside_it_is_filled():
    labels = as_map("111111", "100201", "111111")
    np.testing.assert_array_equal(fill_holes(labels, [1], 1), as_map("111111", "111211", "111111"))


def test_another_label_does_not_close_a_hole():
    labels = as_map("1111", "1002", "1111")
    np.testing.assert_array_equal(fill_holes(labels, [1], 1), labels)
    both = as_map("1111", "1112", "1111")
    np.testing.assert_array_equal(fill_holes(labels, [1, 2], 1), both)


def test_a_hole_of_a_region_gets_its_painted_value():
    labels = as_map("22300", "20300", "23300", "00000")
    filled = apply_postprocessing(labels, [FillHoles(label="core")], REGIONS, SPACING)
    np.testing.assert_array_equal(filled, as_map("22300", "22300", "23300", "00000"))
    filled = apply_postprocessing(labels, [FillHoles(label="whole")], REGIONS, SPACING)
    np.testing.assert_array_equal(filled, as_map("22300", "21300", "23300", "00000"))


def test_voxels_without_truth_are_never_changed():
    labels = as_map("1111", "1501", "1111", "5000")  # 5: beyond all indices
    steps: list[PostprocessingStep] = [
        FillHoles(label="one"),
        KeepLargestComponent(labels=("one", "two")),
        RemoveSmallComponents(labels=("one", "two"), min_volume_mm3=1e6),
    ]
    filled = apply_postprocessing(labels, steps[:2], LABELS, SPACING)
    np.testing.assert_array_equal(filled, as_map("1111", "1511", "1111", "5000"))
    emptied = apply_postprocessing(labels, steps, LABELS, SPACING)
    np.testing.assert_array_equal(emptied, as_map("0000", "0500", "0000", "5000"))


def test_nothing_there_changes_nothing():
    labels = as_map("2002")
    np.testing.assert_array_equal(remove_small_components(labels, [1], 5), labels)
    np.testing.assert_array_equal(fill_holes(labels, [1], 1), labels)
    assert find_components(labels, [1]) is None


MAPS = arrays(
    np.int16,
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7)),
    elements=st.sampled_from([0, 0, 1, 1, 1, 2, 3]),
)


@given(labels=MAPS, smallest=st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_removing_small_components_equals_scipy_and_is_idempotent(labels, smallest):
    components, count = ndimage.label(np.isin(labels, [1, 3]), structure=np.ones((3, 3, 3)))
    expected = labels.copy()
    for number in range(1, count + 1):
        if (components == number).sum() < smallest:
            expected[components == number] = 0
    removed = remove_small_components(labels, [1, 3], smallest)
    np.testing.assert_array_equal(removed, expected)
    np.testing.assert_array_equal(remove_small_components(removed, [1, 3], smallest), removed)
    kept = keep_largest_component(labels, [1, 3])
    np.testing.assert_array_equal(keep_largest_component(kept, [1, 3]), kept)
    for result in (removed, kept):
        assert ((result == labels) | (result == 0)).all()


@given(labels=MAPS)
@settings(deadline=None, max_examples=100)
def test_filling_holes_equals_scipy_and_only_fills_background(labels):
    axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
    union = np.isin(labels, [1, 3]).reshape([labels.shape[axis] for axis in axes])
    inside = ndimage.binary_fill_holes(union).reshape(labels.shape) if axes else np.isin(labels, [1, 3])
    expected = np.where(inside & (labels == 0), 3, labels)
    filled = fill_holes(labels, [1, 3], 3)
    np.testing.assert_array_equal(filled, expected)
    np.testing.assert_array_equal(fill_holes(filled, [1, 3], 3), filled)


def test_steps_in_words():
    assert describe_step(KeepLargestComponent(labels=("a", "b"))) == "keep the largest component of a, b"
    many = KeepLargestComponent(labels=tuple("abcdefghij"))
    assert describe_step(many) == "keep the largest component of a, b, c, d, e, f, g, h, ... (10 labels)"
    assert describe_step(FillHoles(label="liver")) == "fill holes of liver"
    small = RemoveSmallComponents(labels=("liver", "tumour"), min_volume_mm3=50.0)
    assert describe_step(small) == "remove components of liver, tumour below 50 mm³ (2D: mm² or pixels)"
