"""Files that ITK reads: where their voxels are, channels, data files, and damage that is refused."""

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import read_image, volume_from_simpleitk
from autoseg.imaging.formats.volume import grid_difference
from tests.imaging.formats.small_images import INTENSITIES, RNG, itk_image


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
