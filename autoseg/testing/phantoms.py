"""Phantom volumes made by code: small, quick to write, and with structures that a network can learn.

Tested in tests/test_testing.py and tests/pipeline/test_phantom_run.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from autoseg.records.case import Spacing
from autoseg.records.files import replacing, write_text


@dataclass(frozen=True)
class PhantomCase:
    """One made-up volume, axes (z, y, x), and where its voxels are."""

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    spacing: Spacing


PHANTOM_LABELS = {"background": 0, "body": 1, "core": 2, "rod": 3}


def make_phantom_case(seed: int) -> PhantomCase:
    """Draw a volume with three structures: an ellipsoid, a smaller one inside it, and an oblique rod beside it.

    Slices are thick (about 2.4 mm against 1 mm in plane), shapes differ from case to case, and the image carries
    noise and a smooth brightness field, so that neither intensity nor place alone gives a structure away.
    """
    generator = np.random.default_rng(seed)
    spacing = (float(generator.uniform(2.2, 2.6)), 1.0, 1.0)
    shape = (int(generator.integers(16, 21)), int(generator.integers(44, 53)), int(generator.integers(38, 47)))
    mm = np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    size_mm = np.array(shape) * spacing

    centre = size_mm * generator.uniform((0.45, 0.55, 0.4), (0.55, 0.65, 0.5))
    radii = size_mm * generator.uniform((0.26, 0.2, 0.2), (0.34, 0.27, 0.26))
    body = _ellipsoid(mm, centre, radii)
    core = _ellipsoid(mm, centre + radii * generator.uniform(-0.2, 0.2, 3), radii * generator.uniform(0.45, 0.6))
    start = size_mm * (0.1, 0.16, generator.uniform(0.6, 0.7))
    stop = size_mm * (0.9, 0.22, generator.uniform(0.8, 0.9))
    rod = _rod(mm, start, stop, radius_mm=float(generator.uniform(4.0, 5.0)))

    labels = np.zeros(shape, dtype=np.uint8)
    for value, mask in enumerate((body, core & body, rod & ~body), start=1):
        labels[mask] = value
    levels = np.array([0.0, 1.2, 2.6, 1.7]) + generator.normal(0, 0.1, 4)
    field = 0.3 * np.sin(mm[1] / size_mm[1] * np.pi + generator.uniform(0, np.pi)) + 0.2 * mm[2] / size_mm[2]
    image = 100.0 * (1.0 + levels[labels] + field + generator.normal(0, 0.25, shape))
    return PhantomCase(image=image.astype(np.float32), labels=labels, spacing=spacing)


def _ellipsoid(
    mm: Sequence[NDArray[np.float64]], centre: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(mm, centre, radii, strict=True))
    return np.asarray(distance <= 1.0)


def _rod(
    mm: Sequence[NDArray[np.float64]], start: NDArray[np.float64], stop: NDArray[np.float64], radius_mm: float
) -> NDArray[np.bool_]:
    """Voxels within a radius of the segment from `start` to `stop`."""
    points = np.stack(mm, axis=-1) - start
    direction = stop - start
    along = np.clip(points @ direction / (direction @ direction), 0.0, 1.0)
    return np.asarray(np.linalg.norm(points - along[..., None] * direction, axis=-1) <= radius_mm)


def write_phantom_dataset(folder: Path, *, training: int = 20, held_out: int = 5, seed: int = 7) -> None:
    """Write phantoms as an nnU-Net-style dataset: imagesTr, labelsTr, dataset.json; and imagesTs, labelsTs.

    Every third volume is stored with its first two file axes reversed, so that orientation matters.
    """
    for index in range(training + held_out):
        case = make_phantom_case(seed * 1000 + index)
        part = "Tr" if index < training else "Ts"
        name = f"phantom_{index:03d}"
        reverse = index % 3 == 2
        _write_nifti(case.image, case.spacing, reverse, folder / f"images{part}" / f"{name}_0000.nii.gz")
        _write_nifti(case.labels, case.spacing, reverse, folder / f"labels{part}" / f"{name}.nii.gz")
    content = {
        "name": "Phantoms",
        "channel_names": {"0": "MR"},
        "labels": PHANTOM_LABELS,
        "numTraining": training,
        "file_ending": ".nii.gz",
    }
    write_text(json.dumps(content, indent=1) + "\n", folder / "dataset.json")


def _write_nifti(array: NDArray[np.generic], spacing: Spacing, reverse: bool, path: Path) -> None:
    z, y, x = spacing
    affine = np.diag((x, y, z, 1.0))
    voxels = array.transpose()  # (X, Y, Z), the file's axis order
    if reverse:
        affine[0, 3], affine[1, 3] = x * (voxels.shape[0] - 1), y * (voxels.shape[1] - 1)
        affine[0, 0], affine[1, 1] = -x, -y
        voxels = voxels[::-1, ::-1]
    with replacing(path) as temporary:
        nibabel.save(nibabel.Nifti1Image(voxels, affine), temporary)
