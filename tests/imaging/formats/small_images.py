"""An oblique image of unequal axes, and how to write it."""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

SHAPE_XYZ = (11, 7, 5)
AFFINE = np.array([[0, 0, 3.9, -20], [-1.25, 0, 0, 7], [0, 0.5, 0, 90], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)
INTENSITIES = RNG.normal(100, 50, SHAPE_XYZ).astype(np.float32)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def itk_image(array: np.ndarray, *, is_vector: bool = False) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing((1.25, 0.5, 3.75))
    image.SetOrigin((-20, 7, 90))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    return image
