"""Keep-largest-component against maps made by hand and against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from autoseg.errors import RecordError
from autoseg.postprocessing import apply_postprocessing, indices_of, keep_largest_component
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.postprocessing import KeepLargestComponent

LABELS = LabelEncoding(
    values=(0, 10, 20),
    activation="softmax",
    heads=(
        Head(name="background", indices=(0,), painted_index=0),
        Head(name="one", indices=(1,), painted_index=1),
        Head(name="two", indices=(2,), painted_index=2),
    ),
)
REGIONS = LabelEncoding(
    values=(0, 1, 2, 3),
    activation="sigmoid",
    heads=(
        Head(name="whole", indices=(1, 2, 3), painted_index=1),
        Head(name="core", indices=(2, 3), painted_index=2),
    ),
)


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
    np.testing.assert_array_equal(apply_postprocessing(labels, [union, two], LABELS), as_map("1112000", "0100000"))
    np.testing.assert_array_equal(apply_postprocessing(labels, [two, union], LABELS), as_map("1110000", "0100000"))
    assert apply_postprocessing(labels, [], LABELS) is labels


def test_regions_stand_for_all_their_indices():
    assert indices_of(["core", "whole"], REGIONS) == (1, 2, 3)
    labels = as_map("2300112", "0000110")
    result = apply_postprocessing(labels, [KeepLargestComponent(labels=("core",))], REGIONS)
    np.testing.assert_array_equal(result, as_map("2300110", "0000110"))


def test_an_unknown_name_is_named():
    with pytest.raises(RecordError, match=r"does not have: kidney; it has background, one, two"):
        apply_postprocessing(as_map("1"), [KeepLargestComponent(labels=("kidney",))], LABELS)
