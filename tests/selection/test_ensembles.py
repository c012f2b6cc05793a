"""Pairs of untrained networks on phantoms: the same label maps as prediction, one pass per configuration and case."""

import shutil

import nibabel
import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.inference.models.case_logits import stream_stored_case
from autoseg.metrics.overlap import score_case
from autoseg.progress import no_progress
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Plan, Split, Splits
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.selection import validation_run
from autoseg.selection.ensembles import validate_pairs
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from autoseg.stages.describe import describe_dataset
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.validate import validate_fold
from autoseg.testing import write_phantom_dataset
from autoseg.testing.phantoms import PHANTOM_LABELS
from autoseg.training.folds.fold import Fold
from autoseg.training.options import TrainingOptions
from tests.builders import CASCADE, make_cascade_plan, make_plan, write_model

FOLDS = {"0": ("phantom_000", "phantom_002"), "1": ("phantom_001",)}
NAMES = ("2d", "3d_lowres", CASCADE)
PAIRS = [("2d", "3d_lowres"), ("2d", CASCADE), ("3d_lowres", CASCADE)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, training=3, held_out=1)
    return folder


@pytest.fixture(scope="module")
def validated(dataset, tmp_path_factory) -> Workspace:
    """Three configurations of different spacing, one of them a cascade; all folds validated."""
    plan = make_cascade_plan((3.0, 4.1, 3.3), (1.7, 2.6, 1.9), labels=PHANTOM_LABELS, transpose=(1, 0, 2))
    flat = make_plan({"2d": (2.1, 2.7)}, labels=plan.labels).configurations["2d"]
    plan = Plan.model_validate(plan.model_copy(update={"configurations": {**plan.configurations, "2d": flat}}))
    workspace = write_model(tmp_path_factory.mktemp("run") / "w", plan, dict.fromkeys(NAMES, tuple(FOLDS)))
    description = describe_dataset(dataset)
    write_record(description, workspace.dataset)
    preprocess_dataset(description, plan, workspace, tuple(plan.configurations), 1)
    everything = {case for cases in FOLDS.values() for case in cases}
    splits = [Split(training=tuple(sorted(everything - {*cases})), validation=cases) for cases in FOLDS.values()]
    write_record(Splits(folds=tuple(splits), reason="by hand"), workspace.splits)
    for name in NAMES:
        for fold, cases in FOLDS.items():
            validate_fold(
                Fold(
                    workspace=workspace,
                    dataset=description,
                    plan=plan,
                    configuration_name=name,
                    configuration=plan.configurations[name],
                    fold_name=fold,
                    split=Split(training=(), validation=cases),
                    device=CPU,
                    training_precision=torch.float32,
                    options=TrainingOptions(precision="fp32"),
                )
            )
    return workspace


@pytest.fixture
def workspace(validated, tmp_path):
    """A copy to change; paths of the dataset in it are absolute."""
    shutil.copytree(validated.root, tmp_path / "w")
    return Workspace(tmp_path / "w")


@pytest.fixture
def passes(monkeypatch):
    """Names of the configurations that run, in order."""
    calls = []

    def watch(loaded, *arguments, **options):
        calls.append(loaded.name)
        return stream_stored_case(loaded, *arguments, **options)

    monkeypatch.setattr(validation_run, "stream_stored_case", watch)
    return calls


def run_of(workspace, dataset):
    return ValidationRun(
        workspace=workspace, dataset=read_record(DatasetDescription, workspace.dataset), dataset_folder=dataset,
        plan=read_record(Plan, workspace.plan), device=CPU, precision="fp32",
    )  # fmt: skip


def folds_of(workspace, name, folds=tuple(FOLDS)):
    folders = [workspace.validation((name,), fold) for fold in folds]
    return [
        ValidatedFold(fold, folder, read_record(Evaluation, folder / "evaluation.json"))
        for fold, folder in zip(folds, folders, strict=True)
    ]


def validate_all(workspace, dataset, names=NAMES, progress=no_progress):
    singles = {name: folds_of(workspace, name) for name in names}
    return validate_pairs(run_of(workspace, dataset), singles, progress)


def read_map(path):
    return np.asarray(nibabel.load(path).dataobj).T


