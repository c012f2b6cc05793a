"""One tiny dataset, planned, trained and exported once for the whole battery."""

import json

import pytest

from autoseg.cli.main import main
from tests.faults.battery import CASES, LABELS, Place, copy_place, draw, save


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> Place:
    """What nothing is wrong with; read only."""
    root = tmp_path_factory.mktemp("sound")
    place = Place(root, root / "tiny", root / "tiny.autoseg", root / "tiny.zip")
    for seed, case in enumerate(CASES):
        image, labels = draw(seed)
        save(place.images / f"{case}_0000.nii.gz", image)
        save(place.labels / f"{case}.nii.gz", labels)
    content = {"channel_names": {"0": "MR"}, "labels": LABELS, "numTraining": len(CASES), "file_ending": ".nii.gz"}
    (place.dataset / "dataset.json").write_text(json.dumps(content))
    for command in (
        ["plan", place.dataset, "-w", place.workspace, "--device", "cuda", "--planner", "unet", "-c", "3d_fullres",
         "--folds", "2", "-j", "1", "--patch-size", "8", "8", "8", "--batch-size", "2"],
        ["train", place.workspace, "-c", "3d_fullres", "-f", "0", "--device", "cpu", "--epochs", "1",
         "--steps-per-epoch", "1"],
        ["select", place.workspace, "--device", "cpu", "-j", "1"],
        ["export", place.workspace, "-o", place.archive],
    ):  # fmt: skip
        assert main([str(word) for word in command]) == 0
    return place


@pytest.fixture
def place(sound, tmp_path) -> Place:
    """A copy to spoil."""
    return copy_place(tmp_path, sound.dataset, sound.workspace, sound.archive)
