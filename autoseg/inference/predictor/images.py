"""What `Predictor.predict` takes for an image: files, image objects, arrays.

Tested in tests/stages/test_predictor.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import nibabel
import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.imaging.formats.reading import (
    Volume,
    read_image,
    volume_from_array,
    volume_from_nibabel,
    volume_from_simpleitk,
)
from autoseg.records.case import Affine, Spacing

if TYPE_CHECKING:
    import SimpleITK

Image: TypeAlias = (
    "Path | str | Sequence[Path | str] | nibabel.spatialimages.SpatialImage | SimpleITK.Image | NDArray[np.generic]"
)
"""One file, one file per channel, an image object, or an array (Z, Y, X) or (C, Z, Y, X)."""


def as_volume(image: Image, spacing: Spacing | None, affine: Affine | None) -> Volume:
    """Read files, or take over what an object holds; arguments as for `Predictor.predict`.

    Raises:
        ImageFileError: If a file cannot be read.
        UsageError: If spacing is missing, or given for something that knows its own.
    """
    if isinstance(image, np.ndarray):
        if spacing is None:
            raise UsageError("an array needs spacing=(z, y, x) in mm")
        return volume_from_array(image, spacing, affine)
    if spacing is not None or affine is not None:
        raise UsageError("spacing and affine belong to arrays; files and image objects have their own")
    if isinstance(image, nibabel.spatialimages.SpatialImage):
        return volume_from_nibabel(image)
    if isinstance(image, str | Path):
        return read_image([Path(image)])
    import SimpleITK  # slow to import, and files of other formats do without

    if isinstance(image, SimpleITK.Image):
        return volume_from_simpleitk(image)
    return read_image([Path(path) for path in image])
