"""Overlays and contact sheets: which pixels have which colours, how large slices are; files are read with Pillow."""

from itertools import product

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.imaging.formats.reading import Volume, read_image, volume_from_array
from autoseg.inference.files.overlays import CELL_EDGE, MIN_PICTURE_EDGE, TINT, draw_overlay, write_overlay
from autoseg.inference.models.label_colors import LabelColor

NAMES = (LabelColor(1, "liver", (255, 0, 0)), LabelColor(7, "tumour", (0, 255, 0)))


def picture(height: int, width: int, channels: int = 1) -> Volume:
    return volume_from_array(np.full((channels, 1, height, width), 100, np.float32), (999.0, 1.0, 1.0), ending=".png")


def test_labels_of_a_picture_are_tinted_and_outlined_in_their_colours(tmp_path):
    volume = picture(600, 500, channels=3)
    labels = np.zeros((1, 600, 500), np.uint8)
    labels[0, 100:200, 300:400] = 1
    labels[0, 400:500, 50:150] = 7
    write_overlay(volume, labels, NAMES, None, tmp_path / "o.png")
    with Image.open(tmp_path / "o.png") as file:
        shown = np.asarray(file)
    assert shown.shape == (600 + 20, 500, 3)  # with one line of the legend
    assert tuple(shown[0, 0]) == (100, 100, 100)
    np.testing.assert_allclose(shown[150, 350], [255 * TINT + 100 * (1 - TINT), *[100 * (1 - TINT)] * 2], atol=1)
    assert tuple(shown[100, 350]) == tuple(shown[199, 350]) == tuple(shown[150, 399]) == (255, 0, 0)
    assert tuple(shown[499, 60]) == (0, 255, 0)
    assert {(255, 0, 0), (0, 255, 0)} <= {tuple(pixel) for pixel in shown[600:].reshape(-1, 3).tolist()}


def test_small_pictures_are_enlarged():
    overlay = draw_overlay(picture(40, 60), np.zeros((1, 40, 60), np.uint8), NAMES, None)
    assert overlay.size == (MIN_PICTURE_EDGE, MIN_PICTURE_EDGE * 40 // 60 + 20)


@pytest.mark.parametrize(
    ("spacing", "size"),
    [
        ((5.0, 1.0, 2.0), (CELL_EDGE, round(CELL_EDGE * 40 / 54))),
        ((5.0, 3.0, 1.0), (round(CELL_EDGE * 27 / 120), CELL_EDGE)),
    ],
)
def test_slices_of_a_volume_have_the_aspect_of_their_spacing(spacing, size):
    """Without labels, the middle slice is shown as a whole: 40 x 27 pixels of 1 x 2 or 3 x 1 mm."""
    volume = volume_from_array(np.random.default_rng(0).normal(size=(1, 6, 40, 27)), spacing)
    assert draw_overlay(volume, np.zeros((6, 40, 27), np.uint8), NAMES, None).size == (size[0], size[1] + 20)


def test_a_sheet_shows_slices_through_the_labels():
    """A block in slices 10 to 21 of 30: nine slices of those, all with the label; the window decides the greys."""
    image = np.full((1, 30, 64, 64), 40.0, np.float32)
    labels = np.zeros((30, 64, 64), np.uint8)
    labels[10:22, 20:40, 20:40] = 7
    sheet = draw_overlay(volume_from_array(image, (2.0, 1.0, 1.0)), labels, NAMES, (-160.0, 240.0))
    shown = np.asarray(sheet)
    assert sheet.width == 3 * CELL_EDGE + 2 * 4
    starts = (0, CELL_EDGE + 4, 2 * (CELL_EDGE + 4))
    for row, column in product(starts, starts):
        cell = shown[row : row + CELL_EDGE, column : column + CELL_EDGE]
        assert (cell == (0, 255, 0)).all(axis=-1).sum() > 100
        assert tuple(cell[-5, -5]) == (128, 128, 128)  # 40 HU in the middle of the window


def test_superior_is_up_in_volumes_that_are_cut_from_the_side(tmp_path):
    """Sagittal slices of 4 mm: what is at the top of the patient is at the top, whatever the order of the file."""
    array = np.zeros((20, 30, 8), np.float32)
    array[-3:] = 100  # z towards superior
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((4.0, 1.0, 1.0))
    image = SimpleITK.DICOMOrient(image, "LPS")
    for order in ("LPS", "SPL", "AIR"):
        path = tmp_path / f"{order}.nii.gz"
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, order), str(path))
        volume = read_image([path])
        shown = np.asarray(draw_overlay(volume, np.zeros(volume.grid.shape, np.uint8), NAMES, (0.0, 100.0)))
        assert shown[:25].mean() > 200  # 3 of 20 rows, enlarged to 32 of 213
        assert shown[40:210].mean() < 50


def test_palettes_change_what_other_programs_read(tmp_path):
    """The reason why predicted label maps have none: ITK gives colours instead of label values."""
    values = np.array([[0, 1, 2, 7]], np.uint8)
    labelled = Image.fromarray(values)
    labelled.putpalette([0, 0, 0, 230, 159, 0, 86, 180, 233])
    labelled.save(tmp_path / "p.png")
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "p.png"))).shape == (1, 4, 3)
