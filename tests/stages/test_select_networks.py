"""Selection with untrained networks for regions: pairs, thresholds, post-processing, and prediction by the recipe."""

import json

import nibabel
import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map
from autoseg.inference.models import case_logits as inference_case
from autoseg.postprocessing import apply_postprocessing
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record, write_text
from autoseg.records.plan import Plan, Split, Splits
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.describe import describe_dataset
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.select import SelectionOptions, select_model
from autoseg.stages.validate import validate_fold
from autoseg.testing import write_phantom_dataset
from autoseg.training.folds.fold import Fold
from autoseg.training.options import TrainingOptions
from tests.builders import REGIONS, make_plan, write_model

FOLDS = {"0": ("phantom_000", "phantom_002"), "1": ("phantom_001",)}
NAMES = ("2d", "3d_fullres")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, training=3, held_out=0)
    content = json.loads((folder / "dataset.json").read_text())
    write_text(json.dumps({**content, "labels": REGIONS, "regions_class_order": (1, 2, 3)}), folder / "dataset.json")
    return folder


@pytest.fixture(params=["fp32", "bf16", "auto, 16 bits on", "auto, 16 bits off"])
def precision(request, monkeypatch) -> str:
    """The precision of validation, selection and prediction, whatever this machine's processor computes in."""
    word: str
    word, _, has_16_bits = request.param.partition(", 16 bits ")
    monkeypatch.setattr("autoseg.networks.devices._cpu_computes_bf16", lambda: has_16_bits == "on")
    return word


@pytest.fixture
def workspace(dataset, tmp_path, precision) -> Workspace:
    description = describe_dataset(dataset)
    plan = make_plan({"2d": (2.1, 2.7), "3d_fullres": (3.0, 2.6, 2.9)}, labels=REGIONS, transpose=(1, 2, 0))
    workspace = write_model(tmp_path / "w", plan, dict.fromkeys(NAMES, tuple(FOLDS)))
    write_record(description, workspace.dataset)
    preprocess_dataset(description, plan, workspace, NAMES, 1)
    splits = [Split(training=(), validation=cases) for cases in FOLDS.values()]
    write_record(Splits(folds=tuple(splits), reason="by hand"), workspace.splits)
    for name in NAMES:
        for fold, cases in FOLDS.items():
            validated = Fold(
                workspace=workspace, dataset=description, plan=plan, configuration_name=name,
                configuration=plan.configurations[name], fold_name=fold, split=Split(training=(), validation=cases),
                device=torch.device("cpu"), training_precision=torch.float32,
                options=TrainingOptions(precision=precision),
            )  # fmt: skip
            validate_fold(validated)
    return workspace


def test_what_was_scored_is_what_the_recipe_predicts(workspace, dataset, monkeypatch, precision):
    selection = select_model(workspace, dataset, SelectionOptions(device="cpu", precision=precision))

    assert read_record(Selection, workspace.selection) == selection
    assert {one.configurations for one in selection.candidates} == {("2d",), ("3d_fullres",), NAMES}
    assert sum("Threshold of" in text for text in selection.reasons) == 3
    assert selection.region_thresholds
    winner = selection.candidates[0]
    assert winner.mean_foreground_dice is not None
    assert selection.mean_foreground_dice is not None
    assert selection.mean_foreground_dice > winner.mean_foreground_dice
    evaluation = read_record(Evaluation, workspace.evaluation)
    assert [scores.case for scores in evaluation.cases] == [case for cases in FOLDS.values() for case in cases]
    encoding = read_record(Plan, workspace.plan).encoding
    for fold, cases in FOLDS.items():
        predictor = Predictor(workspace.root, PredictionOptions(folds=[fold], device="cpu", precision=precision))
        for case in cases:
            stored = nibabel.load(workspace.thresholds(selection.configurations, fold) / f"{case}.nii.gz")
            indices = encode_label_map(np.asarray(stored.dataobj).T, encoding)
            spacing = stored.header.get_zooms()[::-1]
            kept = decode_label_map(
                apply_postprocessing(indices, selection.postprocessing, encoding, spacing), encoding
            )
            assert len(np.unique(kept)) > 1
            found = predictor.predict(dataset / "imagesTr" / f"{case}_0000.nii.gz").labels
            np.testing.assert_array_equal(found, kept)

    def refuse(*_arguments, **_options):
        raise AssertionError("a network runs again")

    monkeypatch.setattr(inference_case, "stream_logits", refuse)
    assert select_model(workspace, dataset, SelectionOptions(device="cpu", precision=precision)) == selection


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
def test_without_preprocessed_cases_there_is_a_way_on(workspace, dataset):
    for name in NAMES:
        (workspace.preprocessed(name) / "phantom_000.json").unlink()
    with pytest.raises(
        UsageError,
        match=r"preprocessed data of case phantom_000 is missing, .*autoseg-plan .*--no-ensembles --no-thresholds",
    ):
        select_model(workspace, dataset, SelectionOptions(device="cpu"))
    with pytest.raises(
        UsageError,
        match=r"preprocessed data of case phantom_000 is missing, .*autoseg-plan .*--no-ensembles --no-thresholds",
    ):
        select_model(workspace, dataset, SelectionOptions(ensembles=False, device="cpu"))
    alone = SelectionOptions(ensembles=False, thresholds=False, device="cpu")
    assert len(select_model(workspace, dataset, alone).candidates) == 2
