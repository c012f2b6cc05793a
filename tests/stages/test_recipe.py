"""A selection.json with everything in it is followed without options: by the workspace and by what is exported."""

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.export import export_model
from autoseg.stages.predict import PredictionOptions, Predictor
from tests.builders import CASCADE, REGIONS, load_exactly, make_cascade_plan, make_plan, write_model

SPACING = (2.5, 1.0, 0.8)
THRESHOLDS = {"whole": 0.44, "enhancing": 0.58}


@pytest.fixture(scope="module")
def image():
    values = np.random.default_rng(3).normal(size=(9, 21, 26)).astype(np.float32)
    values[:, :3] = 0
    return values


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """An ensemble of a flat network and a cascade, for regions."""
    plan = make_cascade_plan((4.0, 1.9, 1.7), (2.0, 1.2, 1.3), labels=REGIONS)
    flat = make_plan({"2d": (1.1, 0.9)}, labels=plan.labels).configurations["2d"]
    plan = Plan.model_validate(plan.model_copy(update={"configurations": {**plan.configurations, "2d": flat}}))
    names = ("2d", "3d_lowres", "3d_fullres", CASCADE)
    workspace = write_model(tmp_path_factory.mktemp("made") / "w", plan, dict.fromkeys(names, ("0", "1", "2")))
    selection = Selection(
        configurations=("2d", CASCADE), folds=("0", "2"), region_thresholds=THRESHOLDS, mean_foreground_dice=0.9,
        interval=(0.8, 0.95), candidates=(), reasons=("by hand",),
    )  # fmt: skip
    write_record(selection, workspace.selection)
    return workspace


def test_thresholds_of_regions_decide(workspace, image):
    predictor = Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))
    assert [(member.name, member.folds) for member in predictor.members] == [("2d", ("0", "2")), (CASCADE, ("0", "2"))]
    prediction = predictor.predict(image, spacing=SPACING, probabilities=True)
    assert prediction.probabilities is not None
    probabilities = prediction.probabilities.astype(np.float32)
    expected, halves = (np.zeros(image.shape, dtype=int) for _ in range(2))
    limits = np.array([0.44, 0.5, 0.58])
    for head, limit, value in zip(probabilities, limits, (1, 2, 3), strict=True):
        expected[head > limit] = value
        halves[head > 0.5] = value
    clear = (np.abs(probabilities - limits[:, None, None, None]) > 1e-3).all(axis=0)  # probabilities are float16
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(prediction.labels[clear], expected[clear])
    assert (expected[clear] != halves[clear]).any()


def test_asked_for_configurations_have_no_thresholds(workspace, image):
    predictor = Predictor(workspace.root, PredictionOptions(configuration="2d", device="cpu", precision="fp32"))
    assert predictor.case_predictor.thresholds == {}


@pytest.mark.parametrize("name", ["model.zip", "folder"])
def test_an_exported_ensemble_predicts_the_same_from_the_command_line(workspace, image, tmp_path, name):
    export_model(workspace.root, tmp_path / name)
    (tmp_path / "images").mkdir()
    z, y, x = SPACING
    nibabel.save(nibabel.Nifti1Image(image.T, np.diag((-x, -y, z, 1.0))), tmp_path / "images" / "case.nii.gz")
    for model, output in ((workspace.root, "own"), (tmp_path / name, "exported")):
        words = ["predict", "-m", str(model), "-i", str(tmp_path / "images"), "-o", str(tmp_path / output)]
        assert main([*words, "--device", "cpu", "--precision", "fp32"]) == 0
    own, exported = (np.asarray(nibabel.load(tmp_path / one / "case.nii.gz").dataobj) for one in ("own", "exported"))
    assert len(np.unique(own)) > 2
    np.testing.assert_array_equal(own, exported)
    labels = (
        Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))
        .predict(image, spacing=SPACING)
        .labels
    )
    np.testing.assert_array_equal(own.T, labels)
    if name == "folder":
        copy = read_record(Selection, tmp_path / name / "selection.json")
        assert copy == read_record(Selection, workspace.selection)


def test_an_exported_model_decides_as_the_workspace(workspace, image, tmp_path):
    original = read_record(Selection, workspace.selection)
    decided = original.model_copy(update={"decision": "expected-dice", "region_thresholds": {}})
    try:
        write_record(decided, workspace.selection)
        export_model(workspace.root, tmp_path / "model.zip")
        expected = load_exactly(workspace.root).predict(image, spacing=SPACING).labels
    finally:
        write_record(original, workspace.selection)
    exported = load_exactly(tmp_path / "model.zip")
    assert exported.case_predictor.decision == "expected-dice"
    np.testing.assert_array_equal(exported.predict(image, spacing=SPACING).labels, expected)
    assert (expected != load_exactly(workspace.root).predict(image, spacing=SPACING).labels).any()
