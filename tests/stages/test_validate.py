"""Final validation on phantoms with untrained networks: label maps, scores, and what a cascade passes on."""

import shutil
from dataclasses import replace
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import torch
from skimage.transform import resize

from autoseg.errors import DatasetError, TrainingError
from autoseg.imaging.arrays.storage import open_case
from autoseg.inference.models.case_logits import stream_stored_case
from autoseg.inference.models.loading import load_configuration
from autoseg.records.calibration import Calibration
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Split, Splits
from autoseg.records.workspace import Workspace
from autoseg.stages import validate
from autoseg.stages.describe import describe_dataset
from autoseg.stages.predict import PredictionOptions, Predictor
from autoseg.stages.preprocess import preprocess_dataset
from autoseg.stages.validate import estimate_validation_seconds, lacks_next_step_maps, validate_fold
from autoseg.testing import write_phantom_dataset
from autoseg.testing.phantoms import PHANTOM_LABELS
from autoseg.training.folds.fold import Fold
from autoseg.training.options import TrainingOptions
from tests.builders import CASCADE, make_cascade_plan, predict_logits, write_model

FOLDS = {"0": ("phantom_000", "phantom_002"), "1": ("phantom_001",)}
MIRROR_AXES = (0, 2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, training=3, held_out=1)
    return folder


@pytest.fixture(scope="module")
def plan():
    """Not a multiple of the phantoms' spacing (2.2 to 2.6, 1, 1) mm, and transposed."""
    return make_cascade_plan((3.0, 4.1, 3.3), (1.7, 2.6, 1.9), labels=PHANTOM_LABELS, transpose=(1, 0, 2))


@pytest.fixture(scope="module")
def validated(dataset, plan, tmp_path_factory) -> Workspace:
    """Folds of both stages, all validated; mirrored along other axes than planned."""
    root = tmp_path_factory.mktemp("run") / "w"
    folds = tuple(FOLDS)
    workspace = write_model(root, plan, {"3d_lowres": folds, CASCADE: folds}, mirror_axes=MIRROR_AXES)
    description = describe_dataset(dataset)
    write_record(description, workspace.dataset)
    preprocess_dataset(description, plan, workspace, tuple(plan.configurations), 1)
    cases = [files.case for files in description.cases]
    splits = tuple(
        Split(training=tuple(case for case in cases if case not in held_out), validation=held_out)
        for held_out in FOLDS.values()
    )
    write_record(Splits(folds=splits, reason="by hand"), workspace.splits)
    for name in ("3d_lowres", CASCADE):
        for fold in folds:
            validate_fold(validation_of(workspace, plan, name, fold))
    return workspace


def validation_of(workspace, plan, name, fold):
    return Fold(
        workspace=workspace, dataset=read_record(DatasetDescription, workspace.dataset), plan=plan,
        configuration_name=name, configuration=plan.configurations[name], fold_name=fold,
        split=Split(training=(), validation=FOLDS[fold]), device=torch.device("cpu"), training_precision=torch.float32,
        options=TrainingOptions(precision="fp32"),
    )  # fmt: skip


def validated_map(workspace, name, fold, case):
    image = nibabel.load(workspace.fold(name, fold) / "validation" / f"{case}.nii.gz")
    return np.asarray(image.dataobj).T


@pytest.mark.parametrize("fold", FOLDS)
def test_maps_for_the_next_stage_are_resized_logits_decided(validated, plan, fold):
    (network,) = load_configuration(validated, plan, "3d_lowres", [fold], "final", torch.device("cpu")).networks
    for case in FOLDS[fold]:
        low = open_case(validated.preprocessed("3d_lowres"), case)
        shape = open_case(validated.preprocessed("3d_fullres"), case).record.shape
        logits = predict_logits(network, torch.from_numpy(low.array[:1]), (12, 16, 20), 4, MIRROR_AXES).numpy()
        resized = np.stack([resize(head, shape, order=1, mode="edge", anti_aliasing=False) for head in logits])
        found = blosc2.open(str(validated.next_stage("3d_lowres", fold, CASCADE) / f"{case}.b2nd"), mode="r")
        assert found.dtype == np.int16
        clear = np.sort(resized, axis=0)[-1] - np.sort(resized, axis=0)[-2] > 1e-4
        assert clear.mean() > 0.95
        assert len(np.unique(found[:])) > 2
        np.testing.assert_array_equal(found[:][clear], resized.argmax(axis=0)[clear])


