"""Channels and voxels of files by their headers are those that reading them gives."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.imaging.formats.channels import MAX_EXPANSION, count_channels, count_voxels
from autoseg.imaging.formats.reading import read_image


def nifti(path: Path, *shape: int) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), path)


def itk(path: Path, *shape: int, vector: bool = False) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros(shape, np.float32), isVector=vector), str(path))


FILES = {
    "3d.nii.gz": (lambda path: nifti(path, 5, 4, 3), 1),
    "4d.nii": (lambda path: nifti(path, 5, 4, 3, 2), 2),
    "5d.nii.gz": (lambda path: nifti(path, 5, 4, 3, 1, 4), 4),
    "2d.nii.gz": (lambda path: nifti(path, 5, 4), 1),
    "3d.nrrd": (lambda path: itk(path, 3, 4, 5), 1),
    "vector.nrrd": (lambda path: itk(path, 3, 4, 5, 2, vector=True), 2),
    "4d.mha": (lambda path: itk(path, 2, 3, 4, 5), 2),
    "grey.png": (lambda path: Image.new("L", (5, 4)).save(path), 1),
    "deep.png": (lambda path: Image.new("I;16", (5, 4)).save(path), 1),
    "bit.tif": (lambda path: Image.new("1", (5, 4)).save(path), 1),
    "colour.jpg": (lambda path: Image.new("RGB", (5, 4)).save(path), 3),
    "alpha.png": (lambda path: Image.new("RGBA", (5, 4)).save(path), 3),
    "grey_alpha.png": (lambda path: Image.new("LA", (5, 4)).save(path), 1),
    "palette.png": (lambda path: Image.new("P", (5, 4)).save(path), 3),
}


@pytest.mark.parametrize("name", FILES)
def test_headers_and_voxels_agree(tmp_path, name):
    write, expected = FILES[name]
    write(tmp_path / name)
    array = read_image([tmp_path / name]).array
    assert count_channels(tmp_path / name) == expected == len(array)
    assert count_voxels(tmp_path / name) * expected == array.size


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd", "x.mha", "x.png", "x.tif", "x.hdr"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 400, b"nothing of this kind"])
def test_a_header_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert count_channels(tmp_path / name) is None
    assert count_channels(tmp_path / "absent" / name) is None
    assert count_voxels(tmp_path / name) == count_voxels(tmp_path / "absent" / name) == 0


def test_slices_of_a_stack_are_counted(tmp_path):
    pages = [Image.fromarray(np.full((4, 5), number, np.uint8)) for number in range(7)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    assert count_voxels(tmp_path / "x.tif") == 4 * 5 * 7


def test_a_header_cannot_promise_more_than_its_file_can_hold(tmp_path):
    nifti(tmp_path / "x.nii", 5, 4, 3)
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / "x.nii").write_bytes(content)
    assert count_voxels(tmp_path / "x.nii") == len(content) * MAX_EXPANSION


def test_a_fifo_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "x.nii.gz")
    assert count_voxels(tmp_path / "x.nii.gz") == 0
