"""Images unlike the training images are told, and others are not."""

import numpy as np
import pytest

from autoseg.imaging.formats.volume import canonical_affine, make_grid
from autoseg.inference.predictor.training_range import (
    TrainingRange,
    intensity_ranges,
    read_training_range,
    summarize_training,
)
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NormalizationSpec

CT = TrainingRange(
    spacings=((2.0, 5.0), (0.6, 0.9), (0.6, 0.9)),
    fields_of_view=((200.0, 500.0), (300.0, 450.0), (300.0, 450.0)),
    lowest=((-2048.0, -1000.0),),
    highest=((1200.0, 3071.0),),
)
BY_CT, BY_ZSCORE = NormalizationSpec(scheme="ct", std=1.0), NormalizationSpec(scheme="zscore")


def departures(shape=(80, 512, 512), spacing=(4.0, 0.8, 0.8), intensities=((-1024.0, 2000.0),), spec=BY_CT):
    grid = make_grid(shape, spacing, canonical_affine(spacing))
    return CT.describe_deviations(grid, intensities, ("CT",), (spec,))


def test_an_ordinary_image_gives_no_warning():
    assert departures() == ()


@pytest.mark.parametrize("spacing", [(1.4, 0.8, 0.8), (7.4, 0.8, 0.8), (4.0, 0.41, 0.8), (4.0, 0.8, 1.34)])
def test_a_little_outside_the_spacings_is_fine(spacing):
    assert departures(spacing=spacing) == ()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((240, 512, 512), (1.2, 0.8, 0.8)), ((40, 512, 512), (8, 0.8, 0.8)),
                           ((80, 512, 1000), (4, 0.8, 0.35))],
)  # fmt: skip
def test_another_spacing_is_told_once(shape, spacing):
    (sentence,) = departures(shape=shape, spacing=spacing)
    assert sentence.startswith(f"the spacing {spacing[0]:g} x {spacing[1]:g} x {spacing[2]:g} mm (z, y, x) is unlike")
    assert sentence.endswith("2 to 5 x 0.6 to 0.9 x 0.6 to 0.9 mm")


@pytest.mark.parametrize(("slices", "told"), [(26, False), (24, True), (249, False), (260, True)])
def test_fields_of_view_beyond_a_factor_of_two(slices, told):
    found = departures(shape=(slices, 512, 512))
    assert len(found) == told
    if told:
        assert f"the field of view {4 * slices} x 409.6 x 409.6 mm" in found[0]


PICTURES = TrainingRange(
    spacings=((999.0, 999.0), (1.0, 1.0), (1.0, 1.0)),
    fields_of_view=((999.0, 999.0), (512.0, 512.0), (400.0, 600.0)),
    lowest=((0.0, 5.0),),
    highest=((250.0, 255.0),),
)


@pytest.mark.parametrize(
    ("shape", "spacing", "told"),
    [
        ((1, 512, 512), (999.0, 1.0, 1.0), []),
        ((7, 512, 512), (1.0, 1.0, 1.0), []),  # slices of a stack are predicted one by one
        ((1, 80, 96), (999.0, 1.0, 1.0),
         ["the field of view 80 x 96 pixels (y, x) is unlike that of the training images, 512 x 400 to 600 pixels"]),
        ((1, 512, 512), (299.7, 0.3, 0.3),
         ["the spacing 0.3 x 0.3 mm (y, x) is unlike that of the training images, 1 x 1 mm",
          "the field of view 153.6 x 153.6 mm (y, x) is unlike that of the training images, 512 x 400 to 600 mm"]),
    ],
)  # fmt: skip
def test_images_of_one_slice_have_no_length_across(shape, spacing, told):
    grid = make_grid(shape, spacing, canonical_affine(spacing))
    assert list(PICTURES.describe_deviations(grid, ((0.0, 255.0),), ("grey",), (BY_ZSCORE,))) == told


@pytest.mark.parametrize(
    ("intensities", "told"),
    [
        ((-1024.0, 2500.0), False),
        ((-3000.0, 3071.0), False),
        ((-1024.0, 8000.0), False),  # metal
        ((-500.0, 2500.0), False),  # air cut off: within a tenth of 5119 above -1000
        ((0.0, 4095.0), True),  # lost offset
        ((0.0, 1.0), True),
        ((-1024.0, 700.0), False),  # no bone: within a tenth of 5119 below 1200
        ((-1024.0, -200.0), True),  # nothing but air and fat
        ((-1024.0, 30000.0), True),
        ((-32768.0, 2500.0), True),
    ],
)
def test_units_and_offsets_of_ct(intensities, told):
    found = departures(intensities=(intensities,))
    assert len(found) == told
    if told:
        assert "CT from" in found[0]
        assert "training images from -2048 to 3071" in found[0]


def test_scaled_images_are_told_of_constant_channels_only():
    assert departures(intensities=((0.0, 60000.0),), spec=BY_ZSCORE) == ()
    (sentence,) = departures(intensities=((7.5, 7.5),), spec=BY_ZSCORE)
    assert sentence == "the image is empty: channel CT is 7.5 everywhere"


def test_one_line_per_kind():
    found = departures(shape=(4, 4, 4), spacing=(20.0, 20.0, 20.0), intensities=((5.0, 5.0),))
    assert [sentence.split()[1] for sentence in found] == ["spacing", "field", "image"]


def test_several_channels_share_a_line():
    two = TrainingRange(CT.spacings, CT.fields_of_view, CT.lowest * 2, CT.highest * 2)
    grid = make_grid((80, 512, 512), (4.0, 0.8, 0.8), canonical_affine((4.0, 0.8, 0.8)))
    (sentence,) = two.describe_deviations(grid, ((1.0, 1.0), (2.0, 2.0)), ("CT", "PET"), (BY_CT, BY_ZSCORE))
    assert "CT is 1 everywhere, PET is 2 everywhere" in sentence


def test_extremes_of_an_image():
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    assert intensity_ranges(image) == tuple((channel.min(), channel.max()) for channel in image)


def test_the_range_of_a_fingerprint(planned_phantoms):
    fingerprint = read_record(Fingerprint, planned_phantoms.fingerprint)
    assert read_training_range(planned_phantoms.fingerprint) == summarize_training(fingerprint)
    first, *others = fingerprint.cases
    changed = first.model_copy(
        update={"shape": (90, 80, 70), "cropped_shape": (20, 19, 18), "spacing": (3.0, 0.5, 0.7),
                "channel_ranges": ((-5000.0, 5000.0),)}
    )  # fmt: skip
    fingerprint = fingerprint.model_copy(update={"cases": (changed, *others)})
    found = summarize_training(fingerprint)
    for axis in range(3):
        spacings = [case.spacing[axis] for case in fingerprint.cases]
        fields = [case.spacing[axis] * case.shape[axis] for case in fingerprint.cases]
        assert found.spacings[axis] == (min(spacings), max(spacings))
        assert found.fields_of_view[axis] == pytest.approx((min(fields), max(fields)))
    lowest = [case.channel_ranges[0][0] for case in fingerprint.cases]
    highest = [case.channel_ranges[0][1] for case in fingerprint.cases]
    assert found.lowest[0] == (min(lowest), max(lowest))
    assert found.highest[0] == (min(highest), max(highest))
    assert read_training_range(planned_phantoms.root / "absent.json") is None
