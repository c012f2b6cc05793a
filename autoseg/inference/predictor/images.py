"""What `Predictor.predict` takes for an image: files, image objects, arrays; which of them a model refuses.

Tested in tests/stages/test_predictor.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import nibabel
import numpy as np
from numpy.typing import NDArray

from autoseg.errors import PredictionError, UsageError
from autoseg.imaging.arrays.absent_channels import fill_absent_channels
from autoseg.imaging.formats.reading import (
    Volume,
    read_image,
    read_label_map,
    volume_from_array,
    volume_from_nibabel,
    volume_from_simpleitk,
)
from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.case import Affine, Spacing

if TYPE_CHECKING:
    import SimpleITK

Files: TypeAlias = "Path | str | Sequence[Path | str | None]"
"""One file, or one per channel; None in the place of a channel that the image lacks, where images may lack some."""

Image: TypeAlias = "Files | nibabel.spatialimages.SpatialImage | SimpleITK.Image | NDArray[np.generic]"
"""Files, an image object, or an array (Z, Y, X) or (C, Z, Y, X), with zeros for a channel that the image lacks."""


LabelMap: TypeAlias = "Path | str | nibabel.spatialimages.SpatialImage | SimpleITK.Image | NDArray[np.generic]"
"""A file, an image object, or label values (Z, Y, X)."""


def as_label_map(labels: LabelMap) -> AnyArray:
    """Label values (Z, Y, X), axes in stored order, of a file or of what an object holds.

    Raises:
        ImageFileError: If a file cannot be read.
        UsageError: If an array does not have three axes.
    """
    if isinstance(labels, np.ndarray) and labels.ndim != 3:
        raise UsageError(f"a label map has three axes (z, y, x), not {labels.ndim}")
    if isinstance(labels, np.ndarray):
        return labels
    volume = read_label_map(Path(labels)) if isinstance(labels, str | Path) else as_volume(labels, None, None)
    values: AnyArray = volume.array[0]
    return values


def as_volume(image: Image, spacing: Spacing | None, affine: Affine | None) -> Volume:
    """Read files, or take over what an object holds; arguments as for `Predictor.predict`.

    Raises:
        ImageFileError: If a file cannot be read.
        UsageError: If spacing is missing, or given for something that knows its own; no file is given; or it is no
            image.
        ValueError: If an array and its spacing do not fit.
    """
    if isinstance(image, np.ndarray):
        if spacing is None:
            raise UsageError("an array needs spacing=(z, y, x) in mm")
        return volume_from_array(image, spacing, affine)
    if spacing is not None or affine is not None:
        raise UsageError(
            "spacing and affine belong to arrays of numpy; files and image objects have their own, found "
            f"{type(image).__name__}"
        )
    if isinstance(image, nibabel.spatialimages.SpatialImage):
        return volume_from_nibabel(image)
    if isinstance(image, str | Path):
        return read_image([Path(image)])
    if isinstance(image, Sequence):
        return _read_channels(image)
    import SimpleITK  # slow to import, and files of other formats do without

    if isinstance(image, SimpleITK.Image):
        return volume_from_simpleitk(image)
    raise UsageError(
        "an image is a file, a list with a file for each channel, an image of nibabel or SimpleITK, or an array of "
        f"numpy with its spacing; found {type(image).__name__}"
    )


def _read_channels(files: Sequence[Path | str | None]) -> Volume:
    """One file for each channel; None where the image lacks it."""
    given = [Path(path) for path in files if path is not None]
    if not given:
        raise UsageError("an image needs the file of one channel at least, found none")
    volume = read_image(given)
    absent = tuple(number for number, path in enumerate(files) if path is None)
    return replace(volume, array=fill_absent_channels(volume.array, absent))


def refuse_constant(image: NDArray[np.float32]) -> None:
    """Refuse an image (C, Z, Y, X) in which there is nothing to label.

    Raises:
        PredictionError: If each of its channels has one value.
    """
    if all(channel.min() == channel.max() for channel in image):
        raise PredictionError(
            f"the image is constant, every voxel is {image.flat[0]:g}: there is nothing to label in it"
        )


def check_image(volume: Volume, case: str, channel_names: Sequence[str]) -> None:
    """Refuse an image that the model cannot predict.

    Args:
        volume: The image.
        case: Case id for messages, if the image does not come from a file.
        channel_names: The channels that the model expects.

    Raises:
        PredictionError: If the number of channels differs from the model's, or voxels are NaN or infinite.
    """
    if len(volume.array) != len(channel_names):
        raise PredictionError(
            f"{volume.path or case}: has {len(volume.array)} channel(s), the model expects {len(channel_names)}: "
            f"{', '.join(channel_names)}. Give one file with that many channels, or one file per channel."
        )
    undefined = sum(  # plane by plane: the mask takes a byte per voxel
        int(np.count_nonzero(~np.isfinite(plane))) for channel in volume.array for plane in channel
    )
    if undefined:
        raise PredictionError(
            f"{volume.path or case}: {undefined} voxels are NaN or infinite; replace them in the image"
        )
