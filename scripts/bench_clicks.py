"""Dice after 0, 1, 3 and 5 clicks of a simulated user, on the held-out cases of trained folds; seconds per answer.

    python scripts/bench_clicks.py hippocampus.autoseg Task04_Hippocampus/imagesTr Task04_Hippocampus/labelsTr

The first label map of a case is the one of its fold's validation. The user clicks in the middle of the largest wrong
place, with the label that it should have, looks at the answer, and clicks again. Each time the last answer is corrected
with all clicks so far, or in another way that --way names. Folds are those that the configuration `interactive` has;
each of its networks corrects the cases that it did not see.
"""

import argparse
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.inference.models.correction import find_correcting
from autoseg.records.clicks import Click
from autoseg.records.files import read_record
from autoseg.records.plan import Plan, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages.predict import PredictionOptions, Predictor

Labels = NDArray[np.integer]


def main() -> int:
    """Print a line for each number of clicks; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("images", type=Path, help="folder of CASE.nii.gz")
    parser.add_argument("references", type=Path, help="folder of CASE.nii.gz")
    parser.add_argument("--clicks", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--cases", type=int, default=None, help="of each fold (default: all)")
    parser.add_argument(
        "--way", choices=["onwards", "newest", "from-first"], default="onwards",
        help="all clicks correct the last answer (default), the newest click does, or all correct the first label map",
    )  # fmt: skip
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    plan = read_record(Plan, workspace.plan)
    name = find_correcting(plan)
    if name is None:
        parser.error(f"{workspace.plan}: has no configuration that clicks correct")
    corrected = str(plan.configurations[name].previous_configuration)
    rows, seconds, cases = [], [], []
    for fold in workspace.trained_folds(name):
        predictor = Predictor(workspace.root, PredictionOptions(configuration=corrected, folds=[fold]))
        for case in read_record(Splits, workspace.splits).folds[int(fold)].validation[: options.cases]:
            first = read_labels(workspace.validation((corrected,), fold) / f"{case}.nii.gz")
            reference = read_labels(options.references / f"{case}.nii.gz")
            scores, taken = correct_case(predictor, options, case, first, reference)
            rows.append(scores)
            seconds += taken
            cases.append(case)
    for number, scores in zip([0, *options.clicks], np.transpose(rows), strict=True):
        worst = np.sort(scores)[: max(1, len(scores) // 10)].mean()
        print(f"clicks {number}  cases {len(cases)}  mean Dice {scores.mean():.4f}  lowest tenth {worst:.4f}")
    print(f"seconds per answer: median {np.median(seconds):.2f}, largest {max(seconds):.2f}")
    return 0


def correct_case(
    predictor: Predictor, options: argparse.Namespace, case: str, first: Labels, reference: Labels
) -> tuple[list[float], list[float]]:
    """Dice before and after each number of clicks, and the seconds of each answer."""
    scores, seconds = [mean_dice(first, reference)], []
    clicks: list[Click] = []
    labels = first
    for number in range(1, max(options.clicks) + 1):
        clicks.append(click_on_largest_mistake(labels, reference))
        began = time.perf_counter()
        start = first if options.way == "from-first" else labels
        given = clicks[-1:] if options.way == "newest" else clicks
        labels = predictor.correct(options.images / f"{case}.nii.gz", start, given).labels
        seconds.append(time.perf_counter() - began)
        if number in options.clicks:
            scores.append(mean_dice(labels, reference))
    return scores, seconds


def click_on_largest_mistake(labels: Labels, reference: Labels) -> Click:
    """The voxel farthest from the border of the largest connected wrong place; where nothing is wrong any voxel."""
    largest, size = np.ones(labels.shape, dtype=bool), 0
    for value in np.unique(reference):
        components, count = ndimage.label((labels != reference) & (reference == value), np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        if count and sizes.max() > size:
            size, largest = int(sizes.max()), components == sizes.argmax() + 1
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1, 1:-1]
    z, y, x = np.unravel_index(depth.argmax(), depth.shape)
    return Click(label=int(reference[z, y, x]), x=int(x), y=int(y), z=int(z))


def mean_dice(labels: Labels, reference: Labels) -> float:
    """Mean over the foreground labels of the reference."""
    values = [value for value in np.unique(reference) if value]
    overlaps = [
        2
        * np.sum((labels == value) & (reference == value))
        / np.sum((labels == value).astype(int) + (reference == value))
        for value in values
    ]
    return float(np.mean(overlaps))


def read_labels(path: Path) -> Labels:
    """Label values (z, y, x)."""
    return np.asarray(nibabel.nifti1.load(path).dataobj).T.astype(np.int16)


if __name__ == "__main__":
    sys.exit(main())
