"""The memory that an image takes, from its header alone: a small file may hold, or claim, far more than it weighs."""

import math
import warnings
from pathlib import Path

import nibabel
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.spatialimages import HeaderDataError
from PIL import Image, UnidentifiedImageError

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.imaging.formats.dicom.reading import list_series
from autoseg.imaging.formats.gzip_files import GZIP_DAMAGES
from autoseg.imaging.formats.reading import IMAGE_ENDINGS, is_series, split_ending
from autoseg.imaging.formats.volume import ITK_ENDINGS, NIFTI_ENDINGS
from autoseg.interop.archives import ZIP_ENDING, list_safely

VOXEL_BYTES = 4
"""Images are predicted in float32."""


def measure_image_bytes(path: Path) -> int:
    """Bytes of all voxels of all channels of an image as float32.

    Raises:
        ImageFileError: If the header cannot be read.
        InteropError: If a zip archive unpacks to far more than it has, or is damaged.
        UsageError: If the image is DICOM, and the extra `dicom` is not installed.
    """
    if is_series(path):
        return _measure_series(path)
    ending = split_ending(path.name)[1]
    try:
        if ending in NIFTI_ENDINGS:
            return VOXEL_BYTES * math.prod(int(size) for size in nibabel.load(path).shape)
        if ending in ITK_ENDINGS:
            return VOXEL_BYTES * _count_itk_numbers(path)
        if ending in IMAGE_ENDINGS:
            return VOXEL_BYTES * _count_picture_numbers(path)
    except (
        OSError, EOFError, ValueError, RuntimeError, TypeError, NibabelError, HeaderDataError, UnidentifiedImageError,
        Image.DecompressionBombError, *GZIP_DAMAGES,
    ) as error:  # fmt: skip
        raise ImageFileError(
            f"{path}: the header cannot be read ({_first_line(error)}); save the image again"
        ) from error
    raise ImageFileError(f"{path}: files ending in {ending or '(nothing)'} are not supported")


def _measure_series(path: Path) -> int:
    """Bytes of the largest image of a DICOM file or zip archive, or of the whole archive where that is more."""
    file = read_address(path).path
    unpacked = sum(list_safely(file).values()) if file.suffix.lower() == ZIP_ENDING else 0
    voxels = [sum(math.prod(frame.shape) * frame.channels for frame in stack.frames) for stack in list_series(path)]
    return max(unpacked, VOXEL_BYTES * max(voxels, default=0))


def _count_itk_numbers(path: Path) -> int:
    import SimpleITK  # slow to import, and other formats do without

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    numbers: int = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    return numbers


def _count_picture_numbers(path: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures, which the caller refuses, and of damaged tags
        return _count_opened(path)


def _count_opened(path: Path) -> int:
    with Image.open(path) as picture:
        return math.prod(picture.size) * len(picture.getbands()) * int(getattr(picture, "n_frames", 1))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