@pytest.mark.parametrize("name", ["3d_lowres", CASCADE])
@pytest.mark.parametrize("fold", FOLDS)
def test_validation_and_prediction_from_the_file_agree(validated, dataset, name, fold):
    """For the cascade: from maps on disk here, both stages in memory there, with the same fold of each."""
    predictor = Predictor(
        validated.root, PredictionOptions(configuration=name, folds=[fold], device="cpu", precision="fp32")
    )
    for case in FOLDS[fold]:
        expected = predictor.predict(dataset / "imagesTr" / f"{case}_0000.nii.gz").labels
        found = validated_map(validated, name, fold, case)
        assert len(np.unique(found)) > 1
        np.testing.assert_array_equal(found, expected)


def test_scores_are_of_the_maps_that_were_written(validated, dataset):
    evaluation = read_record(Evaluation, validated.fold(CASCADE, "0") / "validation" / "evaluation.json")
    assert tuple(scores.case for scores in evaluation.cases) == FOLDS["0"]
    for scores in evaluation.cases:
        found = validated_map(validated, CASCADE, "0", scores.case) == 1
        reference = np.asarray(nibabel.load(dataset / "labelsTr" / f"{scores.case}.nii.gz").dataobj).T == 1
        both = np.count_nonzero(found & reference)
        dice = 2 * both / (np.count_nonzero(found) + np.count_nonzero(reference))
        assert scores.labels["body"].dice == pytest.approx(dice)
        assert scores.labels["body"].surface_dice is not None  # whole metrics, not counts alone
        assert scores.largest_distance_mm is not None


class Killed(BaseException):
    """Stands for the end of the process."""


def test_an_interrupted_validation_resumes_after_the_last_finished_case(validated, plan, tmp_path):
    workspace = Workspace(shutil.copytree(validated.root, tmp_path / "w"))
    fold, name = next(fold for fold, cases in FOLDS.items() if len(cases) > 1), "3d_lowres"
    folder = workspace.fold(name, fold) / "validation"
    undisturbed = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "evaluation.json").unlink()

    def end_after_one(done, _total):
        raise Killed

    with pytest.raises(Killed):
        validate_fold(validation_of(workspace, plan, name, fold), end_after_one)
    first = folder / f"{FOLDS[fold][0]}.nii.gz"
    before = first.stat().st_mtime_ns
    validate_fold(validation_of(workspace, plan, name, fold))
    assert first.stat().st_mtime_ns == before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == undisturbed

    with pytest.raises(Killed):
        validate_fold(validation_of(workspace, plan, name, fold), end_after_one)
    before = first.stat().st_mtime_ns
    other = replace(validation_of(workspace, plan, name, fold), options=TrainingOptions(precision="bf16"))
    with pytest.raises(Killed):
        validate_fold(other, end_after_one)
    assert first.stat().st_mtime_ns > before  # what another precision found is not used


def test_missing_maps_are_noticed_and_written_again(validated, plan):
    low, cascade = (validation_of(validated, plan, name, "1") for name in ("3d_lowres", CASCADE))
    assert not lacks_next_step_maps(low)
    assert not lacks_next_step_maps(cascade)
    path = validated.next_stage("3d_lowres", "1", CASCADE) / "phantom_001.b2nd"
    before = path.read_bytes()
    path.unlink()
    assert lacks_next_step_maps(low)
    with pytest.raises(TrainingError, match=r"(?s)fold 1 has not written its label maps.*-c 3d_lowres -f 1"):
        validate_fold(cascade)
    validate_fold(low)
    assert path.read_bytes() == before
    assert not lacks_next_step_maps(low)