def test_every_pair_predicts_what_the_recipe_predicts(workspace, dataset, passes):
    calls = []
    found = validate_all(workspace, dataset, progress=lambda done, total: calls.append((done, total)))
    assert list(found) == PAIRS
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert sorted(passes) == sorted(NAMES * 3)  # one pass per case and configuration, whatever the number of pairs
    for pair, folds in found.items():
        assert [one.fold for one in folds] == ["0", "1"]
        for one in folds:
            recipe = Selection(
                configurations=pair, folds=(one.fold,), mean_foreground_dice=None, candidates=(), reasons=()
            )
            write_record(recipe, workspace.selection)
            predictor = Predictor(workspace.root, PredictionOptions(device="cpu", precision="fp32"))
            for case in FOLDS[one.fold]:
                expected = predictor.predict(dataset / "imagesTr" / f"{case}_0000.nii.gz").labels
                label_map = read_map(one.folder / f"{case}.nii.gz")
                assert len(np.unique(label_map)) > 1
                np.testing.assert_array_equal(label_map, expected)
                for name in pair:
                    alone = read_map(workspace.validation((name,), one.fold) / f"{case}.nii.gz")
                    assert (label_map != alone).any()


def test_scores_are_of_the_label_maps(workspace, dataset):
    found = validate_all(workspace, dataset, names=("2d", "3d_lowres"))
    assert list(found) == PAIRS[:1]
    for one in found["2d", "3d_lowres"]:
        assert one.folder == workspace.root / "models" / "ensembles" / "2d+3d_lowres" / f"fold_{one.fold}"
        assert read_record(Evaluation, one.folder / "evaluation.json") == one.evaluation
        for scores in one.evaluation.cases:
            reference = read_map(dataset / "labelsTr" / f"{scores.case}.nii.gz")
            prediction = read_map(one.folder / f"{scores.case}.nii.gz")
            again = score_case(scores.case, prediction, reference, dict(PHANTOM_LABELS))
            for name, counted in again.labels.items():
                found_here = scores.labels[name]
                assert (found_here.dice, found_here.true_positives) == (counted.dice, counted.true_positives)
            assert scores.surface_tolerance_mm == 1.0


def test_a_killed_run_goes_on_and_a_finished_one_runs_no_network(workspace, dataset, passes, monkeypatch):
    def stop(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        validate_all(workspace, dataset, progress=stop)
    assert len(passes) == 6
    assert not any((workspace.root / "models" / "ensembles").glob("*/fold_1/*.nii.gz"))
    passes.clear()
    lost = workspace.validation(PAIRS[0], "0") / "phantom_002.nii.gz"
    content = read_map(lost)
    lost.unlink()
    first = validate_all(workspace, dataset)
    assert sorted(passes) == sorted(["2d", "3d_lowres", *NAMES])
    np.testing.assert_array_equal(read_map(lost), content)
    passes.clear()
    monkeypatch.setattr(validation_run, "load_configuration", None)
    assert validate_all(workspace, dataset) == first
    assert passes == []


def test_maps_of_other_weights_are_made_again(workspace, dataset, passes):
    validate_all(workspace, dataset)
    passes.clear()
    path = workspace.fold("3d_lowres", "1") / "checkpoint_final.json"
    write_record(read_record(Checkpoint, path).model_copy(update={"step": 7}), path)
    stray = workspace.validation(PAIRS[0], "1") / "phantom_000.nii.gz"
    stray.write_bytes(b"of an earlier split")

    validate_all(workspace, dataset, names=("2d", "3d_lowres"))

    assert passes == ["2d", "3d_lowres"]  # the one case of fold 1
    assert not stray.exists()


def test_only_folds_and_cases_that_both_have_are_combined(workspace, dataset, passes):
    singles = {"2d": folds_of(workspace, "2d", ("0",)), "3d_lowres": folds_of(workspace, "3d_lowres")}
    found = validate_pairs(run_of(workspace, dataset), singles)
    assert [one.fold for one in found["2d", "3d_lowres"]] == ["0"]
    assert passes == ["2d", "3d_lowres"] * 2
    apart = {"2d": folds_of(workspace, "2d", ("0",)), "3d_lowres": folds_of(workspace, "3d_lowres", ("1",))}
    assert validate_pairs(run_of(workspace, dataset), apart) == {}


def test_a_case_that_is_not_preprocessed_says_what_to_run(workspace, dataset):
    shutil.rmtree(workspace.root / "preprocessed" / "2d")
    with pytest.raises(
        UsageError,
        match=r"(?s)preprocessed/2d: the preprocessed data of case phantom_000 is missing.*autoseg-plan .*--no-ensembl",
    ):
        validate_all(workspace, dataset)


def test_a_cascade_without_maps_of_its_previous_stage_says_so(workspace, dataset):
    (workspace.next_stage("3d_lowres", "1", CASCADE) / "phantom_001.b2nd").unlink()
    with pytest.raises(UsageError, match=r"(?s)fold 1 has not written its label maps.*--no-ensembles"):
        validate_all(workspace, dataset)
