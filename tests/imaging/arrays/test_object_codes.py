"""Codes of objects: label and object of every voxel in one number."""

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.arrays.object_codes import MAX_CODE, decode_labels, encode_objects

ENCODING = make_encoding({"background": 0, "cell": 5, "nucleus": 9})


def make_labels():
    labels = np.zeros((2, 5, 7), dtype=np.int16)
    labels[0, 0, :2] = 1
    labels[0, 1, 2] = 1  # touches it at a corner
    labels[1, 4, 4:] = 1
    labels[1, 0, 6] = 2
    return labels


def test_components_of_each_label_are_objects():
    codes = encode_objects(make_labels(), ENCODING, None)
    assert codes.dtype == np.int16
    assert codes[0, 0, 0] == codes[0, 1, 2] == 1 + 3 * 1
    assert codes[1, 4, 4] == codes[1, 4, 6] == 1 + 3 * 2
    assert codes[1, 0, 6] == 2 + 3 * 3
    assert np.array_equal(decode_labels(codes, ENCODING), make_labels())


def test_objects_with_numbers_are_those_of_the_numbers():
    labels, ids = make_labels(), np.zeros((2, 5, 7), dtype=np.uint32)
    ids[0, 0, 0], ids[0, 0, 1], ids[1, 4, 4:] = 70000, 4, 70000
    codes = encode_objects(labels, ENCODING, ids)
    assert codes[0, 0, 0] == codes[1, 4, 5] != codes[0, 0, 1]
    assert codes[0, 1, 2] == 0  # has no number, so it is no object
    assert codes[1, 0, 6] == 0
    assert set(np.unique(codes % 3)) == {0, 1}


def test_voxels_outside_the_mask_keep_their_mark():
    codes = np.array([[[-1, 0, 7]]], dtype=np.int16)
    assert decode_labels(codes, ENCODING).tolist() == [[[-1, 0, 1]]]


def test_more_objects_than_codes_are_refused():
    labels = np.zeros((1, 1, 2 * MAX_CODE), dtype=np.int16)
    labels[..., ::2] = 1
    with pytest.raises(DatasetError, match="more than 10921 objects"):
        encode_objects(labels, ENCODING, None)
