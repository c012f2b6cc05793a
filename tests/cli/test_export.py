"""`autoseg export`, and commands that read what it wrote, as a user types them."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from safetensors.torch import load_file

from autoseg.cli.main import DONE, UNUSABLE, main
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace

NAME = "3d_fullres"
TRAIN = ["-c", NAME, "--device", "cpu", "--precision", "fp32", "-j", "0", "-q"]


@pytest.fixture(scope="module")
def exported(planned_phantoms, tmp_path_factory):
    """A workspace with one fold trained for a few steps, and the model exported from it and moved."""
    folder = tmp_path_factory.mktemp("exported")
    root = folder / "data" / "phantoms.autoseg"
    shutil.copytree(planned_phantoms.root, root)
    (root.parent / "phantoms").symlink_to(planned_phantoms.root.parent / "phantoms")
    assert main(["train", str(root), "-f", "0", "--epochs", "1", "--steps-per-epoch", "3", *TRAIN]) == DONE
    assert main(["select", str(root), "-q"]) == DONE
    assert main(["export", str(root), "-o", str(folder / "out" / "model.zip"), "--license", "MIT", "-q"]) == DONE
    (folder / "moved").mkdir()
    model = (folder / "out" / "model.zip").rename(folder / "moved" / "phantoms.zip")
    return Workspace(root), model


def label_maps(folder):
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in folder.glob("*.nii.gz")}


@pytest.mark.slow
def test_a_moved_model_gives_identical_label_maps(exported, phantom_dataset, tmp_path):
    workspace, model = exported
    maps = {}
    for name, path in {"workspace": workspace.root, "zip": model}.items():
        words = ["predict", "-m", str(path), "-i", str(phantom_dataset / "imagesTs"), "-o", str(tmp_path / name)]
        assert main([*words, "--device", "cpu", "-q"]) == DONE
        maps[name] = label_maps(tmp_path / name)
    assert len(maps["zip"]) == 2
    for name, labels in maps["workspace"].items():
        assert labels.any()
        np.testing.assert_array_equal(maps["zip"][name], labels)
    words = ["evaluate", str(tmp_path / "zip"), str(phantom_dataset / "labelsTs"), "-m", str(model), "-q"]
    assert main(words) == DONE
    assert json.loads((tmp_path / "zip" / "evaluation.json").read_text())["labels"].keys() == {"body", "core", "rod"}


@pytest.mark.slow
def test_training_starts_from_an_exported_model(exported, workspace, caplog):
    _, model = exported
    words = ["train", str(workspace.root), "-f", "1", "--epochs", "1", "--steps-per-epoch", "1", *TRAIN]
    assert main([*words, "--lr", "1e-30", "--pretrained", str(model)]) == DONE
    before, after = (
        load_file(one.fold(NAME, fold) / "checkpoint_final.safetensors")
        for one, fold in ((exported[0], "0"), (workspace, "1"))
    )
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name].numpy(), tensor.numpy(), atol=1e-20, err_msg=name)


@pytest.mark.slow
def test_a_plan_is_made_like_an_exported_model(exported, phantom_dataset, tmp_path):
    words = ["plan", str(phantom_dataset), "-w", str(tmp_path / "w"), "--device", "cuda", "--no-preprocess", "-q"]
    assert main([*words, "--like", str(exported[1])]) == DONE
    plan, model = (read_record(Plan, one.plan) for one in (Workspace(tmp_path / "w"), exported[0]))
    assert plan.configurations[NAME].network == model.configurations[NAME].network
    assert plan.budget.like is not None


@pytest.mark.slow
def test_a_tampered_model_is_refused_by_every_command(exported, phantom_dataset, workspace, tmp_path, capsys):
    broken = tmp_path / "broken.zip"
    content = bytearray(exported[1].read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    out, images = ["-o", str(tmp_path / "out")], ["-i", str(phantom_dataset / "imagesTs")]
    for words in (
        ["predict", "-m", str(broken), *images, *out],
        ["plan", str(phantom_dataset), "-w", str(tmp_path / "w"), "--like", str(broken)],
        ["train", str(workspace.root), "-f", "1", *TRAIN, "--pretrained", str(broken)],
        ["evaluate", str(phantom_dataset / "labelsTs"), str(phantom_dataset / "labelsTs"), "-m", str(broken)],
        ["export", str(broken), *out],
    ):
        assert main(words) == UNUSABLE
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith(f"autoseg {words[0]}: {broken}: "), error
    assert not (tmp_path / "out").exists()


def test_a_workspace_without_trained_folds_is_refused(planned_phantoms, tmp_path, capsys):
    assert main(["export", str(planned_phantoms.root), "-o", str(tmp_path / "model.zip")]) == UNUSABLE
    assert "no configuration has a checkpoint_final.safetensors; run autoseg-train first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
