"""Texts of the page: state, next command, comparison, versions, recipe."""

import hashlib
from typing import Any

import pytest

from autoseg.metrics.summary import summarize
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import IMPORTED, Plan, Split, Splits
from autoseg.records.postprocessing import KeepLargestComponent
from autoseg.records.selection import Selection
from autoseg.report.page.dataset_section import describe_dataset_section
from autoseg.report.page.results_section import describe_results
from autoseg.report.page.sections import describe_headline, describe_recipe, describe_versions
from autoseg.report.page.validation import read_pooled_folds


def headline(workspace, plan, selection=None, interval=None):
    validations = read_pooled_folds(workspace)
    description = read_record(DatasetDescription, workspace.dataset)
    return describe_headline(workspace, description, plan, selection, validations, interval)


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
    said = headline(planned, plan)
    assert (said.state, said.score) == ("Planned, not trained yet", "")
    assert said.command == "autoseg-train workspace -c 3d_fullres -f 0"
    assert dict(said.tiles) == {"cases": "2", "labels": "2", "warnings": "1", "configurations": "3d_fullres"}


def test_the_next_missing_fold_is_named_then_the_selection(trained, plan):
    add_splits(trained)
    finish(trained, "0")
    said = headline(trained, plan)
    assert said.state == "Trained, not selected yet; best so far: 3d_fullres"
    assert said.command == "autoseg-train workspace -c 3d_fullres -f 1"
    finish(trained, "1")
    assert headline(trained, plan).command == "autoseg select workspace"


def test_a_selected_workspace_predicts(selected, plan):
    said = headline(selected, plan, read_record(Selection, selected.selection), (0.9, 0.925))
    assert (said.state, said.score, said.interval) == (
        "Selected: 3d_fullres", "0.912", "95 % interval 0.900 to 0.925",
    )  # fmt: skip
    assert said.command == "autoseg-predict -m workspace -i IMAGES -o OUTPUT"


def test_an_imported_model_predicts(planned, plan):
    imported = plan.model_copy(update={"planner": IMPORTED})
    assert headline(planned, imported).command.startswith("autoseg-predict")


def test_post_processing_is_compared_label_by_label(selected):
    (validation,) = read_pooled_folds(selected)
    selection = read_record(Selection, selected.selection)
    before = validation.evaluation
    better = {name: scores.model_copy(update={"dice": 1.0}) for name, scores in before.cases[1].labels.items()}
    cases = [before.cases[0], before.cases[1].model_copy(update={"labels": better})]
    after = summarize(cases, list(before.labels))
    section = describe_results(selection, after, [validation])
    old, new = before.labels["<b>liver</b>"].dice, after.labels["<b>liver</b>"].dice
    assert old is not None
    assert new is not None
    assert section.postprocessing[0] == ("<b>liver</b>", f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}")
    assert section.postprocessing[-1][0] == "mean of labels"
    fewer: Evaluation = summarize(cases[:1], list(before.labels))
    assert describe_results(selection, fewer, [validation]).postprocessing == []


def test_ensembles_among_the_candidates_are_compared(selected):
    selection = read_record(Selection, selected.selection)
    pair = selection.candidates[0].model_copy(update={"configurations": ("2d", "3d_fullres"), "interval": (0.8, 0.95)})
    both = selection.model_copy(update={"candidates": (*selection.candidates, pair)})
    section = describe_results(both, None, read_pooled_folds(selected))
    assert "2d + 3d_fullres 0.900 (95 % interval 0.800 to 0.950)" in str(section.figures[0].drawing)


def test_weights_are_named_by_their_hash(planned):
    finish(planned, "0")
    record = read_checkpoint(planned)
    write_record(record, planned.fold("3d_fullres", "0") / "checkpoint_final.json")
    versions = describe_versions(planned)
    digest = hashlib.sha256(b"weights of fold 0").hexdigest()[:16]
    assert versions.folds == [("3d_fullres", "0", "1,000", "10 min", digest)]
    assert ("plan.json", hashlib.sha256(planned.plan.read_bytes()).hexdigest()[:16]) in versions.files


def read_checkpoint(workspace):
    training = read_record(Plan, workspace.plan).configurations["3d_fullres"].training
    return Checkpoint(
        configuration="3d_fullres", fold="0", model_hash="a", cases_hash="b", training=training, epoch=4, step=1000,
        elapsed_seconds=600.0, finished=True,
    )  # fmt: skip


@pytest.mark.parametrize("has_fingerprint", [True, False])
def test_a_dataset_is_described_with_what_there_is(planned, has_fingerprint):
    fingerprint = read_record(Fingerprint, planned.fingerprint) if has_fingerprint else None
    section = describe_dataset_section(planned, read_record(DatasetDescription, planned.dataset), fingerprint, None)
    titles = [figure.title for figure in section.figures]
    assert ("Size of every label" in titles) == has_fingerprint
    assert bool(section.samples) == has_fingerprint
    assert section.warnings == [("b", "labels/b.nii.gz", "no <lesion> in it")]
    assert section.legend == [("<b>liver</b>", 0), ("lesion", 1)]


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
    assert describe_recipe(make_selection(postprocessing=steps, region_thresholds={"core": 0.35})) == [
        "predict with 2d and 3d_fullres, folds 0, 1, and average their probabilities",
        "core: probability at least 0.35",
        "keep the largest component of a, b",
        "keep the largest component of a",
    ]


def test_a_single_network_averages_nothing():
    assert describe_recipe(make_selection(configurations=("2d",), folds=("3",))) == [
        "predict with 2d, fold 3",
        "no post-processing: no step improved the score",
    ]


def test_refined_boundaries_come_before_post_processing(make_refinement):
    steps = (KeepLargestComponent(labels=("a",)),)
    said = describe_recipe(make_selection(refinement=make_refinement(3), postprocessing=steps))
    assert said[1:] == ["refine boundaries with 3 small networks, averaged", "keep the largest component of a"]
