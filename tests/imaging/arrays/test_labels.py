import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import (
    MAX_LOCATIONS,
    decode_label_map,
    draw_class_locations,
    encode_label_map,
    foreground_heads,
    label_boxes,
    make_encoding,
)
from autoseg.records.dataset import Head, LabelEncoding, LabelValues

BRATS: dict[str, LabelValues] = {
    "background": 0,
    "whole tumour": (1, 2, 4),
    "tumour core": (2, 4),
    "enhancing": 4,
    "ignore": 9,
}


def test_labels_sort_by_value_with_background_first():
    encoding = make_encoding({"kidney": 7, "background": 0, "liver": 2})
    assert encoding.values == (0, 2, 7)
    assert encoding.activation == "softmax"
    assert [head.name for head in encoding.heads] == ["background", "liver", "kidney"]
    assert [head.painted_index for head in encoding.heads] == [0, 1, 2]
    assert [head.indices for head in encoding.heads] == [(0,), (1,), (2,)]


def test_background_is_added_as_zero():
    assert make_encoding({"membrane": 255}).values == (0, 255)


def test_regions_keep_declaration_order_and_paint_as_told():
    encoding = make_encoding(BRATS, regions_class_order=(1, 2, 4))
    assert encoding.values == (0, 1, 2, 4)
    assert encoding.ignore_value == 9
    assert encoding.activation == "sigmoid"
    assert encoding.heads == (
        Head(name="whole tumour", indices=(1, 2, 3), painted_index=1),
        Head(name="tumour core", indices=(2, 3), painted_index=2),
        Head(name="enhancing", indices=(3,), painted_index=3),
    )


def test_ignore_gets_the_index_after_the_last_label():
    encoding = make_encoding({"background": 0, "a": 1, "b": 3, "ignore": 255})
    values = np.array([[[0, 1, 3, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(encode_label_map(values, encoding), [[[0, 1, 2, 3]]])
    assert encode_label_map(values, encoding).dtype == np.int16
    np.testing.assert_array_equal(decode_label_map(encode_label_map(values, encoding), encoding), values)


@pytest.mark.parametrize(("largest", "dtype"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16)])
def test_decoding_uses_the_smallest_type(largest: int, dtype: type):
    encoding = make_encoding({"structure": largest})
    decoded = decode_label_map(np.array([0, 1], dtype=np.int16), encoding)
    assert decoded.dtype == dtype
    assert decoded.tolist() == [0, largest]


@given(
    values=st.lists(st.integers(1, 65535), min_size=1, max_size=12, unique=True),
    dtype=st.sampled_from([np.uint16, np.int32, np.int64, np.float32, ">i4"]),
    data=st.data(),
)
def test_decode_undoes_encode(values: list[int], dtype, data: st.DataObject):
    encoding = make_encoding({f"label {value}": value for value in values})
    voxels = data.draw(st.lists(st.sampled_from([0, *values]), min_size=30, max_size=30))
    stored = np.array(voxels, dtype=dtype).reshape(2, 3, 5)
    indices = encode_label_map(stored, encoding)
    assert 0 <= indices.min() <= indices.max() <= len(values)
    np.testing.assert_array_equal(decode_label_map(indices, encoding), stored)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, 1, 7, 7], dtype=np.uint8), r"undeclared values: 7 in 2 voxels; declared are 0, 1, 2"),
        (np.array([0, -1, 1], dtype=np.int16), "undeclared values: -1 in 1 voxels"),
        (np.array([0, 70000], dtype=np.int32), "undeclared values: 70000 in 1 voxels"),
        (np.array([0, 0.5, 1, 1.5]), "not whole numbers: 0.5, 1.5"),
        (np.array([0, np.nan]), "not whole numbers: nan"),
        (np.array([0, np.inf]), "undeclared values"),
    ],
)
def test_wrong_values_are_named(values: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        encode_label_map(values, make_encoding({"background": 0, "a": 1, "b": 2}))


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({"background": 0}, None, "no label besides the background"),
        ({"liver": 0, "tumour": 1}, None, "name the background 'background'"),
        ({"background": 0, "a": 1, "b": 1}, None, "'a' and 'b' both have the value 1"),
        ({"background": 0, "a": 1, "ignore": (2, 3)}, None, "'ignore' must be a single value"),
        ({"background": 0, "a": 1, "ignore": 1}, None, "'ignore' is also used"),
        ({"background": 0, "a": -1}, None, r"'a' has the value \[-1\]"),
        ({"background": 0, "a": 70000}, None, "expected 0 to 65535"),
        (BRATS, None, "need 'regions_class_order'"),
        (BRATS, (1, 2), "2 values for 3 regions"),
        (BRATS, (1, 2, 3), r"has the values \[3\], which no label has"),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels, order, message: str):
    with pytest.raises(DatasetError, match=message):
        make_encoding(labels, order)


