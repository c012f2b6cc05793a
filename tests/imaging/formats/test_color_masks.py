"""Colour masks, with soft edges and JPEG's noise, against the mask that was drawn; Pillow and numpy make the files."""

import io

import numpy as np
import pytest
import SimpleITK
from PIL import Image, ImageFilter

from autoseg.errors import ColorMaskError, ImageFileError
from autoseg.imaging.formats.color_masks import SOFT_EDGES_NOTE, is_thin, main_colors
from autoseg.imaging.formats.reading import read_label_map
from autoseg.records.dataset import LabelReading, MaskColor

COLORS = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 128, 255): 2, (0, 200, 0): 300}
READING = LabelReading(colors=tuple(MaskColor(rgb=rgb, value=value) for rgb, value in COLORS.items()))


def disc(y: int, x: int, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:96, :120]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Colours (Y, X, 3), and label values (Y, X)."""
    values = np.zeros((96, 120), dtype=int)
    for place, value in [((30, 40, 15), 1), ((60, 80, 12), 2), ((45, 60, 9), 300), ((20, 90, 3), 1)]:
        values[disc(*place)] = value
    colors = np.zeros((96, 120, 3), dtype=np.uint8)
    for rgb, value in COLORS.items():
        colors[values == value] = rgb
    return colors, values


@pytest.mark.parametrize("name", ["m.png", "m.bmp", "m.tif", "rgba.png", "palette.png", "m.nrrd", "rgba.nrrd"])
def test_pixels_are_the_values_of_their_colours_in_every_format(tmp_path, name: str):
    colors, values = drawn()
    opaque = np.concatenate([colors, np.full((96, 120, 1), 7, np.uint8)], axis=2) if "rgba" in name else colors
    picture = Image.fromarray(opaque)
    if name.endswith(".nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(opaque[np.newaxis], isVector=True), str(tmp_path / name))
    else:
        (picture.quantize(8) if "palette" in name else picture).save(tmp_path / name)
    volume = read_label_map(tmp_path / name, READING)
    assert volume.array.shape == (1, 1, 96, 120)
    assert volume.array.dtype.kind in "ui"
    np.testing.assert_array_equal(volume.array[0, 0], values)
    assert SOFT_EDGES_NOTE not in volume.notes


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_noise_of_jpeg_is_the_nearest_declared_colour(tmp_path, quality: int):
    colors, values = drawn()
    Image.fromarray(colors).save(tmp_path / "m.jpg", quality=quality)
    found = read_label_map(tmp_path / "m.jpg", READING).array[0, 0]
    assert (found != values).mean() < 1e-3


@pytest.mark.parametrize("width", [0.5, 1, 2])
def test_soft_edges_are_the_nearest_declared_colour_with_a_note(tmp_path, width: float):
    colors, values = drawn()
    Image.fromarray(colors).filter(ImageFilter.GaussianBlur(width)).save(tmp_path / "m.png")
    volume = read_label_map(tmp_path / "m.png", READING)
    assert (volume.array[0, 0] != values).mean() < 5e-3
    assert volume.notes == (SOFT_EDGES_NOTE,)


@pytest.mark.parametrize("name", ["m.png", "m.jpg"])
@pytest.mark.parametrize("absent", [(255, 0, 0), (0, 200, 0)])
def test_areas_of_an_undeclared_colour_are_refused_with_it(tmp_path, name: str, absent):
    colors, values = drawn()
    Image.fromarray(colors).save(tmp_path / name)
    reading = LabelReading(colors=tuple(color for color in READING.colors if color.rgb != absent))
    with pytest.raises(ColorMaskError, match=rf"{name}: \d+ pixels have colours .* further than 48") as caught:
        read_label_map(tmp_path / name, reading)
    (found,) = [rgb for rgb in caught.value.colors if np.linalg.norm(np.subtract(rgb, absent)) < 12]
    assert caught.value.colors[found] == pytest.approx((values == COLORS[absent]).sum(), rel=0.25)


def test_a_small_area_of_an_undeclared_colour_is_refused(tmp_path):
    colors, _ = drawn()
    colors[disc(80, 20, 2.5)] = (200, 0, 200)
    Image.fromarray(colors).save(tmp_path / "m.png")
    with pytest.raises(ColorMaskError, match=r"\(200, 0, 200\) in 21\. Declare them"):
        read_label_map(tmp_path / "m.png", READING)


def test_main_colours_leave_noise_and_edges_out(tmp_path):
    colors, _ = drawn()
    stream = io.BytesIO()
    Image.fromarray(colors).save(stream, "JPEG", quality=75)
    found = main_colors(np.moveaxis(np.asarray(Image.open(stream)), -1, 0)[:, np.newaxis])
    assert len(found) == len(COLORS)
    for rgb, nearest in zip(COLORS, found, strict=True):
        assert np.linalg.norm(np.subtract(rgb, nearest)) < 12


def test_files_with_one_number_per_pixel_are_values_or_declared_greys(tmp_path):
    reading = LabelReading(colors=(MaskColor(rgb=(0, 0, 0), value=0), MaskColor(rgb=(255, 255, 255), value=1)))
    for values, expected in [([0, 1, 1], [0, 1, 1]), ([0, 255, 0], [0, 1, 0])]:
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / "m.png")
        np.testing.assert_array_equal(read_label_map(tmp_path / "m.png", reading).array[0, 0, 0], expected)
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ImageFileError, match="one number per pixel, 7 among them"):
        read_label_map(tmp_path / "m.png", reading)


def test_thin_masks():
    mask = np.zeros((1, 29, 11), dtype=bool)
    mask[0, 4, 1:10], mask[0, 1:28, 5] = True, True
    assert is_thin(mask)  # only the crossing, 1 of 35 pixels, has four neighbours
    mask[0, 2:7, 3:8] = True
    assert not is_thin(mask)
