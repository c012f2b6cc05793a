"""Masks that were blurred, resized or saved as JPEG, and label maps that were not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage, spatial

from autoseg.imaging.arrays.soft_masks import (
    are_grey_levels,
    describe_grey_levels,
    find_thin_values,
    suggest_grey_levels,
)

RNG = np.random.default_rng(0)


def draw_mask() -> Image.Image:
    picture = Image.new("L", (160, 120), 0)
    ImageDraw.Draw(picture).ellipse((30, 20, 110, 90), fill=255)
    return picture


def through_jpeg(quality: int) -> Image.Image:
    stream = io.BytesIO()
    draw_mask().save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def blurred_ball() -> np.ndarray:
    ball = ((np.indices((20, 28, 24)) - np.array([10, 14, 12])[:, None, None, None]) ** 2).sum(0) <= 16
    soft = np.asarray(ndimage.gaussian_filter(ball.astype(float), 1.2))
    return np.asarray(np.rint(255 * soft / soft.max()), dtype=np.uint8)


def parcellation(num_regions: int) -> np.ndarray:
    shape = (20, 40, 30)
    voxels = np.indices(shape).reshape(3, -1).T
    nearest = spatial.cKDTree(RNG.uniform(0, shape, (num_regions, 3))).query(voxels)[1]
    return np.asarray(nearest).reshape(shape) + 1


def vessels() -> Image.Image:
    picture = Image.new("L", (160, 120), 0)
    for value in range(1, 13):
        ImageDraw.Draw(picture).line([(10 * value, 5), (10 * value + 30, 60), (10 * value, 110)], fill=value, width=3)
    return picture


def as_volume(mask) -> np.ndarray:
    values = np.asarray(mask)
    return values if values.ndim == 3 else values[np.newaxis]


def count(values: np.ndarray) -> dict[int, int]:
    found, voxels = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), voxels.tolist(), strict=True))


@pytest.mark.parametrize(
    "mask",
    [
        *(through_jpeg(quality) for quality in (50, 75, 95)),
        draw_mask().resize((320, 240), Image.Resampling.BILINEAR),
        draw_mask().resize((207, 155), Image.Resampling.BILINEAR),
        draw_mask().resize((320, 240), Image.Resampling.BICUBIC),
        blurred_ball(),
    ],
)
def test_soft_and_noisy_masks_have_grey_levels(mask):
    values = as_volume(mask)
    assert are_grey_levels(count(values), find_thin_values(values))


@pytest.mark.parametrize("mask", [draw_mask(), parcellation(20), parcellation(200), vessels()])
def test_labels_are_no_grey_levels(mask):
    values = as_volume(mask)
    assert not are_grey_levels(count(values), find_thin_values(values))
    assert not suggest_grey_levels(count(values), find_thin_values(values))


def test_few_levels_are_suspected():
    values = as_volume(draw_mask().resize((80, 60), Image.Resampling.BOX))
    thin = find_thin_values(values)
    assert thin == set(np.unique(values).tolist()) - {0, 255}
    assert suggest_grey_levels(count(values), thin)
    assert not are_grey_levels(count(values), thin)


def test_thin_values_by_hand():
    values = np.zeros((1, 7, 9), dtype=np.uint16)
    values[0, 1:4, 1:4] = 300  # one of nine voxels has four equal neighbours
    values[0, 5, :] = 7
    values[0, 0, 8] = 2
    assert find_thin_values(values) == {2, 7}


def test_the_description_names_the_main_values_and_a_threshold():
    said = describe_grey_levels({0: 900, 255: 80, 3: 5, 120: 15}, {3, 120})
    assert "4 different values from 0 to 255, of which 2 lie only along edges" in said
    assert "0 and 255 hold 98.0 % of the voxels. Threshold the mask: --label-threshold 128" in said
