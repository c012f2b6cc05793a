"""Families of networks from images to label maps: planned, trained, resumed, exported, and started from again."""

import json
import os

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.workspace import Workspace
from tests.builders import CASCADE, install_networks

FAMILIES = {
    "unext-2d": ("unext", "2d", ()),
    "unext-3d": ("unext", "3d_fullres", ()),
    "nested": ("unet++", "2d", ()),
    "multires": ("multiresunet", "2d", ("--planner-option", "attention=mixed")),
    "neighbors": ("unet", "2.5d", ("--neighbor-slices", "2")),
    "external-2d": ("external", "2d", ("--planner-option", "network=small", "--planner-option", "features=6")),
    "external-3d": ("external", "3d_fullres", ("--planner-option", "network=small")),
    "mednext": ("mednext", "3d_fullres", ("--planner-option", "grn=true")),
    "points-2d": ("unet", "2d", ("--planner-option", "head=points", "--planner-option", "point_stride=4")),
    "points-3d": ("resenc-m", "3d_fullres", ("--planner-option", "head=points")),
    "hrnet-2d": ("hrnet", "2d", ("--planner-option", "stem=2", "--planner-option", "base_features=4")),
    "hrnet-3d": ("hrnet", "3d_fullres", ("--planner-option", "head=v1", "--planner-option", "base_features=4")),
    "mask-rcnn": ("unet", "3d_fullres", ("--target", "mask-rcnn", "--planner-option", "base_features=4")),
}
"""Planner, configuration and settings by name."""


def read_labels(folder):
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_from_images_to_label_maps(phantom_dataset, tmp_path, family, monkeypatch):
    planner, name, settings = FAMILIES[family]
    if planner == "external":
        install_networks(tmp_path / "installed")
        monkeypatch.syspath_prepend(tmp_path / "installed")
        monkeypatch.setenv(
            "PYTHONPATH", os.pathsep.join([str(tmp_path / "installed"), os.environ.get("PYTHONPATH", "")])
        )
    patch = ("32", "32") if name in {"2d", "2.5d"} else ("16", "32", "32")
    workspace, device = Workspace(tmp_path / "work"), ("--device", "cpu")
    plan = ["plan", str(phantom_dataset), *device, "-c", name, "--patch-size", *patch, "--time-per-fold", "5min", "-q"]
    assert main([*plan, "-w", str(workspace.root), "--planner", planner, *settings]) == 0
    short = ["-c", name, "-f", "0", "--steps-per-epoch", "2", "--workers", "0", *device, "-q"]
    assert main(["train", str(workspace.root), *short, "--epochs", "1"]) == 0
    assert main(["train", str(workspace.root), *short, "--epochs", "2"]) == 0
    lines = (workspace.fold(name, "0") / "history.jsonl").read_text().splitlines()
    assert [EpochHistory.model_validate_json(line).step for line in lines] == [2, 4]

    assert main(["export", str(workspace.root), "-o", str(tmp_path / "model.zip"), "-q"]) == 0
    for model, output in ((workspace.root, "first"), (tmp_path / "model.zip", "second")):
        words = ["-m", str(model), "-i", str(phantom_dataset / "imagesTs"), "-o", str(tmp_path / output)]
        assert main(["predict", *words, *device, "-q"]) == 0
    first, second = read_labels(tmp_path / "first"), read_labels(tmp_path / "second")
    assert first.keys() == second.keys()
    assert len(first) > 0
    assert all((first[case] == second[case]).all() for case in first)

    again = Workspace(tmp_path / "again")
    assert main([*plan, "-w", str(again.root), "--like", str(workspace.root)]) == 0
    networks = [json.loads(each.plan.read_text())["configurations"][name]["network"] for each in (workspace, again)]
    assert networks[0] == networks[1]
    assert main(["train", str(again.root), *short, "--epochs", "1", "--pretrained", str(workspace.root)]) == 0


@pytest.mark.slow
def test_a_cascade_of_unext_from_images_to_label_maps(phantom_dataset, tmp_path):
    """A small patch sees so little of a phantom that a low resolution is planned, and a cascade on it."""
    workspace, device = Workspace(tmp_path / "work"), ("--device", "cpu", "-q")
    plan = ["plan", str(phantom_dataset), "-w", str(workspace.root), "--planner", "unext", "-c", CASCADE]
    assert main([*plan, "--folds", "2", "--patch-size", "16", "16", "16", "--time-per-fold", "5min", *device]) == 0
    networks = {
        name: each["network"] for name, each in json.loads(workspace.plan.read_text())["configurations"].items()
    }
    assert {network["architecture"] for network in networks.values()} == {"unext"}
    assert networks[CASCADE]["input_channels"] == networks["3d_lowres"]["input_channels"] + 3

    short = ["--steps-per-epoch", "2", "--workers", "0", "--epochs", "1", *device]
    for name, fold in (("3d_lowres", "0"), ("3d_lowres", "1"), (CASCADE, "0")):
        assert main(["train", str(workspace.root), "-c", name, "-f", fold, *short]) == 0
    assert main(["export", str(workspace.root), "-o", str(tmp_path / "model.zip"), "-c", CASCADE, "-q"]) == 0
    for model, output in ((workspace.root, "first"), (tmp_path / "model.zip", "second")):
        words = ["-m", str(model), "-i", str(phantom_dataset / "imagesTs"), "-o", str(tmp_path / output)]
        assert main(["predict", *words, "-c", CASCADE, *device]) == 0
    first, second = read_labels(tmp_path / "first"), read_labels(tmp_path / "second")
    assert len(first) > 0
    assert all((first[case] == second[case]).all() for case in first)