def test_the_estimate_needs_neither_weights_nor_maps(dataset, plan, validated, tmp_path, monkeypatch):
    workspace = Workspace(tmp_path / "w")
    (workspace.root).mkdir()
    (workspace.root / "preprocessed").symlink_to(validated.root / "preprocessed")
    write_record(read_record(DatasetDescription, validated.dataset), workspace.dataset)
    axes = []

    def watch(loaded, *arguments, **options):
        axes.append(loaded.mirror_axes)
        return stream_stored_case(loaded, *arguments, **options)

    monkeypatch.setattr(validate, "stream_stored_case", watch)
    for name in ("3d_lowres", CASCADE):
        validation = validation_of(workspace, plan, name, "0")
        assert estimate_validation_seconds(validation) > 0
        training = validation.spec.model_copy(update={"mirror_axes": ()})
        unmirrored = validation.configuration.model_copy(update={"training": training})
        assert estimate_validation_seconds(replace(validation, configuration=unmirrored)) > 0
    assert axes == [(0, 1, 2), (0, 1, 2), (), ()] * 2


def test_calibration_agrees_with_the_probabilities_of_prediction(validated, dataset, plan):
    """Both before post-processing; prediction keeps probabilities in float16, so a few voxels change bins."""
    counted = read_record(Calibration, validated.fold("3d_lowres", "0") / "validation" / "calibration.json")
    predictor = Predictor(
        validated.root, PredictionOptions(configuration="3d_lowres", folds=["0"], device="cpu", precision="fp32")
    )
    bodies, references = [], []
    for case in FOLDS["0"]:
        file = dataset / "imagesTr" / f"{case}_0000.nii.gz"
        probabilities = predictor.predict(file, probabilities=True).probabilities
        assert probabilities is not None
        bodies.append(probabilities[1].astype(np.float64).ravel())
        references.append(np.asarray(nibabel.load(dataset / "labelsTr" / f"{case}.nii.gz").dataobj).T.ravel() == 1)
    body, reference = np.concatenate(bodies), np.concatenate(references)
    likely, found = body >= 0.05, counted.labels["body"]
    assert np.count_nonzero(likely) > 1000
    assert sum(found.voxels) == pytest.approx(np.count_nonzero(likely), rel=2e-3)
    assert sum(found.label_voxels) == pytest.approx(np.count_nonzero(reference & likely), rel=2e-3)
    assert sum(found.probability_sums) == pytest.approx(body[likely].sum(), rel=2e-3)


def test_calibration_does_not_depend_on_how_files_are_stored(validated, dataset, plan, tmp_path):
    """The same cases, stored with other axes: truth is brought to where the network's answer lies."""
    workspace = Workspace(tmp_path / "w")
    shutil.copytree(validated.root, workspace.root)
    for path in dataset.glob("*/*.nii.gz"):
        turned = nibabel.load(path).as_reoriented([[1, -1], [2, 1], [0, -1]])
        (tmp_path / "turned" / path.parent.name).mkdir(parents=True, exist_ok=True)
        nibabel.save(turned, tmp_path / "turned" / path.parent.name / path.name)
    validation = validation_of(workspace, plan, "3d_lowres", "0")
    moved = validation.dataset.model_copy(update={"folder": "../turned"})
    validate_fold(replace(validation, dataset=moved))
    file = Path("validation", "calibration.json")
    before, after = (read_record(Calibration, one.fold("3d_lowres", "0") / file) for one in (validated, workspace))
    assert after == before


def test_a_label_map_of_another_shape_than_at_preprocessing_is_named(validated, dataset, plan, tmp_path):
    copied = tmp_path / "phantoms"
    shutil.copytree(dataset, copied)
    fold = validation_of(validated, plan, "3d_lowres", "1")
    fold = replace(fold, dataset=fold.dataset.model_copy(update={"folder": str(copied)}))
    (case,) = FOLDS["1"]
    for file in (f"labelsTr/{case}.nii.gz", f"imagesTr/{case}_0000.nii.gz"):
        image = nibabel.load(copied / file)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:, :-3], image.affine), copied / file)
    with pytest.raises(DatasetError, match=rf"labelsTr/{case}\.nii\.gz: has .* voxels, and the image .* preprocessed"):
        validate_fold(fold)
