"""The whole job on phantoms, as a user types it; the keys that scripts rely on are where the design puts them."""

import json

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main


@pytest.fixture(scope="module")
def finished_run(phantom_dataset, tmp_path_factory):
    """Two short folds of one configuration; the small networks that 25 s allow learn the phantoms well enough."""
    workspace = tmp_path_factory.mktemp("run") / "workspace"
    words = ["run", str(phantom_dataset), "-w", str(workspace), "--device", "cpu", "--time-per-fold", "40s"]
    assert main([*words, "-c", "3d_fullres", "--folds", "2", "-j", "1"]) == 0
    return workspace


@pytest.mark.slow
def test_every_artifact_is_there(finished_run):
    files = ("dataset", "fingerprint", "plan", "splits", "selection", "evaluation")
    assert all((finished_run / f"{name}.json").exists() for name in files)
    assert (finished_run / "report.html").read_text().startswith("<!doctype html>")
    assert len(list((finished_run / "preprocessed" / "3d_fullres").glob("*.b2nd"))) == 6
    assert not list(finished_run.rglob(".*.*"))  # no temporary file is left behind


@pytest.mark.slow
def test_scripts_find_their_keys(finished_run):
    plan = json.loads((finished_run / "plan.json").read_text())
    configuration = plan["configurations"]["3d_fullres"]
    assert configuration.keys() >= {"spacing", "patch_size", "batch_size", "network"}
    assert configuration["network"].keys() >= {"architecture", "features", "strides", "kernel_sizes"}
    assert plan["labels"] == {"background": 0, "body": 1, "core": 2, "rod": 3}
    assert all(decision.keys() == {"what", "value", "reason"} for decision in plan["decisions"])
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    assert evaluation["labels"]["rod"]["dice"] is not None
    assert len(evaluation["cases"]) == 6
    assert evaluation["cases"][0]["labels"]["body"]["dice"] is not None


@pytest.mark.slow
def test_held_out_cases_are_predicted_on_their_own_grid(finished_run, phantom_dataset, tmp_path):
    words = ["predict", "-m", str(finished_run), "-i", str(phantom_dataset / "imagesTs"), "-o", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 0
    for path in sorted((phantom_dataset / "labelsTs").iterdir()):
        predicted, reference = nibabel.load(tmp_path / "out" / path.name), nibabel.load(path)
        assert predicted.shape == reference.shape
        np.testing.assert_array_equal(predicted.affine, reference.affine)
    assert main(["evaluate", str(tmp_path / "out"), str(phantom_dataset / "labelsTs"), "-m", str(finished_run)]) == 0
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert evaluation["labels"].keys() == {"body", "core", "rod"}
    assert evaluation["mean_foreground_dice"] > 0.5


@pytest.mark.slow
def test_one_unreadable_image_does_not_stop_the_others(finished_run, phantom_dataset, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    whole = sorted((phantom_dataset / "imagesTs").iterdir())[0]
    (images / whole.name).write_bytes(whole.read_bytes())
    (images / "broken_0000.nii.gz").write_bytes(whole.read_bytes()[:5000])
    words = ["predict", "-m", str(finished_run), "-i", str(images), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 1
    assert "failed: broken" in capsys.readouterr().out
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert [failure["case"] for failure in failures] == ["broken"]
    assert (tmp_path / "out" / whole.name.replace("_0000", "")).exists()


@pytest.mark.slow
def test_running_again_trains_nothing_again(finished_run, phantom_dataset, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("checkpoint_final.safetensors")}
    words = ["run", str(phantom_dataset), "-w", str(finished_run), "--device", "cpu", "--time-per-fold", "40s"]
    assert main([*words, "-c", "3d_fullres", "--folds", "2", "-j", "1"]) == 0
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
