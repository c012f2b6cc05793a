"""Which slice is shown, which part of it, and which range of intensities."""

import numpy as np
import pytest

from autoseg.imaging.arrays.display import (
    box_around,
    choose_window,
    describe_slice,
    display_image,
    through_plane_axis,
)
from autoseg.records.network import NormalizationSpec
from tests.builders import make_plan


def make_ct_plan(**changes):
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    configuration = plan.configurations["3d_fullres"].model_copy(
        update={"normalization": (NormalizationSpec(scheme="ct", std=30.0, **changes),)}
    )
    return plan.model_copy(update={"configurations": {"3d_fullres": configuration}})


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"mean": 100.0, "lower": -20.0, "upper": 220.0}, (-100.0, 300.0)),  # liver
        ({"mean": 400.0, "lower": 90.0, "upper": 1500.0}, (90.0, 1500.0)),  # bone
        ({"mean": -700.0, "lower": -1000.0, "upper": -100.0}, (-1000.0, -100.0)),  # lung
        ({"mean": 0.4, "lower": 0.1, "upper": 0.9}, None),  # not in Hounsfield units
    ],
)
def test_ct_has_a_window_around_its_labels(changes, window):
    assert choose_window(make_ct_plan(**changes)) == window


def test_other_channels_have_no_window():
    assert choose_window(make_plan({"3d_fullres": (1.0, 1.0, 1.0)})) is None
    assert choose_window(make_plan()) is None
    assert choose_window(None) is None


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((30, 40, 50), (1.0, 1.0, 1.0), 0),
        ((30, 40, 50), (1.0, 1.05, 1.0), 0),
        ((30, 40, 50), (1.0, 5.0, 1.0), 1),
        ((30, 40, 50), (0.5, 0.5, 3.0), 2),
        ((1, 40, 50), (999.0, 1.0, 1.0), 0),
        ((30, 1, 50), (1.0, 1.0, 9.0), 1),
    ],
)
def test_slices_follow_each_other_along_the_thick_axis(shape, spacing, expected):
    assert through_plane_axis(shape, spacing) == expected


def test_colours_stay_as_they_are_and_other_channels_are_grey():
    image = np.zeros((3, 4, 6), dtype=np.float32)
    image[0], image[1, 0, 0] = 51.0, 255.0
    shown = display_image(image, in_colour=True)
    assert shown.shape == (4, 6, 3)
    np.testing.assert_allclose(shown[1, 1], (0.2, 0, 0))
    assert display_image(image, in_colour=False).shape == (4, 6)


def test_places_are_counted_from_one():
    assert describe_slice(1, 0, 7) == "coronal slice 1 of 7"
    assert describe_slice(0, 0, 1) == "slice"


def test_the_box_around_a_structure_has_a_margin():
    foreground = np.zeros((9, 40, 50), dtype=bool)
    foreground[2:5, 10:20, 30:38] = True
    box, middle = box_around(foreground)
    assert box == (slice(1, 6), slice(5, 25), slice(25, 43))
    assert middle == (3, 14, 33)


def test_without_foreground_the_box_is_everything():
    box, middle = box_around(np.zeros((4, 6, 8), dtype=bool))
    assert box == (slice(0, 4), slice(0, 6), slice(0, 8))
    assert middle == (2, 3, 4)
