"""Faults that are made with numpy, and found again."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.metrics.label_faults import MapPair, explain_fault

ENCODING = make_encoding({"background": 0, "lung_left": 1, "lung_right": 2, "heart": 3})
NAMES = ("lung_left", "lung_right", "heart")
SPACING = (2.5, 0.8, 0.7)


def make_map():
    labels = np.zeros((14, 26, 31), dtype=np.int16)
    labels[3:10, 5:15, 4:11] = 1
    labels[3:11, 6:15, 18:26] = 2
    labels[4:8, 10:17, 12:17] = 3
    return labels


def explain(reference, prediction=None, *, encoding=ENCODING, names=NAMES, spacing=SPACING):
    prediction = make_map() if prediction is None else prediction
    return explain_fault(MapPair(reference, prediction, encoding, names, spacing))


def overlap(one, other, value):
    return 2 * ((one == value) & (other == value)).sum() / ((one == value).sum() + (other == value).sum())


def moved(labels, offsets):
    return np.roll(labels, offsets, axis=(0, 1, 2))  # nothing reaches the border


def grown(labels, plane):
    footprint = np.zeros((3, 3, 3), dtype=bool)
    footprint[1] = ndimage.generate_binary_structure(2, 1)
    footprint[:, 1, 1] = not plane
    return np.where(labels > 0, labels, ndimage.grey_dilation(labels, footprint=footprint))


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        (moved(make_map(), (2, -3, 4)), "shifted", "shifted by (2, -3, 4) voxels (z, y, x)"),
        (np.array([0, 2, 1, 3], dtype=np.int16)[make_map()], "swapped", "lung_left and lung_right are swapped, left"),
        (np.array([0, 1, 3, 2], dtype=np.int16)[make_map()], "swapped", "lung_right and heart are swapped:"),
        (make_map()[:, ::-1], "mirrored", "mirrored along y"),
        (np.where(make_map() == 3, 0, make_map()), "missing", "heart is missing in the reference: 140 voxels"),
        (grown(make_map(), plane=True), "larger", "larger all round, by about 1 voxel:"),
    ],
)
def test_each_fault_is_named(reference, kind, words):
    found = explain(reference)
    assert found is not None
    assert found.kind == kind
    assert words in found.words


@pytest.mark.parametrize("reference", [moved(make_map(), (1, 2, 0)), make_map()[::-1], make_map()[:, :, ::-1]])
def test_the_gain_is_the_dice_that_is_restored(reference):
    found = explain(reference)
    assert found is not None
    assert found.gain == pytest.approx(sum(1 - overlap(reference, make_map(), value) for value in (1, 2, 3)))


def test_a_label_map_that_is_too_small_and_one_that_has_too_much():
    found = explain(make_map(), grown(make_map(), plane=True))
    assert found is not None
    assert found.kind == "smaller"
    found = explain(make_map(), np.where(make_map() == 3, 0, make_map()))
    assert found is not None
    assert (found.kind, found.gain) == ("extra", 1.0)
    assert "heart that is not predicted: 140 voxels around (5, 13, 14) (z, y, x)" in found.words


def test_a_lesion_of_several_that_is_missing_has_its_place():
    lesions = np.zeros((9, 20, 30), dtype=np.int16)
    lesions[2:5, 3:9, 3:9] = 1
    lesions[5:8, 12:18, 20:26] = 1
    reference = np.where(np.arange(30) < 15, lesions, 0)
    encoding = make_encoding({"background": 0, "lesion": 1})
    found = explain(reference, lesions, encoding=encoding, names=("lesion",))
    assert found is not None
    assert found.words == (
        "a component of lesion is missing in the reference: 108 voxels around (6, 14, 22) (z, y, x) are predicted"
    )
    assert found.gain == pytest.approx(1 - 2 * 108 / 324)


def test_regions_and_ignored_voxels():
    encoding = make_encoding({"background": 0, "whole": (1, 2), "core": 2, "ignore": 9}, (1, 2))
    prediction = np.zeros((1, 24, 30), dtype=np.int16)
    prediction[0, 4:16, 6:20] = 1
    prediction[0, 8:12, 10:15] = 2
    reference = np.roll(prediction, (3, -2), axis=(1, 2))
    reference[0, 20:] = 3  # ignored
    found = explain(reference, prediction, encoding=encoding, names=("whole", "core"), spacing=(1.0, 1.0, 1.0))
    assert found is not None
    assert found.words.startswith("the reference is shifted by (0, 3, -2) voxels")


def test_what_agrees_or_is_empty_has_no_fault():
    empty = np.zeros((4, 5, 6), dtype=np.int16)
    assert explain(make_map()) is None
    assert explain(empty, empty) is None
    assert explain(empty, np.ones_like(empty), names=("heart",)) is None
