"""Touching objects made by code: cells in 2D images and lesions in volumes, with a number for each object.

Components of the label join what touches; the images show a darker seam, so that a network can tell objects apart.

Tested in tests/test_testing_touching.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoseg.records.files import replacing, write_text

MAX_TRIES: Final = 400
"""Positions that are tried for an object before it is left out."""

MIN_DISTANCE: Final = 0.8
"""Least distance of two centres, as a fraction of the sum of both radii: closer ones would hide each other."""

TOUCHING_DISTANCE: Final = 0.95
"""Distance of the centre of an object that is put beside another one, as that fraction."""

SEAM: Final = 0.45
"""Brightness that an object loses from its centre to its border."""


@dataclass(frozen=True)
class ObjectRecipe:
    """What a case is drawn from; axes (z, y, x), or (y, x)."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    """Voxel size in mm; ones for 2D images."""
    count: tuple[int, int]
    """Least and largest number of objects."""
    radius_mm: tuple[float, float]
    """Least and largest radius."""
    touching_fraction: float
    """Fraction of the objects that are put beside another one."""


CELLS: Final = ObjectRecipe((128, 144), (1.0, 1.0), (20, 28), (7.0, 12.0), touching_fraction=0.8)

LESIONS: Final = ObjectRecipe((24, 64, 56), (2.0, 1.0, 1.0), (5, 9), (5.0, 9.0), touching_fraction=0.5)


def make_touching_objects(recipe: ObjectRecipe, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Draw the image of one case, and the number of the object at each voxel.

    Objects are ellipsoids; a voxel within two of them belongs to the one whose centre is nearer, relative to its radii,
    so that touching objects share a border without a gap.

    Args:
        recipe: What is drawn.
        seed: Equal seeds give equal cases.

    Returns:
        Image and numbers, both of the recipe's shape; numbers are 1 to n, 0 is background.
    """
    generator = np.random.default_rng(seed)
    centres, radii = _place(recipe, generator)
    mm = np.stack(
        np.meshgrid(
            *(np.arange(edge) * size for edge, size in zip(recipe.shape, recipe.spacing, strict=True)), indexing="ij"
        )
    )
    nearest, ids = np.ones(recipe.shape), np.zeros(recipe.shape, dtype=np.uint16)
    for number, (centre, axes) in enumerate(zip(centres, radii, strict=True), start=1):
        along = (slice(None), *(None,) * len(recipe.shape))
        distance = np.sqrt((((mm - centre[along]) / axes[along]) ** 2).sum(axis=0))
        closer = distance < nearest
        nearest[closer], ids[closer] = distance[closer], number
    brightness = np.array([0.0, *generator.uniform(0.8, 1.2, len(centres))])[ids]
    phase = generator.uniform(0, np.pi)
    field = 0.15 * np.sin(mm[-1] / (recipe.shape[-1] * recipe.spacing[-1]) * np.pi + phase)
    image = 0.3 + brightness * (1 - SEAM * nearest**2) + field + generator.normal(0, 0.12, recipe.shape)
    return image.astype(np.float32), ids


def _place(recipe: ObjectRecipe, generator: np.random.Generator) -> tuple[list[NDArray[np.float64]], ...]:
    """Centres and radii in mm, none nearer to another one than MIN_DISTANCE."""
    size_mm = np.array(recipe.shape) * recipe.spacing
    centres: list[NDArray[np.float64]] = []
    radii: list[NDArray[np.float64]] = []
    for _ in range(int(generator.integers(recipe.count[0], recipe.count[1] + 1))):
        axes = generator.uniform(*recipe.radius_mm) * generator.uniform(0.85, 1.15, len(recipe.shape))
        for _ in range(MAX_TRIES):
            centre = generator.uniform(0.0, 1.0, len(recipe.shape)) * size_mm
            if centres and generator.random() < recipe.touching_fraction:
                beside = int(generator.integers(len(centres)))
                direction = generator.normal(size=len(recipe.shape))
                reach = TOUCHING_DISTANCE * (axes.mean() + radii[beside].mean())
                centre = centres[beside] + direction / np.linalg.norm(direction) * reach
            if _fits(centre, axes, centres, radii, size_mm):
                centres.append(centre)
                radii.append(axes)
                break
    return centres, radii


def _fits(
    centre: NDArray[np.float64],
    axes: NDArray[np.float64],
    centres: list[NDArray[np.float64]],
    radii: list[NDArray[np.float64]],
    size_mm: NDArray[np.float64],
) -> bool:
    """Whether an object lies within the image and not too near to another one."""
    inside = bool((centre >= 0.5 * axes).all() and (centre <= size_mm - 0.5 * axes).all())
    return inside and all(
        np.linalg.norm(centre - other) >= MIN_DISTANCE * (axes.mean() + others.mean())
        for other, others in zip(centres, radii, strict=True)
    )


def write_touching_dataset(
    folder: Path, recipe: ObjectRecipe, *, training: int = 24, held_out: int = 8, seed: int = 11
) -> None:
    """Write cases as folders imagesTr, labelsTr, imagesTs, labelsTs with dataset.json.

    Beside each label map CASE of the one label lies CASE_instances with the numbers of the objects. 2D images are PNG,
    volumes NIfTI.
    """
    ending = ".png" if len(recipe.shape) == len(("y", "x")) else ".nii.gz"
    for index in range(training + held_out):
        image, ids = make_touching_objects(recipe, seed * 1000 + index)
        part, case = "Tr" if index < training else "Ts", f"case_{index:03d}"
        labels = folder / f"labels{part}"
        intensities = np.clip(image * 120, 0, 255).astype(np.uint8)
        _write(intensities, recipe, folder / f"images{part}" / f"{case}_0000{ending}")
        _write((ids > 0).astype(np.uint8), recipe, labels / f"{case}{ending}")
        _write(ids, recipe, labels / f"{case}_instances{ending}")
    content = {
        "name": "Touching objects",
        "channel_names": {"0": "brightness"},
        "labels": {"background": 0, "object": 1},
        "numTraining": training,
        "file_ending": ending,
    }
    write_text(json.dumps(content, indent=1) + "\n", folder / "dataset.json")


def _write(voxels: NDArray[np.generic], recipe: ObjectRecipe, path: Path) -> None:
    with replacing(path) as temporary:
        if path.suffix == ".png":
            Image.fromarray(voxels).save(temporary, format="PNG")
        else:
            affine = np.diag((*recipe.spacing[::-1], 1.0))
            nibabel.nifti1.save(nibabel.nifti1.Nifti1Image(voxels.transpose(), affine), temporary)
