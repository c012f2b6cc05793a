"""Confidence from held-out cases: made-up scores, and untrained networks on phantoms, measured once per weights."""

import shutil

import numpy as np
import pytest
import torch

from autoseg.errors import DatasetError
from autoseg.imaging.formats.reading import read_image
from autoseg.inference.predictor.loading import load_case_predictor
from autoseg.inference.sinks.label_sums import LabelSumsCounter
from autoseg.metrics.expected_dice import expect_dice, fit_dice_model
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription, LabelValues
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.selection import validation_run
from autoseg.selection.confidence import learn_confidence, write_report
from autoseg.selection.expected_dice import ScoredCase, describe_unlearnt, learn_expected_dice
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from autoseg.stages.describe import describe_dataset
from autoseg.stages.predict import PredictionOptions
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.testing import write_phantom_dataset
from autoseg.testing.phantoms import PHANTOM_LABELS
from tests.builders import make_plan, write_model

FOLDS = {"0": ("phantom_000", "phantom_002"), "1": ("phantom_001",)}
CPU = torch.device("cpu")
VALUES: dict[str, LabelValues] = {**PHANTOM_LABELS}
LABELS = [name for name in VALUES if name != "background"]


def draw_cases(count, folds="012", noise=0.1, seed=0):
    generator = np.random.default_rng(seed)
    overlap = generator.uniform(0.6, 0.95, count)
    logits = np.log(overlap / (1 - overlap)) - 0.5 + generator.normal(0, noise, count)
    dice = 1 / (1 + np.exp(-logits))
    return [
        ScoredCase(f"c{place}", folds[place % len(folds)], np.array([overlap[place], 7.0, 0.4]), float(dice[place]))
        for place in range(count)
    ]


def test_each_fold_is_expected_by_a_model_of_the_others():
    cases = draw_cases(36)
    learnt = learn_expected_dice("liver", cases)
    assert learnt.model is not None
    assert learnt.agreement is not None
    assert [case.case for case in learnt.cases] == [case.case for case in cases]
    others = [case for case in cases if case.fold != "1"]
    model = fit_dice_model(np.array([case.measurements for case in others]), np.array([case.dice for case in others]))
    assert model is not None
    assert model.num_cases == 24
    for case, found in zip(cases, learnt.cases, strict=True):
        assert (found.expected == expect_dice(model, case.measurements)) == (case.fold == "1")
    errors = [abs(case.expected.value - case.dice) for case in learnt.cases]
    assert learnt.agreement.mean_absolute_error == pytest.approx(np.mean(errors))
    assert learnt.agreement.mean_absolute_error < 0.5 * learnt.agreement.mean_absolute_error_of_mean
    assert learnt.agreement.correlation is not None
    assert learnt.agreement.correlation > 0.9
    assert 0.8 <= learnt.agreement.coverage <= 1
    assert learnt.reason.startswith("Expected Dice of liver: off by 0.0")
    assert learnt.model.num_cases == 36


def test_a_label_that_cannot_be_tested_is_not_learnt():
    learnt = learn_expected_dice("liver", draw_cases(14))
    assert (learnt.model, learnt.agreement, learnt.cases) == (None, None, ())
    assert learn_expected_dice("liver", draw_cases(15)).model is not None
    (sentence,) = describe_unlearnt([learnt, learn_expected_dice("lesion", [])])
    assert sentence.startswith("Expected Dice of liver, lesion: not learnt; 10 held-out cases")
    assert describe_unlearnt([]) == ()


