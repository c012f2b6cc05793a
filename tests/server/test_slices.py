"""Slices for the browser: the right voxels, upright, within the window, with contours in the labels' colours."""

import io

import numpy as np
import pytest
from PIL import Image

from autoseg.imaging.formats.reading import read_image, volume_from_array
from autoseg.inference.models.label_colors import LabelColor
from autoseg.server.slices import draw_png, find_best_slices, read_slice_facts, write_slices
from tests.builders import write_nifti

SHAPE, SPACING = (5, 8, 12), (2.0, 1.0, 1.0)
RED = LabelColor(300, "tumour", (255, 0, 0))


@pytest.fixture
def written(tmp_path):
    """An image with a bright corner (top slice, anterior, right) and a label beside it."""
    image = np.zeros(SHAPE, dtype=np.float32)
    image[4, 0, 0] = 100
    labels = np.zeros(SHAPE, dtype=np.uint16)
    labels[2, 3:7, 4:9] = 300
    write_slices(volume_from_array(image, SPACING), labels, (0.0, 100.0), tmp_path)
    return tmp_path


def as_pixels(content):
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    return np.asarray(picture)


def test_facts(written):
    facts = read_slice_facts(written)
    assert (facts.shape, facts.spacing, facts.axis) == (SHAPE, SPACING, 0)
    assert facts.best == (2, 3, 4)


@pytest.mark.parametrize(("axis", "index", "rows_over_columns"), [(0, 4, 8 / 12), (1, 0, 10 / 12), (2, 0, 10 / 8)])
def test_the_bright_corner_is_where_it_belongs(written, axis, index, rows_over_columns):
    pixels = as_pixels(draw_png(written, axis, index, [RED]))
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(rows_over_columns, rel=0.02)
    assert pixels[2, 2, 0] > 200  # superior and anterior are up, right is on the left
    assert pixels[-3:, -3:].max() == 0


def test_labels_are_outlined_in_their_colour_or_left_out(written):
    pixels = as_pixels(draw_png(written, 0, 2, [RED]))
    scale = pixels.shape[1] / 12
    inside = pixels[round(5 * scale), round(6.5 * scale)]
    edge = pixels[round(5 * scale), round(4 * scale)]
    assert tuple(edge) == (255, 0, 0)
    assert 0 < inside[0] < 255
    assert as_pixels(draw_png(written, 0, 2, [RED], outlined=False)).max() == 0


def test_stored_axes_do_not_matter(tmp_path):
    """A file towards left, posterior, superior, and the same in another order of axes."""
    rng = np.random.default_rng(0)
    image, labels = rng.normal(size=SHAPE).astype(np.float32), rng.integers(0, 2, SHAPE).astype(np.uint16) * 300
    path = write_nifti(image, tmp_path / "a.nii.gz", SPACING)
    pictures = []
    for name, turn in (("first", lambda array: array), ("second", lambda array: array[::-1, :, ::-1].copy())):
        folder = tmp_path / name
        folder.mkdir()
        volume = read_image([path])
        if name == "second":
            flipped = np.array(volume.grid.affine)
            offset = np.array([SHAPE[0] - 1, 0, SHAPE[2] - 1, 1.0])
            flipped[:3, 3] = (flipped @ offset)[:3]
            flipped[:, [0, 2]] *= -1
            volume = volume_from_array(turn(volume.array[0]), SPACING, flipped)
        write_slices(volume, turn(labels), None, folder)
        pictures.append(draw_png(folder, 1, 3, [RED]))
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(("axis", "index"), [(0, 5), (0, -1), (3, 0), (-1, 0)])
def test_there_is_no_such_slice(written, axis, index):
    with pytest.raises(IndexError, match="there is no slice"):
        draw_png(written, axis, index, [RED])


def test_without_labels_the_middle_is_shown(tmp_path):
    assert find_best_slices(np.zeros((5, 8, 12), dtype=np.uint8)) == (2, 4, 6)
    with pytest.raises(FileNotFoundError):
        read_slice_facts(tmp_path)
