"""Small datasets in several layouts."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from autoseg.records.dataset import DatasetDescription

SHAPE_XYZ = (11, 7, 5)
AFFINE = np.diag([-1.25, -0.5, 4.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE_XYZ).astype(np.float32)


def label(*values: int) -> np.ndarray:
    array = np.zeros(SHAPE_XYZ, np.uint8)
    array.reshape(-1)[: len(values)] = values
    return array


def make_plain(folder: Path, names: list[str], values: tuple[int, ...] = (1, 2)) -> Path:
    for seed, name in enumerate(names):
        save(folder / "images" / f"{name}.nii.gz", image(seed))
        save(folder / "labels" / f"{name}.nii.gz", label(*values))
    return folder


def make_nnunet(folder: Path, **keys: Any) -> Path:
    for seed, name in enumerate(["a", "b", "c"]):
        for channel in range(2):
            save(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image(10 * seed + channel))
        save(folder / "labelsTr" / f"{name}.nii.gz", label(1, 2, 3))
    content = {
        "channel_names": {"0": "T1", "1": "CT"},
        "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        **keys,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def whats(description: DatasetDescription) -> str:
    return "\n".join(f"{fault.case}|{fault.file}|{fault.what}" for fault in description.warnings)