def test_cases_without_a_score_or_a_prediction_do_not_count():
    cases = draw_cases(20, folds="0")
    unknown = [
        ScoredCase("x", "0", np.array([0.9, 7.0, 0.4]), None), ScoredCase("y", "0", np.full(3, np.nan), 0.0)
    ]  # fmt: skip
    assert learn_expected_dice("liver", [*unknown, *cases]) == learn_expected_dice("liver", cases)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Phantoms, and a workspace with untrained networks of two configurations and preprocessed cases."""
    dataset = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(dataset, training=3, held_out=1)
    plan = make_plan({"2d": (4.1, 3.7), "3d_lowres": (3.0, 4.1, 3.3)}, labels=PHANTOM_LABELS)
    names = tuple(plan.configurations)
    workspace = write_model(tmp_path_factory.mktemp("run") / "w", plan, dict.fromkeys(names, tuple(FOLDS)))
    description = describe_dataset(dataset)
    write_record(description, workspace.dataset)
    preprocess_dataset(description, plan, workspace, names, 1)
    return workspace, dataset


@pytest.fixture
def run(made, tmp_path):
    """A run on a copy."""
    shutil.copytree(made[0].root, tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    return ValidationRun(
        workspace=workspace, dataset=read_record(DatasetDescription, workspace.dataset), dataset_folder=made[1],
        plan=read_record(Plan, workspace.plan), device=CPU, precision="fp32",
    )  # fmt: skip


def learn(run, names=("2d",)):
    nothing = np.zeros((2, 3, 4), dtype=np.int16)
    scored = {case: score_case(case, nothing, nothing, VALUES) for fold in FOLDS.values() for case in fold}
    folds = [
        ValidatedFold(fold, run.workspace.root, summarize([scored[case] for case in cases], LABELS))
        for fold, cases in FOLDS.items()
    ]
    return learn_confidence(run, names, folds, [*scored.values()])


@pytest.mark.parametrize("names", [("2d",), ("2d", "3d_lowres")])
def test_held_out_cases_are_measured_once_for_the_same_weights(run, monkeypatch, names):
    first = learn(run, names)
    assert first.confidence.expected_dice == {}
    assert set(first.confidence.temperatures) == {"background", *LABELS}
    assert first.reasons[0].startswith("Temperature ")
    assert first.reasons[-1].startswith(f"Expected Dice of {', '.join(LABELS)}: not learnt")
    written = sorted(run.workspace.root.rglob("confidence/*.npz"))
    assert [path.stem for path in written] == ["phantom_000", "phantom_002", "phantom_001"]

    calls = []
    monkeypatch.setattr(validation_run, "load_configuration", lambda *arguments: calls.append(arguments))
    assert learn(run, names) == first
    assert not calls


def test_other_weights_are_measured_again(run):
    learn(run)
    path = run.workspace.fold("2d", "1") / "checkpoint_final.json"
    write_record(read_record(Checkpoint, path).model_copy(update={"step": 2}), path)
    before = {path: path.stat().st_mtime_ns for path in run.workspace.root.rglob("confidence/*.npz")}
    learn(run)
    again = {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert again == {"phantom_001"}


def test_measurements_are_those_that_prediction_makes(run):
    """The promised overlap of a held-out case is that of the fold's network on the case's own file."""
    learn(run)
    options = PredictionOptions(device="cpu", precision="fp32", configuration="2d", folds=("1",))
    predictor = load_case_predictor(run.workspace, options, CPU)
    (image,) = run.files("phantom_001").images
    prepared = predictor.prepare(read_image([run.dataset_folder / image]))
    counter = LabelSumsCounter(run.plan.encoding)
    predictor._restore(prepared, [counter])
    (path,) = run.workspace.confidence_cases(("2d",), "1").glob("*.npz")
    with np.load(path) as arrays:
        found = arrays["measurements"]
    expected = [sums.measurements for sums in counter.sums.values()]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_missing_cases_are_said_and_a_report_of_an_earlier_selection_goes(run):
    run.workspace.confidence.write_text("{}")
    (run.workspace.preprocessed("2d") / "phantom_001.json").unlink()
    outcome = learn(run)
    assert outcome.confidence is None
    assert outcome.reasons == ("Confidence: not learnt, the preprocessed data of 1 held-out cases is missing.",)
    write_report(outcome, run.workspace)
    assert not run.workspace.confidence.exists()


def test_a_damaged_file_is_named(run):
    learn(run)
    path = next(run.workspace.root.rglob("confidence/phantom_001.npz"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"phantom_001\.npz: missing or damaged .*delete it and select again"):
        learn(run)
