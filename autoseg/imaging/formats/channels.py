"""The number of channels of an image file, from its header alone.

Tested in tests/imaging/formats/test_channels.py.
"""

import math
import warnings
import zlib
from pathlib import Path

import nibabel
from PIL import Image

from autoseg.imaging.formats.itk import silent
from autoseg.imaging.formats.volume import ITK_ENDINGS, PICTURE_ENDINGS, split_ending

_GREY_BANDS = ("1", "L", "I", "F")


def count_channels(path: Path) -> int | None:
    """Channels that reading a file gives; None where its header cannot be read, which reading the file explains."""
    ending = split_ending(path.name)[1]
    try:
        if ending in PICTURE_ENDINGS:
            return _count_in_picture(path)
        return _count_in_itk(path) if ending in ITK_ENDINGS else _count_in_nifti(path)
    except (OSError, ValueError, EOFError, RuntimeError, zlib.error, nibabel.filebasedimages.ImageFileError):
        return None


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
    import SimpleITK  # slow to import, and many datasets have only NIfTI files

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    with silent():
        reader.ReadImageInformation()
    further: tuple[int, ...] = reader.GetSize()[3:]
    return int(reader.GetNumberOfComponents()) * math.prod(further)
