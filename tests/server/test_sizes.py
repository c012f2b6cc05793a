"""Bytes of images from their headers, against shapes that were written."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.server.sizes import measure_image_bytes

SHAPE = (3, 5, 7)
VOLUME = 4 * 3 * 5 * 7


def write_nifti(path, shape, kind=np.uint8):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, dtype=kind), np.eye(4)), path)


def test_nifti_and_its_channels(tmp_path):
    write_nifti(tmp_path / "a.nii", SHAPE)
    write_nifti(tmp_path / "b.nii.gz", (*SHAPE, 2), np.float64)
    assert measure_image_bytes(tmp_path / "a.nii") == VOLUME
    assert measure_image_bytes(tmp_path / "b.nii.gz") == 2 * VOLUME


def test_itk_and_its_components(tmp_path):
    for name, is_vector, factor in (("a.nrrd", False, 1), ("b.mha", True, 3)):
        array = np.zeros((*SHAPE, 3) if is_vector else SHAPE, dtype=np.int16)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=is_vector), str(tmp_path / name))
        assert measure_image_bytes(tmp_path / name) == factor * VOLUME


def test_pictures_and_pages(tmp_path):
    Image.fromarray(np.zeros((5, 7, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros(SHAPE, dtype=np.uint16), photometric="minisblack")
    assert measure_image_bytes(tmp_path / "a.png") == 4 * 5 * 7 * 3
    assert measure_image_bytes(tmp_path / "b.tif") == VOLUME


def test_a_small_file_that_claims_to_be_huge(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.int16)
    path = tmp_path / "huge.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(10_000)))
    assert measure_image_bytes(path) == 4 * 30000**3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii.gz", b"\x1f\x8b" + bytes(30)),
        ("a.nii.gz", gzip.compress(b"no header", mtime=0)),
        ("a.nii", b"\x5c\x01\x00\x00"),
        ("a.nrrd", b"NRRD0004\ntype: nonsense\n\n"),
        ("a.mha", b"ObjectType = Image\n"),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.tif", b"II*\0\xff\xff\xff\xff"),
    ],
)
def test_a_damaged_header_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFileError, match="the header cannot be read"):
        measure_image_bytes(tmp_path / name)


def test_an_unknown_ending(tmp_path):
    with pytest.raises(ImageFileError, match="not supported"):
        measure_image_bytes(tmp_path / "a.exe")
