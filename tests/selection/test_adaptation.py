"""Whether matched intensities do harm: the limits, the sentence, and a whole selection by them."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.errors import UsageError
from autoseg.imaging.arrays.contrast import measure_contrast, summarize_contrasts
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.records.dataset import foreground_names
from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.records.files import write_record
from autoseg.selection.adaptation import judge_adaptation, try_adaptation
from autoseg.selection.label_decision import TriedDecision
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from tests.builders import (
    load_exactly,
    make_case_fingerprint,
    make_dataset,
    make_fingerprint,
    make_plan,
    write_model,
    write_nifti,
)

CASES = ("a", "b")


def scored(one, two):
    """Scores of one case."""
    labels = {
        name: LabelScores(
            dice=dice,
            iou=dice,
            true_positives=0,
            false_positives=0,
            false_negatives=0,
            predicted_voxels=0,
            reference_voxels=0,
        )
        for name, dice in (("one", one), ("two", two))
    }
    return summarize([CaseScores(case="a", labels=labels)], ["one", "two"])


@pytest.mark.parametrize(
    ("after", "allowed"),
    [
        ((0.80, 0.60), "histogram"),
        ((0.85, 0.70), "histogram"),
        ((0.796, 0.595), "histogram"),
        ((0.794, 0.594), "none"),
        ((0.788, 0.61), "none"),
    ],
)
def test_small_losses_are_allowed(after, allowed):
    assert judge_adaptation(scored(0.8, 0.6), scored(*after), "histogram").adaptation == allowed


def test_the_sentence_has_the_figures():
    (sentence,) = judge_adaptation(scored(0.8, 0.6), scored(0.79, 0.57), "histogram").reasons
    assert sentence == (
        "Intensities matched to those of the training images: not allowed; all held-out cases adapted: Dice 0.7000 -> "
        "0.6800 (-0.0200, two -0.0300); a loss of 0.005 is tolerated, of one label 0.01."
    )


def test_without_a_dice_nothing_is_allowed():
    (sentence,) = judge_adaptation(scored(None, None), scored(None, None), "statistics").reasons
    assert "not allowed, there is no Dice to compare" in sentence
    assert judge_adaptation(scored(0.8, None), scored(None, None), "histogram").adaptation == "none"


def rough_image(seed):
    return (300 + 100 * ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(9, 18, 16)), 1)).astype("f4")


@pytest.fixture
def model(tmp_path):
    """A model of two folds, each of which held out one case, whose reference is what the fold predicts."""
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    workspace = write_model(tmp_path / "w", plan, {"3d_fullres": ("0", "1")})
    contrasts = summarize_contrasts([measure_contrast(rough_image(seed)[None] ** 3) for seed in range(5)])
    write_record(make_fingerprint([make_case_fingerprint()], plan, contrasts=contrasts), workspace.fingerprint)
    run = ValidationRun(
        workspace=workspace, dataset=make_dataset(CASES, plan), dataset_folder=tmp_path / "data", plan=plan,
        device=torch.device("cpu"), precision="fp32",
    )  # fmt: skip
    folds = []
    for fold, case in enumerate(CASES):
        image = write_nifti(rough_image(fold), run.dataset_folder / run.files(case).images[0])
        labels = load_exactly(workspace.root, folds=(str(fold),)).predict(image).labels
        write_nifti(labels, run.dataset_folder / run.files(case).label)
        scores = score_case(case, labels, labels, plan.labels)
        folds.append(ValidatedFold(str(fold), tmp_path, summarize([scores], foreground_names(plan.encoding))))
    return run, TriedDecision("argmax", tuple(folds), ())


def test_each_case_is_predicted_by_its_fold_with_matched_intensities(model):
    run, decided = model
    scores = []
    for fold, case in enumerate(CASES):
        files = run.files(case)
        predictor = load_exactly(run.workspace.root, folds=(str(fold),), adapt="histogram")
        adapted = predictor.predict(run.dataset_folder / files.images[0]).labels
        reference = load_exactly(run.workspace.root, folds=(str(fold),)).predict(run.dataset_folder / files.images[0])
        scores.append(score_case(case, adapted, reference.labels, run.plan.labels))
    expected = summarize(scores, foreground_names(run.plan.encoding)).mean_foreground_dice
    assert expected is not None
    tried = try_adaptation(run, ("3d_fullres",), decided, {}, "histogram")
    assert f"Dice 1.0000 -> {expected:.4f}" in tried.reasons[0]
    assert expected < 0.999


def test_without_contrasts_it_is_not_tried(model):
    run, decided = model
    write_record(make_fingerprint([make_case_fingerprint()], run.plan), run.workspace.fingerprint)
    tried = try_adaptation(run, ("3d_fullres",), decided, {}, "histogram")
    assert tried.adaptation == "none"
    assert tried.reasons[0].endswith("not tried, fingerprint.json has no contrasts; plan the dataset again.")


def test_networks_without_statistics_are_refused(model):
    run, decided = model
    with pytest.raises(UsageError, match="the networks of 3d_fullres keep no statistics of normalisation"):
        try_adaptation(run, ("3d_fullres",), decided, {}, "statistics")
