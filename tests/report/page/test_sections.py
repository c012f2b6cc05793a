"""Texts of the page: state, next command, comparison, versions, recipe."""

import hashlib
from typing import Any

import pytest

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import IMPORTED, Plan, Split, Splits
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.report.page.dataset_section import render_dataset
from autoseg.report.page.sections import list_recipe_steps, render_headline, render_versions
from autoseg.report.page.validation import read_pooled_folds


def headline(workspace, plan, selection=None):
    """Text of the headline."""
    selected = read_record(Evaluation, workspace.evaluation) if selection is not None else None
    validations = read_pooled_folds(workspace)
    description = read_record(DatasetDescription, workspace.dataset)
    return render_headline(workspace, description, plan, selection, validations, selected).striptags()


def add_splits(workspace, folds=2):
    split = Split(training=("a",), validation=("b",))
    write_record(Splits(folds=(split,) * folds, reason="by hand"), workspace.splits)


def finish(workspace, fold):
    """A fold that counts as trained."""
    folder = workspace.fold("3d_fullres", fold)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_final.safetensors").write_bytes(b"weights of fold " + fold.encode())


def test_a_planned_workspace_says_what_to_train(planned, plan):
    add_splits(planned)
    text = headline(planned, plan)
    assert text.startswith("Planned, not trained yet cases2 labels2 warnings1 configurations3d_fullres Next: train 3d")
    assert text.endswith("autoseg-train workspace -c 3d_fullres -f 0")


def test_the_next_missing_fold_is_named_then_the_selection(trained, plan):
    add_splits(trained)
    finish(trained, "0")
    text = headline(trained, plan)
    assert "2 held-out cases of fold 0, before any tuning" in text
    assert text.startswith("Trained, not selected yet; best so far: 3d_fullres 0.901 mean")
    assert text.endswith("autoseg-train workspace -c 3d_fullres -f 1")
    finish(trained, "1")
    assert headline(trained, plan).endswith("autoseg select workspace")


def test_a_selected_workspace_predicts(selected, plan):
    selection = read_record(Selection, selected.selection).model_copy(update={"interval": (0.9, 0.925)})
    text = headline(selected, plan, selection)
    score = "0.912 mean foreground Dice 95 % interval 0.900 to 0.925"
    origin = "2 held-out cases of fold 0, after post-processing chosen on the same cases; 0.901 before"
    assert text.startswith(f"Selected: 3d_fullres {score}{origin} cases2")
    assert text.endswith("autoseg-predict -m workspace -i IMAGES -o OUTPUT")


def test_the_score_before_tuning_is_left_out_where_it_is_of_other_cases(selected, plan):
    selection = read_record(Selection, selected.selection).model_copy(update={"region_thresholds": {"lesion": 0.3}})
    evaluation = read_record(Evaluation, selected.evaluation)
    write_record(evaluation.model_copy(update={"cases": evaluation.cases[:1]}), selected.evaluation)
    text = headline(selected, plan, selection)
    assert "1 held-out case of fold 0, after thresholds and post-processing chosen on the same cases cases2" in text


def test_a_score_without_tuning_says_so(selected, plan):
    selection = read_record(Selection, selected.selection).model_copy(update={"postprocessing": ()})
    assert "2 held-out cases of fold 0; nothing was tuned on them cases2" in headline(selected, plan, selection)


def test_an_imported_model_predicts(planned, plan):
    imported = plan.model_copy(update={"planner": IMPORTED})
    assert headline(planned, imported).endswith("autoseg-predict -m workspace -i IMAGES -o OUTPUT")


def test_weights_are_named_by_their_hash(planned):
    finish(planned, "0")
    record = read_checkpoint(planned)
    write_record(record, planned.fold("3d_fullres", "0") / "checkpoint_final.json")
    versions = render_versions(planned).striptags()
    digest = hashlib.sha256(b"weights of fold 0").hexdigest()[:16]
    assert f"3d_fullres01,00010 min{digest}" in versions
    assert f"plan.json{hashlib.sha256(planned.plan.read_bytes()).hexdigest()[:16]}" in versions


def read_checkpoint(workspace):
    training = read_record(Plan, workspace.plan).configurations["3d_fullres"].training
    return Checkpoint(
        configuration="3d_fullres", fold="0", model_hash="a", cases_hash="b", training=training, epoch=4, step=1000,
        elapsed_seconds=600.0, finished=True,
    )  # fmt: skip


@pytest.mark.parametrize("has_fingerprint", [True, False])
def test_a_dataset_is_described_with_what_there_is(planned, has_fingerprint):
    fingerprint = read_record(Fingerprint, planned.fingerprint) if has_fingerprint else None
    section = render_dataset(planned, read_record(DatasetDescription, planned.dataset), fingerprint, None)
    assert ("<figcaption>Size of every label</figcaption>" in section) == has_fingerprint
    assert ("<figcaption>a</figcaption>" in section) == has_fingerprint
    assert "<td>labels/b.nii.gz</td><td>no &lt;lesion&gt; in it</td>" in section
    assert '<li class="l0">&lt;b&gt;liver&lt;/b&gt;</li><li class="l1">lesion</li>' in section


def make_selection(**changes):
    values: dict[str, Any] = {
        "configurations": ("2d", "3d_fullres"),
        "folds": ("0", "1"),
        "mean_foreground_dice": 0.9,
        "candidates": (),
        "reasons": (),
    }
    return Selection(**(values | changes))


def test_every_step_is_said_in_order():
    steps = (KeepLargestComponent(labels=("a", "b")), KeepLargestComponent(labels=("a",)))
    assert list_recipe_steps(make_selection(postprocessing=steps, region_thresholds={"core": 0.35})) == [
        "predict with 2d and 3d_fullres, folds 0, 1, and average their probabilities",
        "core: probability at least 0.35",
        "keep the largest component of a, b",
        "keep the largest component of a",
    ]


def test_the_decision_is_a_step():
    decided = make_selection(configurations=("2d",), folds=("3",), decision="expected-dice")
    assert list_recipe_steps(decided) == [
        "predict with 2d, fold 3",
        "take as many voxels of each label as maximise its expected Dice in the case",
        "no post-processing: no step improved the score",
    ]


def test_a_single_network_averages_nothing():
    assert list_recipe_steps(make_selection(configurations=("2d",), folds=("3",))) == [
        "predict with 2d, fold 3",
        "no post-processing: no step improved the score",
    ]


def test_refined_boundaries_come_before_post_processing(make_refinement):
    steps = (KeepLargestComponent(labels=("a",)),)
    said = list_recipe_steps(make_selection(refinement=make_refinement(3), postprocessing=steps))
    assert said[1:] == ["refine boundaries with 3 small networks, averaged", "keep the largest component of a"]
