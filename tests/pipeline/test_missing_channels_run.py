"""A cascade of channels that may be missing, from images to label maps: planned, trained, validated, exported."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.records.workspace import Workspace
from tests.builders import CASCADE


@pytest.fixture
def two_channels(phantom_dataset, tmp_path):
    """The phantoms with their negative as a second channel; one case lacks the first channel, one the second."""
    folder = tmp_path / "two"
    shutil.copytree(phantom_dataset, folder)
    for path in [*folder.glob("imagesT?/*_0000.nii.gz")]:
        image = nibabel.load(path)
        negative = nibabel.Nifti1Image(-np.asarray(image.dataobj, dtype=np.float32), image.affine)
        nibabel.save(negative, path.with_name(path.name.replace("_0000", "_0001")))
    (folder / "imagesTr" / "phantom_001_0000.nii.gz").unlink()
    (folder / "imagesTr" / "phantom_002_0001.nii.gz").unlink()
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | {"channel_names": {"0": "MR", "1": "negative"}}))
    return folder


@pytest.mark.slow
def test_a_cascade_of_channels_that_may_be_missing(two_channels, tmp_path, capsys):
    workspace, device = Workspace(tmp_path / "work"), ("--device", "cpu", "-q")
    plan = ["plan", str(two_channels), "-w", str(workspace.root), "--planner", "unext", "-c", CASCADE]
    plan += ["--folds", "2", "--patch-size", "16", "16", "16", "--time-per-fold", "5min", *device]
    assert main(plan) != 0
    assert main([*plan, "--allow-missing-channels"]) == 0
    configurations = json.loads(workspace.plan.read_text())["configurations"]
    assert configurations["3d_lowres"]["network"]["input_channels"] == 4
    assert configurations[CASCADE]["network"]["input_channels"] == 7

    short = ["--steps-per-epoch", "2", "--workers", "0", "--epochs", "1", *device]
    for name, fold in (("3d_lowres", "0"), ("3d_lowres", "1"), (CASCADE, "0")):
        assert main(["train", str(workspace.root), "-c", name, "-f", fold, *short]) == 0
    assert main(["export", str(workspace.root), "-o", str(tmp_path / "model.zip"), "-c", CASCADE, "-q"]) == 0
    images = two_channels / "imagesTs"
    missing = next(images.glob("*_0000.nii.gz"))
    case = missing.name.removesuffix("_0000.nii.gz")
    missing.unlink()
    label_maps = []
    for model, output in ((workspace.root, "first"), (tmp_path / "model.zip", "second")):
        words = ["-m", str(model), "-i", str(images), "-o", str(tmp_path / output), "-c", CASCADE]
        assert main(["predict", *words, "--device", "cpu", "--statistics"]) == 0
        assert f"{case}: predicted from negative; without MR" in capsys.readouterr().err
        label_maps.append(np.asarray(nibabel.load(tmp_path / output / f"{case}.nii.gz").dataobj))
    first, second = label_maps
    np.testing.assert_array_equal(first, second)
    rows = (tmp_path / "first" / "statistics.csv").read_text().splitlines()
    assert "mean_MR" in rows[0]
    column = rows[0].split(",").index("mean_MR")
    assert all(row.split(",")[column] == "" for row in rows[1:] if row.startswith(case))