def softmax(num_labels, ignore_value=None):
    return LabelEncoding(
        values=tuple(range(num_labels + 1)),
        ignore_value=ignore_value,
        activation="softmax",
        heads=tuple(
            Head(name=f"label {index}" if index else "background", indices=(index,), painted_index=index)
            for index in range(num_labels + 1)
        ),
    )


REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))


def test_few_voxels_are_all_kept():
    labels = np.full((5, 7, 11), -1, dtype=np.int16)
    labels[1:, 2:, 3:] = 0
    labels[2, 3, 4] = labels[4, 6, 10] = 1
    labels[3, 3, 5] = 3
    locations, annotated = draw_class_locations(labels, softmax(3), "a")
    assert annotated is None
    assert sorted(locations) == [1, 2, 3]
    assert locations[1].tolist() == [[2, 3, 4], [4, 6, 10]]
    assert locations[2].shape == (0, 3)
    assert locations[3].tolist() == [[3, 3, 5]]
    assert all(voxels.dtype == np.int32 for voxels in locations.values())


def test_regions_join_their_labels():
    labels = np.zeros((3, 5, 7), dtype=np.int16)
    labels[0, 1, 2] = 1
    labels[2, 4, 6] = 2
    locations, _ = draw_class_locations(labels, REGIONS, "a")
    assert locations[0].tolist() == [[0, 1, 2], [2, 4, 6]]
    assert locations[1].tolist() == [[2, 4, 6]]


def test_many_voxels_are_drawn_evenly_and_once():
    labels = np.zeros((21, 43, 57), dtype=np.int16)
    labels[3:20, 2:40, 5:55] = 1  # 32,300 voxels
    drawn = draw_class_locations(labels, softmax(1), "case é")[0][1]
    assert drawn.shape == (MAX_LOCATIONS, 3)
    assert len(np.unique(drawn, axis=0)) == MAX_LOCATIONS
    assert (labels[tuple(drawn.T)] == 1).all()
    np.testing.assert_allclose(drawn.mean(axis=0), [11, 20.5, 29.5], atol=0.5)
    per_plane = np.bincount(drawn[:, 0], minlength=21)[3:20]
    np.testing.assert_allclose(per_plane / MAX_LOCATIONS, 1 / 17, atol=0.012)


def test_the_draw_depends_on_the_case_alone():
    labels = np.ones((30, 30, 30), dtype=np.int16)
    first = draw_class_locations(labels, softmax(1), "a")[0][1]
    draw_class_locations(labels, softmax(1), "b")
    np.testing.assert_array_equal(draw_class_locations(labels, softmax(1), "a")[0][1], first)
    assert not np.array_equal(draw_class_locations(labels, softmax(1), "b")[0][1], first)


def test_annotated_leaves_out_the_ignore_label_only():
    labels = np.full((2, 3, 5), 2, dtype=np.int16)
    labels[0, 0, :3] = [-1, 0, 1]
    locations, annotated = draw_class_locations(labels, softmax(1, ignore_value=255), "a")
    assert annotated is not None
    assert annotated.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    assert locations[1].tolist() == [[0, 0, 2]]


def test_a_region_with_the_background_is_found():
    encoding = make_encoding({"background": 0, "all": (0, 1)}, (1,))
    labels = np.array([-1, 0, 1], dtype=np.int16).reshape(1, 1, 3)
    assert draw_class_locations(labels, encoding, "a")[0][0].tolist() == [[0, 0, 1], [0, 0, 2]]


def test_boxes_and_heads():
    labels = np.zeros((3, 5, 7), dtype=np.int16)
    labels[1, 2:4, 3] = 2
    assert label_boxes(labels, softmax(2)) == [None, (slice(1, 2), slice(2, 4), slice(3, 4))]
    assert [index for index, _ in foreground_heads(softmax(2))] == [1, 2]
    assert [index for index, _ in foreground_heads(REGIONS)] == [0, 1]


@pytest.mark.parametrize("num_voxels", [MAX_LOCATIONS, MAX_LOCATIONS + 1])
def test_the_cap(num_voxels):
    labels = np.zeros((3, 50, 100), dtype=np.int16)
    labels.reshape(-1)[:num_voxels] = 1
    assert len(draw_class_locations(labels, softmax(1), "a")[0][1]) == MAX_LOCATIONS
