"""Dice on validation images whose contrast training never showed: inverted, darker, brighter.

The images of a fold's validation cases are written again with changed intensities, predicted and compared with their
label maps, with each way to adapt them at prediction. NIfTI datasets of one channel.

    python scripts/bench_contrasts.py usual.autoseg random.autoseg --adapt none histogram
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import nibabel
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record
from autoseg.records.plan import Splits
from autoseg.records.workspace import Workspace

Change = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""What happens to intensities that are scaled to [0, 1]."""

CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "as they are": lambda image: image,
        "inverted": lambda image: 1.0 - image,
        "gamma 0.4": lambda image: image**0.4,
        "gamma 2.5": lambda image: image**2.5,
    }
)


def main() -> int:
    """Predict every changed copy of the validation images with every workspace, and print one table."""
    options = _read_options()
    table = Table("workspace", "adapt", *CHANGES)
    for root, adapt in itertools.product(options.workspaces, options.adapt):
        scores = [_measure(Workspace(root), change, adapt, options) for change in CHANGES.values()]
        table.add_row(str(root), adapt, *(f"{score:.4f}" for score in scores))
    Console(width=120).print(table)
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspaces", nargs="+", type=Path, help="trained workspaces of the same dataset and folds")
    parser.add_argument("--fold", type=int, default=0, help="its validation cases are predicted by its network")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--adapt", nargs="+", default=["none"], help="values of autoseg predict --adapt")
    return parser.parse_args()


def _measure(workspace: Workspace, change: Change, adapt: str, options: argparse.Namespace) -> float:
    """Mean foreground Dice of the changed validation images."""
    dataset = read_record(DatasetDescription, workspace.dataset)
    source = workspace.dataset_folder(dataset.folder)
    cases = read_record(Splits, workspace.splits).folds[options.fold].validation
    with tempfile.TemporaryDirectory() as folder:
        images, references, predicted = (Path(folder) / name for name in ("images", "references", "predicted"))
        images.mkdir()
        references.mkdir()
        for files in dataset.cases:
            if files.case in cases:
                _write_changed(source / files.images[0], images / f"{files.case}.nii.gz", change)
                (references / f"{files.case}.nii.gz").symlink_to((source / files.label).resolve())
        scores = Path(folder) / "scores.json"
        network = ["-c", options.configuration, "-f", str(options.fold)]
        _run("predict", "-m", workspace.root, "-i", images, "-o", predicted, *network, "--adapt", adapt, "-q")
        _run("evaluate", predicted, references, "-m", workspace.root, "-o", scores, "-q")
        dice = read_record(Evaluation, scores).mean_foreground_dice
    if dice is None:
        raise ValueError(f"{workspace.root}: no label occurs in the validation cases of fold {options.fold}")
    return dice


def _write_changed(source: Path, target: Path, change: Change) -> None:
    image = nibabel.nifti1.load(source)
    values = image.get_fdata()
    lowest, highest = values.min(), values.max()
    changed = lowest + (highest - lowest) * change((values - lowest) / (highest - lowest))
    nibabel.nifti1.save(nibabel.nifti1.Nifti1Image(changed.astype(np.float32), image.affine), target)


def _run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "autoseg", *map(str, words)], check=True)


if __name__ == "__main__":
    sys.exit(main())
