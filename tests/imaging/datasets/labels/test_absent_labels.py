"""Labels that vanish before training are named: in resampling, in cropping, and in the division into folds."""

import nibabel
import numpy as np
import pytest

from autoseg.cli import planning_request
from autoseg.cli.main import main
from autoseg.imaging.datasets.labels.absent_labels import missing_labels
from autoseg.records.files import read_record
from autoseg.records.plan import Plan, Splits
from autoseg.records.workspace import Workspace

SHAPE = (20, 24, 22)
"""(x, y, z)."""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(planning_request, "gpu_memory_gigabytes", lambda _index=0: None)


def write_cases(folder, places, *, outside=False):
    """Cases with a large label 1, and label 2 in one voxel where a place is given; `outside`: where the image is 0."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, place in enumerate(places):
        image, labels = rng.normal(100, 9, SHAPE).astype(np.float32), np.zeros(SHAPE, np.uint8)
        labels[4:12, 6:14, 5:15] = 1
        if place is not None:
            labels[place] = 2
        if outside:
            image[16:] = 0
        for kind, voxels in (("images", image), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.5, 0.6, 0.5, 1])), folder / kind / f"c{number}.nii.gz")


def warnings_of_planning(folder, tmp_path, capsys, *words):
    command = ["plan", str(folder), "-w", str(tmp_path / "w"), "-j", "1", "--device", "cuda", "--planner", "unet"]
    assert main([*command, "-c", "3d_fullres", *words]) == 0
    shown = capsys.readouterr().err
    return [line.split("warning: ", 1)[1] for line in shown.splitlines() if "warning: " in line]


def test_a_label_of_single_voxels_vanishes_at_a_coarse_spacing(tmp_path, capsys):
    write_cases(tmp_path / "data", [(16, 5 + number, 10) for number in range(4)])
    found = warnings_of_planning(tmp_path / "data", tmp_path, capsys, "--spacing", "2", "2", "2")
    assert [line for line in found if "label_2" in line] == [
        "the label 'label_2' is in 4 case(s), and in none once they are resampled to 2 x 2 x 2 mm and cropped to the "
        "nonzero part of the image (3d_fullres), so networks of 3d_fullres cannot learn it: c0, c1, c2, c3. Plan with "
        "a smaller --spacing."
    ]
    workspace = Workspace(tmp_path / "w")
    encoding = read_record(Plan, workspace.plan).encoding
    assert missing_labels(workspace.preprocessed("3d_fullres"), ["c0", "c3"], encoding) == ["label_2"]


def test_a_second_planning_says_it_again_and_a_fine_spacing_says_nothing(tmp_path, capsys):
    write_cases(tmp_path / "data", [(16, 5 + number, 10) for number in range(4)])
    coarse = ["--spacing", "2", "2", "2"]
    first = warnings_of_planning(tmp_path / "data", tmp_path, capsys, *coarse)
    assert warnings_of_planning(tmp_path / "data", tmp_path, capsys, *coarse) == first != []
    assert not warnings_of_planning(tmp_path / "data", tmp_path, capsys, "--spacing", "0.5", "0.6", "0.5")


def test_a_label_outside_the_nonzero_part_is_lost_in_cropping(tmp_path, capsys):
    write_cases(tmp_path / "data", [(18, 5, 10), (14, 5, 10), (18, 7, 10)], outside=True)
    (found,) = warnings_of_planning(tmp_path / "data", tmp_path, capsys)
    assert found.startswith("the label 'label_2' is lost in 2 of 3 cases when resampled to")
    assert found.endswith("(3d_fullres): c0, c2")


def test_a_label_of_one_case_is_missing_from_the_fold_that_holds_it_out(tmp_path, capsys):
    write_cases(tmp_path / "data", [None, None, (8, 9, 10), None])
    *_, found = warnings_of_planning(tmp_path / "data", tmp_path, capsys, "--no-preprocess", "--folds", "4")
    held_out = read_record(Splits, Workspace(tmp_path / "w").splits).folds
    (fold,) = [number for number, split in enumerate(held_out) if "c2" in split.validation]
    assert found == (
        f"no training case of fold {fold} has the label 'label_2', so its networks cannot learn it; it is in c2 only"
    )
