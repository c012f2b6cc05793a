"""Slices for the page: contours against areas worked out by hand, orientation, size."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from autoseg.report.charts.slices import (
    MAX_EDGE,
    NUM_LABEL_COLOURS,
    encode_image,
    make_slice,
    trace_labels,
    trace_mask,
)


def polygons(path):
    """Corners (x, y) of each closed contour."""
    return [
        np.array([[float(number) for number in corner.split(",")] for corner in part.split(" ")])
        for part in re.findall(r"M([^MZ]*)Z", path)
    ]


def area(corners):
    x, y = corners.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def test_a_contour_lies_where_its_pixels_are():
    mask = np.zeros((9, 14), dtype=bool)
    mask[2:6, 5:12] = True
    (corners,) = polygons(trace_mask(mask))
    np.testing.assert_allclose(corners.min(axis=0), (5, 2), atol=0.01)
    np.testing.assert_allclose(corners.max(axis=0), (12, 6), atol=0.01)
    # the rectangle without its four corner triangles of 1/8
    assert area(corners) == pytest.approx(4 * 7 - 4 / 8, abs=0.01)


def test_holes_parts_and_borders_are_traced():
    mask = np.zeros((12, 12), dtype=bool)
    mask[0:5, 0:5] = True
    mask[2, 2] = False
    mask[8:, 8:] = True
    assert len(polygons(trace_mask(mask))) == 3
    assert trace_mask(np.zeros((3, 4), dtype=bool)) == ""


def test_every_label_has_the_colour_of_its_index():
    labels = np.zeros((4, 40), dtype=np.int16)
    labels[1:3, 2:4], labels[1:3, 10:12], labels[1:3, 20:22] = 1, 3, NUM_LABEL_COLOURS + 1
    assert [outline.label for outline in trace_labels(labels)] == [0, 2, 0]


def test_pictures_are_small_and_keep_their_shape():
    image = np.random.default_rng(0).random((700, 350)).astype(np.float32)
    url = encode_image(image)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        assert picture.size == (MAX_EDGE // 2, MAX_EDGE)
    assert len(url) < 100_000


def test_a_slice_is_shown_in_millimetres():
    labels = np.zeros((10, 30), dtype=np.int16)
    shown = make_slice("a", "b", np.zeros((10, 30), dtype=np.float32), labels, None, pixel_aspect=2.5)
    assert (shown.width, shown.height) == (30, 10)
    assert shown.aspect == pytest.approx(30 / 25)
    assert shown.prediction == ()
