"""TIFF files of several pages as volumes; tifffile writes them."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import read_image, read_label_map, stored_ending
from autoseg.imaging.formats.tiff_stacks import NO_DEPTH_NOTE, NO_SIZE_NOTE, has_pages
from tests.imaging.formats.small_images import RNG

SHAPE = (5, 7, 11)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_stack_of_imagej_is_a_volume_with_its_voxel_size(tmp_path, dtype):
    voxels = RNG.integers(0, 200, SHAPE).astype(dtype)
    metadata = {"spacing": 3.0, "unit": "um", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "a.tif", voxels, imagej=True, resolution=(1 / 0.5, 1 / 0.25), metadata=metadata)
    volume = read_image([tmp_path / "a.tif"])
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.grid.spacing == pytest.approx((3e-3, 0.25e-3, 0.5e-3))
    assert volume.notes == ()
    assert volume.has_voxel_size
    assert has_pages(tmp_path / "a.tif")
    assert stored_ending(tmp_path / "a.tif") == ".nii.gz"


@pytest.mark.parametrize(
    ("unit", "millimetres"),
    [("mm", 1.0), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("cm", 10.0), ("inch", 25.4)],
)
def test_units_of_imagej(tmp_path, unit: str, millimetres: float):
    metadata = {"spacing": 2.0, "unit": unit, "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8), imagej=True, resolution=(2, 4), metadata=metadata)
    assert read_image([tmp_path / "a.tif"]).grid.spacing == pytest.approx(
        (2 * millimetres, millimetres / 4, millimetres / 2)
    )


def test_a_stack_of_ome_is_a_volume_with_its_voxel_size(tmp_path):
    voxels = RNG.integers(0, 200, SHAPE).astype(np.uint8)
    metadata = {
        "axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 2.0,
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", voxels, ome=True, metadata=metadata)
    volume = read_image([tmp_path / "a.ome.tif"])
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.grid.spacing == pytest.approx((2e-3, 0.25e-3, 0.5e-3))


def test_a_stack_without_voxel_size_has_cubes_and_says_so(tmp_path):
    voxels = RNG.integers(0, 3, SHAPE).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", metadata=None)
    volume = read_label_map(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[0], voxels)
    assert volume.grid.spacing == (1.0, 1.0, 1.0)
    assert volume.notes == (NO_SIZE_NOTE,)
    assert not volume.has_voxel_size
    other = read_image([tmp_path / "a.tif"]).grid.model_copy(update={"spacing": (3.0, 2.0, 2.0)})
    assert volume.with_size_of(other).grid == other


def test_a_missing_distance_of_slices_is_said(tmp_path):
    metadata = {"unit": "um", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8), imagej=True, resolution=(2, 2), metadata=metadata)
    volume = read_image([tmp_path / "a.tif"])
    assert volume.grid.spacing == pytest.approx((1e-3, 0.5e-3, 0.5e-3))
    assert volume.notes == (NO_DEPTH_NOTE,)


def test_colour_pages_are_channels(tmp_path):
    voxels = RNG.integers(0, 200, (*SHAPE, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="rgb")
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array, voxels.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("axes", ["TYX", "CYX", "TZCYX"])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_times_and_channels_are_refused(tmp_path, axes: str, kind: str):
    shape = (2,) * (len(axes) - 2) + SHAPE[1:]
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="minisblack", metadata={"axes": axes},
        imagej=kind == "imagej", ome=kind == "ome",
    )  # fmt: skip
    with pytest.raises(ImageFileError, match=r"its pages are \d channel\(s\) and \d time\(s\), expected the slices"):
        read_image([tmp_path / "a.tif"])


def test_pages_that_differ_are_refused(tmp_path):
    pages = [Image.new("L", (11, 7)), Image.new("L", (5, 3))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageFileError, match=r"page 2 has 5 x 3 pixels, .*the first one 11 x 7 pixels"):
        read_image([tmp_path / "a.tif"])


def test_missing_pages_are_refused(tmp_path):
    """As ImageJ saves stacks beyond 4 GB: the description counts more images than the file lists."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE[1:], np.uint8), description="ImageJ=1.53\nimages=5\nslices=5\n")
    with pytest.raises(ImageFileError, match=r"counts 5 images, but the file lists 1 page"):
        read_image([tmp_path / "a.tif"])


def test_other_files_have_no_pages(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no TIFF")
    Image.new("L", (11, 7)).save(tmp_path / "b.tif")
    assert [has_pages(tmp_path / name) for name in ("a.tif", "b.tif", "c.tif", "d.nii.gz")] == [False] * 4
    assert stored_ending(tmp_path / "b.tif") == ".tif"
