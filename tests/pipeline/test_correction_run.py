"""Correction by clicks from images to label maps: planned, trained on label maps of all folds, clicked, exported."""

import json

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.records.workspace import Workspace


def read_labels(path):
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.slow
def test_a_label_map_is_corrected_by_what_was_planned_and_trained_for_it(phantom_dataset, tmp_path):
    workspace, device = Workspace(tmp_path / "work"), ("--device", "cpu", "-q")
    plan = ["plan", str(phantom_dataset), "-w", str(workspace.root), "--planner", "unet", "-c", "interactive"]
    plan += ["--planner-option", "base_features=4", "--patch-size", "16", "16", "16", "--time-per-fold", "5min"]
    assert main([*plan, "--folds", "2", *device]) == 0
    short = ["--steps-per-epoch", "2", "--workers", "0", "--epochs", "1", *device]
    for fold in ("0", "1"):
        assert main(["train", str(workspace.root), "-c", "3d_fullres", "-f", fold, *short]) == 0
    pretrained = ["--pretrained", str(workspace.fold("3d_fullres", "0"))]
    assert main(["train", str(workspace.root), "-c", "interactive", "-f", "0", *short, *pretrained]) == 0
    assert main(["export", str(workspace.root), "-o", str(tmp_path / "model.zip"), "-q"]) == 0

    images = phantom_dataset / "imagesTs"
    case = min(images.glob("*.nii.gz")).name.removesuffix("_0000.nii.gz")
    predict = ["predict", "-m", str(workspace.root), "-i", str(images), *device]
    assert main([*predict, "-o", str(tmp_path / "first")]) == 0
    first = read_labels(tmp_path / "first" / f"{case}.nii.gz")
    x, y, z = (size // 2 for size in first.shape)
    clicks = tmp_path / "clicks.json"
    wanted = 1 if first[x, y, z] != 1 else 2
    clicks.write_text(json.dumps({"cases": {case: [{"label": wanted, "x": x, "y": y, "z": z}]}}))
    corrected = []
    for model, name in ((workspace.root, "own"), (tmp_path / "model.zip", "exported")):
        words = ["predict", "-m", str(model), "-i", str(images), "-o", str(tmp_path / name), "--clicks", str(clicks)]
        assert main([*words, "--first-labels", str(tmp_path / "first"), *device]) == 0
        corrected.append(read_labels(tmp_path / name / f"{case}.nii.gz"))
    assert corrected[0][x, y, z] == wanted
    np.testing.assert_array_equal(*corrected)
    reach = json.loads(workspace.plan.read_text())["configurations"]["interactive"]["clicks"]["reach_mm"]
    spacing = nibabel.load(tmp_path / "first" / f"{case}.nii.gz").header.get_zooms()
    grid = np.indices(first.shape).reshape(3, -1).T
    far = np.linalg.norm((grid - (x, y, z)) * np.array(spacing), axis=1).reshape(first.shape) > reach
    np.testing.assert_array_equal(corrected[0][far], first[far])
