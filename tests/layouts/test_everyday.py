"""The five everyday layouts, each from the folder to the report in one command; trainings take two steps."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.cli import speed
from autoseg.cli.main import main
from autoseg.records.budget import Throughput
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.testing.phantoms import make_phantom_case
from autoseg.training.options import TrainingOptions

CASES = ("01", "02", "03")


def write_volume(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([-1.0, -1.0, 2.4, 1.0])), path)


def write_cases(folder: Path, images: tuple[str, ...], label: str) -> Path:
    """Phantoms, cut to be small, at the paths that patterns with the number of the case give."""
    for seed, case in enumerate(CASES):
        phantom = make_phantom_case(seed)
        for channel, pattern in enumerate(images):
            write_volume(folder / pattern.format(case), phantom.image[:, 8:40, 4:36] * (channel + 1))
        write_volume(folder / label.format(case), phantom.labels[:, 8:40, 4:36])
    return folder


def one_folder(folder: Path) -> Path:
    return write_cases(folder, ("p{}.nii.gz",), "p{}_seg.nii.gz")


def case_folders(folder: Path) -> Path:
    return write_cases(folder, ("p{0}/p{0}_flair.nii.gz", "p{0}/p{0}_t1.nii.gz"), "p{0}/p{0}_seg.nii.gz")


def two_folders(folder: Path) -> Path:
    return write_cases(folder, ("images/p{}.nii.gz",), "masks/p{}.nii.gz")


def bids(folder: Path) -> Path:
    write_cases(folder, ("sub-{0}/anat/sub-{0}_T1w.nii.gz",), "derivatives/manual/sub-{0}/anat/sub-{0}_dseg.nii.gz")
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "phantoms", "BIDSVersion": "1.8.0"}))
    (folder / "derivatives" / "manual" / "dataset_description.json").write_text(
        json.dumps({"Name": "masks", "BIDSVersion": "1.8.0", "DatasetType": "derivative"})
    )
    (folder / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n1\tbody\n2\tcore\n3\trod\n")
    return folder


def named_columns(folder: Path) -> Path:
    write_cases(folder, ("a/{}.nii.gz", "b/{}.nii.gz"), "c/{}.nii.gz")
    rows = "".join(f"a/{case}.nii.gz,b/{case}.nii.gz,c/{case}.nii.gz\n" for case in CASES)
    (folder / "patients.csv").write_text(f"flair,t1,seg\n{rows}")
    return folder / "patients.csv"


@pytest.fixture
def few_steps(monkeypatch):
    """A slow machine, so that the planned networks are small, and trainings of two steps."""
    monkeypatch.setattr(speed, "measure_throughput", lambda *_: tuple(
        Throughput(dimensions=3, base_features=features, macs_per_second=5e8, prediction_macs_per_second=2e9)
        for features in (8, 32)
    ))  # fmt: skip
    options = functools.partial(TrainingOptions, epochs=1, steps_per_epoch=2)
    monkeypatch.setattr("autoseg.training.options.TrainingOptions", options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "channels", "labels"),
    [
        (one_folder, ("channel_0",), ("label_1", "label_2", "label_3")),
        (case_folders, ("flair", "t1"), ("label_1", "label_2", "label_3")),
        (two_folders, ("channel_0",), ("label_1", "label_2", "label_3")),
        (bids, ("T1w",), ("body", "core", "rod")),
        (named_columns, ("flair", "t1"), ("label_1", "label_2", "label_3")),
    ],
)
def test_one_command_from_folder_to_report(
    tmp_path, few_steps, capsys, make: Callable[[Path], Path], channels: tuple[str, ...], labels: tuple[str, ...]
):
    dataset = make(tmp_path / "my data")
    words = ["--device", "cpu", "--planner", "unet", "-c", "3d_fullres", "--folds", "2", "--time-per-fold", "5min"]
    assert main(["run", str(dataset), "-w", str(tmp_path / "w"), "-j", "1", *words]) == 0
    shown = capsys.readouterr()
    assert "recognised" in shown.err
    assert "This run trains 1 configuration (3d_fullres) on folds 0, 1: 2 trainings." in shown.err
    assert "training 2 of 2: 3d_fullres, fold 1 (fold 2 of 2)" in shown.err
    assert "This choice means little" in shown.out
    assert (tmp_path / "w" / "report.html").read_text().startswith("<!doctype html>")
    plan = read_record(Plan, tmp_path / "w" / "plan.json")
    assert (plan.channel_names, tuple(plan.labels)) == (channels, ("background", *labels))
    evaluation = json.loads((tmp_path / "w" / "evaluation.json").read_text())
    assert len(evaluation["cases"]) == 3
