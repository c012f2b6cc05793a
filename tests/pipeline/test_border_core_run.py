"""Border-core from planning to objects: what a user types, on pictures of discs with gaps of one pixel."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from autoseg.cli.main import main
from autoseg.imaging.arrays.storage import open_case
from autoseg.pipeline import PlanningOptions, plan_dataset
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace

EDGE = 72


def picture(seed):
    """A grid of squares of 15 pixels, some missing, with gaps of one pixel; bright on noise."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((EDGE, EDGE), dtype=np.uint8)
    for row in range(4, 60, 16):
        for column in range(4, 60, 16):
            if generator.random() < 0.8:
                labels[row : row + 15, column : column + 15] = 200
    image = 60 + 0.6 * labels + generator.normal(0, 8, labels.shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    for name in ("images", "labels"):
        (folder / "data" / name).mkdir(parents=True)
    for seed in range(6):
        for name, pixels in zip(("images", "labels"), picture(seed), strict=True):
            Image.fromarray(pixels).save(folder / "data" / name / f"{seed}.png")
    root = folder / "workspace"
    speed = Throughput(dimensions=2, base_features=8, macs_per_second=1e9)
    budget = Budget(
        device="cpu", time_per_fold_seconds=60.0, throughput=(speed,), configurations=("2d",),
        overrides=Overrides(patch_size=(48, 48), batch_size=2),
    )  # fmt: skip
    options = PlanningOptions(planner="unet", target="border_core", folds=2)
    plan_dataset(folder / "data", Workspace(root), budget, options)
    train = ["train", str(root), "-c", "2d", "-f", "0", "--device", "cpu", "--epochs", "2", "--steps-per-epoch", "20"]
    assert main(train) == 0
    return Workspace(root)


@pytest.mark.slow
def test_cores_and_borders_are_stored_and_labels_are_scored(workspace):
    plan = read_record(Plan, workspace.plan)
    assert (plan.target, plan.labels) == ("border_core", {"background": 0, "label_200": 200})
    stored = open_case(workspace.preprocessed("2d"), "0")
    assert {1, 2} <= set(np.unique(stored.array[-1]))
    assert sorted(stored.locations) == [1, 2]
    evaluation = json.loads((workspace.fold("2d", "0") / "validation" / "evaluation.json").read_text())
    assert evaluation["labels"].keys() == {"label_200"}
    assert evaluation["mean_foreground_dice"] > 0.5


@pytest.mark.slow
def test_selection_export_report_and_objects(workspace, tmp_path):
    assert main(["select", str(workspace.root)]) == 0
    assert main(["report", str(workspace.root)]) == 0
    assert main(["export", str(workspace.root), "-o", str(tmp_path / "model.zip")]) == 0
    images, out = workspace.root.parent / "data" / "images", tmp_path / "out"
    words = ["-i", str(images), "-o", str(out), "--device", "cpu", "--instances", "--statistics", "--save-uncertainty"]
    assert main(["predict", "-m", str(tmp_path / "model.zip"), *words]) == 0
    labels, ids = (np.asarray(Image.open(out / f"0{kind}.png")) for kind in ("", "_instances"))
    assert set(np.unique(labels)) == {0, 200}
    assert ids.any()
    assert set(np.unique(labels[ids > 0])) == {200}
    with (out / "instances.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "0"]
    assert [int(row["voxels"]) for row in rows] == np.bincount(ids.ravel())[1:].tolist()
    assert {(row["label"], row["volume_mm3"], row["center_x_mm"]) for row in rows} == {("label_200", "", "")}
    references = workspace.root.parent / "data" / "labels"
    assert main(["evaluate", str(out), str(references), "--instances", "-m", str(workspace.root)]) == 0
    found = json.loads((out / "instance_evaluation.json").read_text())
    assert found["connectivity"] == "face"
    assert found["labels"]["label_200"]["panoptic_quality"] > 0.1  # after 40 steps
    assert len(found["cases"]) == 6
