"""Files that ITK reads: where their voxels are, channels, data files, and damage that is refused."""

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import (
    data_files,
    read_image,
    volume_from_simpleitk,
)
from autoseg.imaging.formats.volume import grid_difference
from tests.imaging.formats.small_images import INTENSITIES, RNG, itk_image


@pytest.mark.parametrize(
    ("name", "header", "expected"),
    [
        ("x.mhd", "NDims = 3\nElementDataFile = other name.raw\n", ["other name.raw"]),
        ("x.mhd", "NDims = 3\n\nElementDataFile=sub/v.zraw", ["sub/v.zraw"]),
        ("x.mhd", "ElementDataFile = LOCAL\nElementDataFile = no.raw\n", []),
        ("x.mhd", "ElementDataFile = LIST 2\ns2.raw\ns1.raw\n", ["s2.raw", "s1.raw"]),
        ("x.mhd", "ElementDataFile = s%d.raw 1 2 1\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\r\n# a comment\r\ndata file: other name.raw\r\n", ["other name.raw"]),
        ("x.nhdr", "NRRD0005\ndatafile: ./s%01d.raw 1 2 1 2\n\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\ndata file: LIST\ns1.raw\ns2.raw\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\ntype: uint8\n\ndata file: no.raw\n", []),
    ],
)
def test_headers_name_their_data_files(tmp_path, name: str, header: str, expected: list[str]):
    for neighbour in ("x.raw", "s1.raw", "s2.raw"):
        (tmp_path / neighbour).touch()
    (tmp_path / name).write_bytes(header.encode())
    assert data_files(tmp_path / name) == (tmp_path / name, *(tmp_path / file for file in expected))


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_data_files_are_those_that_itk_writes(tmp_path, ending: str):
    for compressed in (False, True):
        folder = tmp_path / str(compressed)
        folder.mkdir()
        image = SimpleITK.GetImageFromArray(INTENSITIES)
        SimpleITK.WriteImage(image, str(folder / f"x{ending}"), useCompression=compressed)
        assert sorted(data_files(folder / f"x{ending}")) == sorted(folder.iterdir())
    with pytest.raises(ImageFileError, match=r"gone.*cannot be read"):
        data_files(tmp_path / f"gone{ending}")


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_itk_formats_agree_with_itk_on_where_voxels_are(tmp_path, ending: str):
    image = itk_image(INTENSITIES.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / f"x{ending}"))
    volume = read_image([tmp_path / f"x{ending}"])
    np.testing.assert_array_equal(volume.array[0], INTENSITIES.transpose(2, 1, 0))
    assert volume.grid.spacing == (3.75, 0.5, 1.25)
    left, posterior, superior = image.TransformIndexToPhysicalPoint((10, 2, 3))
    np.testing.assert_allclose(
        np.array(volume.grid.affine) @ (3, 2, 10, 1), (-left, -posterior, superior, 1), atol=1e-9
    )


def test_itk_and_nifti_readers_agree_on_one_image(tmp_path):
    image = itk_image(INTENSITIES.transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nii.gz"))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    nifti, nrrd = read_image([tmp_path / "x.nii.gz"]), read_image([tmp_path / "x.nrrd"])
    assert grid_difference(nifti.grid, nrrd.grid) is None
    assert grid_difference(volume_from_simpleitk(image).grid, nrrd.grid) is None
    np.testing.assert_array_equal(nifti.array, nrrd.array)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vector_pixels_become_channels(tmp_path, ending: str):
    array = RNG.normal(size=(5, 7, 11, 2)).astype(np.float32)
    SimpleITK.WriteImage(itk_image(array, is_vector=True), str(tmp_path / f"x{ending}"))
    volume = read_image([tmp_path / f"x{ending}"])
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
    assert volume.grid.spacing == (3.75, 0.5, 1.25)


def test_4d_itk_image_becomes_channels(tmp_path):
    array = RNG.normal(size=(3, 5, 7, 11)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    image.SetSpacing((1.25, 0.5, 3.75, 2.0))
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    volume = read_image([tmp_path / "x.nrrd"])
    np.testing.assert_array_equal(volume.array, array)
    assert volume.grid.spacing == (3.75, 0.5, 1.25)


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd", ".gipl"])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_itk_files_are_refused(tmp_path, ending: str, compressed: bool):
    path = tmp_path / f"x{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(INTENSITIES), str(path), useCompression=compressed)
    largest = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: int(0.9 * largest.stat().st_size)])
    with pytest.raises(ImageFileError, match=rf"x\{ending}: .*truncated"):
        read_image([path])
