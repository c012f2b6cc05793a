"""The number of channels and of voxels of an image file, from its header alone.

Tested in tests/imaging/formats/test_channels.py.
"""

import math
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.itk import silent
from autoseg.imaging.formats.reading import data_files
from autoseg.imaging.formats.volume import ITK_ENDINGS, PICTURE_ENDINGS, split_ending
from autoseg.records.files import describe_special

if TYPE_CHECKING:
    import SimpleITK

MAX_EXPANSION = 1032
"""Voxels that one byte of a file can hold at most: those of a deflate stream of bytes (RFC 1951)."""

UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zlib.error, nibabel.filebasedimages.ImageFileError)
"""Errors of the libraries where a header cannot be read."""

_GREY_BANDS = ("1", "L", "I", "F")


def count_channels(path: Path) -> int | None:
    """Channels that reading a file gives; None where its header cannot be read, which reading the file explains."""
    ending = split_ending(path.name)[1]
    try:
        if ending in PICTURE_ENDINGS:
            return _count_in_picture(path)
        return _count_in_itk(path) if ending in ITK_ENDINGS else _count_in_nifti(path)
    except UNREADABLE:
        return None


def count_voxels(path: Path) -> int:
    """Voxels of an image or label map, channels not counted; 0 where its header cannot be read.

    A header that promises more than its file can hold is not believed; reading the file refuses it.
    """
    if describe_special(path):
        return 0
    ending = split_ending(path.name)[1]
    try:
        if ending in PICTURE_ENDINGS:
            shape = _picture_shape(path)
        else:
            shape = _itk_header(path).GetSize() if ending in ITK_ENDINGS else nibabel.load(path).header.get_data_shape()
        return min(math.prod(map(int, shape[:3])), _file_bytes(path) * MAX_EXPANSION)
    except (ImageFileError, *UNREADABLE):
        return 0


def _file_bytes(path: Path) -> int:
    """Bytes of a file and of those that its header names."""
    return sum(file.stat().st_size for file in data_files(path))


def _picture_shape(path: Path) -> tuple[int, int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as picture:
            return picture.width, picture.height, int(getattr(picture, "n_frames", 1))


def _count_in_picture(path: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the file says what is odd about it
        with Image.open(path) as picture:
            bands = picture.getbands()
    return 1 if bands[0] in _GREY_BANDS else 3


def _count_in_nifti(path: Path) -> int:
    header = nibabel.load(path).header
    colours: tuple[str, ...] | None = header.get_data_dtype().names
    further: tuple[int, ...] = header.get_data_shape()[3:]
    return min(3, len(colours)) if colours else math.prod(further)


def _count_in_itk(path: Path) -> int:
    header = _itk_header(path)
    further: tuple[int, ...] = header.GetSize()[3:]
    return int(header.GetNumberOfComponents()) * math.prod(further)


def _itk_header(path: Path) -> "SimpleITK.ImageFileReader":
    import SimpleITK  # slow to import, and many datasets have only NIfTI files

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    with silent():
        reader.ReadImageInformation()
    return reader
