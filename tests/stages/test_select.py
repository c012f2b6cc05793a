"""Selection on hand-made folds: every choice follows from numbers worked out by hand."""

import hashlib
from contextlib import nullcontext

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError, LockedError, UsageError
from autoseg.folds import find_retrained_folds
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.datasets.cases import files_state
from autoseg.inference.models.recipes import choose_recipe
from autoseg.locks import lock, refuse_trainings
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import CaseFiles, DatasetDescription, LabelValues
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.fingerprint import Fingerprint, data_hash
from autoseg.records.plan import Plan, Split, Splits, model_hash
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.records.suspects import Suspects
from autoseg.records.workspace import Workspace
from autoseg.selection import comparison, usable_folds
from autoseg.selection.validation_run import ValidatedFold
from autoseg.stages import select
from autoseg.stages.select import SelectionOptions
from tests.builders import (
    CASCADE,
    make_cascade_plan,
    make_case_fingerprint,
    make_dataset,
    make_fingerprint,
    make_interactive_plan,
    make_plan,
)


def select_model(workspace, dataset_folder=None, **options):
    """Of single configurations: hand-made folds have no networks."""
    alone = SelectionOptions(ensembles=False, thresholds=False, device="cpu")
    return select.select_model(workspace, dataset_folder, alone, **options)


LABELS: dict[str, LabelValues] = {"background": 0, "one": 10, "two": 20}
ENCODING = make_encoding(LABELS)
REGION_LABELS: dict[str, LabelValues] = {"background": 0, "whole": (1, 2), "core": 2}
REGIONS = make_encoding(REGION_LABELS, (1, 2))


def as_map(*rows, scale=10):
    """A map (2, rows, columns) whose digits are times 10 the file values; the second slice is empty."""
    plane = [[scale * int(voxel) for voxel in row] for row in rows]
    return np.array([plane, np.zeros_like(plane)], dtype=np.uint8)


def write_map(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.9, 3.0))
    SimpleITK.WriteImage(image, str(path))


class Run:
    """A workspace with hand-made references and folds."""

    def __init__(self, root, references, labels, encoding):
        self.workspace, self.references, self.labels = Workspace(root / "w"), references, labels
        for case, array in references.items():
            write_map(root / "data" / "labels" / f"{case}.nii.gz", array)
        plan = make_plan(labels=labels, encoding=encoding)
        description = make_dataset(sorted(references), plan, folder="../data")
        write_record(description, self.workspace.dataset)
        write_record(plan, self.workspace.plan)
        split = Split(training=(), validation=())
        write_record(Splits(folds=(split, split), reason="by hand"), self.workspace.splits)

    def train(self, configuration, fold, predictions=None):
        folder = self.workspace.fold(configuration, fold)
        folder.mkdir(parents=True)
        (folder / "checkpoint_final.safetensors").touch()
        if predictions is None:
            return
        for case, array in predictions.items():
            write_map(folder / "validation" / f"{case}.nii.gz", array)
        scores = [score_case(case, array, self.references[case], self.labels) for case, array in predictions.items()]
        names = [name for name in self.labels if name != "background"]
        write_record(summarize(scores, names), folder / "validation" / "evaluation.json")


REFERENCES = {
    "a": as_map("1110022", "1110022"),
    "b": as_map("1100022", "1100022"),
}
GOOD = {
    "a": as_map("1110022", "1110020"),
    "b": as_map("1100022", "1100020"),
}
POOR = {
    "a": as_map("1000022", "1000020"),
    "b": as_map("1000022", "1000020"),
}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, dict(REFERENCES), LABELS, ENCODING)


def test_the_best_over_all_cases_of_all_folds_is_chosen(run):
    for configuration, predictions in {"2d": POOR, "3d_fullres": GOOD}.items():
        run.train(configuration, "0", {"a": predictions["a"]})
        run.train(configuration, "1", {"b": predictions["b"]})

    selection = select_model(run.workspace)

    assert selection.configurations == ("3d_fullres",)
    assert selection.folds == ("0", "1")
    assert [one.configurations for one in selection.candidates] == [("3d_fullres",), ("2d",)]
    assert selection.candidates[0].num_cases == 2
    assert selection.mean_foreground_dice == pytest.approx((1 + 6 / 7) / 2)
    assert selection.candidates[1].mean_foreground_dice == pytest.approx(((4 / 8 + 4 / 6) / 2 + 6 / 7) / 2)
    assert selection.postprocessing == ()
    assert any("3d_fullres: mean foreground Dice 0.9286 over 2 cases, the best" in text for text in selection.reasons)
    assert read_record(Selection, run.workspace.selection) == selection
    evaluation = read_record(Evaluation, run.workspace.evaluation)
    assert evaluation.mean_foreground_dice == selection.mean_foreground_dice
    assert [case.case for case in evaluation.cases] == ["a", "b"]
    assert read_record(Suspects, run.workspace.suspects) == Suspects(num_cases=0, suspects=())  # too few cases
    assert run.workspace.suspects_table.exists()


def test_cases_are_worked_on_by_as_many_threads_as_memory_has_room_for(run, caplog):
    run.train("2d", "0", GOOD)
    caplog.set_level("INFO")
    alone = SelectionOptions(ensembles=False, device="cpu", max_memory=130_000_000)
    limited = select.select_model(run.workspace, options=alone, workers=2)
    assert "selection: 1 instead of 2 threads, because the largest case takes about" in caplog.text
    assert limited == select_model(run.workspace)


def test_two_at_once_are_refused_and_planning_waits(run):
    run.train("2d", "0", GOOD)
    with lock(run.workspace.selection_lock, "selected from"):
        with pytest.raises(LockedError, match=r"selection\.lock: it is being selected from by process \d+ on .*Wait"):
            select_model(run.workspace)
        with pytest.raises(LockedError, match=r"selection\.lock: it is being selected from"):
            refuse_trainings(run.workspace, "Planning again would change it.")
    assert not run.workspace.selection.exists()
    select_model(run.workspace)
    assert not run.workspace.selection_lock.exists()


def test_a_cascade_may_win(run):
    for configuration, predictions in {"3d_lowres": POOR, "3d_fullres": POOR, "3d_cascade_fullres": GOOD}.items():
        run.train(configuration, "0", predictions)
    selection = select_model(run.workspace)
    assert selection.configurations == ("3d_cascade_fullres",)
    assert read_record(Selection, run.workspace.selection).folds == ("0",)


def test_what_only_corrects_by_clicks_is_no_candidate(run):
    plan = make_interactive_plan((3.0, 0.9, 0.7), labels=LABELS, encoding=ENCODING)
    write_record(plan, run.workspace.plan)
    for configuration, predictions in {"3d_fullres": POOR, "interactive": GOOD}.items():
        run.train(configuration, "0", predictions)
    selection = select_model(run.workspace)
    assert selection.configurations == ("3d_fullres",)
    assert [candidate.configurations for candidate in selection.candidates] == [("3d_fullres",)]


def test_of_equal_scores_2d_wins_whatever_the_alphabet_says(run):
    for configuration in ("3d_lowres", "3d_fullres", "2d", "1_own"):
        run.train(configuration, "0", GOOD)
    selection = select_model(run.workspace)
    names = [one.configurations[0] for one in selection.candidates]
    assert names == ["2d", "3d_fullres", "3d_lowres", "1_own"]
    assert any("the first of equals wins" in text for text in selection.reasons)


def test_configurations_are_compared_on_the_cases_that_all_of_them_have(run):
    run.train("2d", "0", {"a": POOR["a"]})
    run.train("2d", "1", {"b": GOOD["b"]})
    run.train("3d_fullres", "1", {"b": as_map("1100022", "1100000")})

    selection = select_model(run.workspace)

    assert selection.configurations == ("2d",)
    assert [one.num_cases for one in selection.candidates] == [1, 1]
    assert selection.candidates[0].mean_foreground_dice == pytest.approx((1 + 6 / 7) / 2)
    assert selection.mean_foreground_dice == pytest.approx(((4 / 8 + 1) / 2 + 6 / 7) / 2)
    assert any("compared on the 1 shared" in text for text in selection.reasons)


def test_without_a_common_case_that_is_said(run):
    run.train("2d", "0", {"a": POOR["a"]})
    run.train("3d_fullres", "1", {"b": GOOD["b"]})
    selection = select_model(run.workspace)
    assert selection.configurations == ("3d_fullres",)
    assert any("share no validation case" in text for text in selection.reasons)


def test_missing_folds_are_said_and_do_not_stop_selection(run):
    run.train("2d", "0", GOOD)
    run.train("3d_fullres", "0")
    run.train("3d_fullres", "all")

    selection = select_model(run.workspace)

    assert selection.configurations == ("2d",)
    assert selection.folds == ("0",)
    assert len(selection.candidates) == 1
    assert "2d: of 2 folds, not trained: 1." in selection.reasons
    assert "3d_fullres: fold 0 is trained but not validated, so it was left out." in selection.reasons
    assert "3d_fullres: fold all has no validation cases and so no score." in selection.reasons


def test_a_fold_without_validation_is_chosen_when_nothing_else_is_there(run):
    run.train("2d", "all")
    run.train("3d_fullres", "all")
    run.workspace.evaluation.write_text("{}")

    selection = select_model(run.workspace)

    assert (selection.configurations, selection.folds) == (("3d_fullres",), ("all",))
    assert selection.mean_foreground_dice is None
    assert not run.workspace.evaluation.exists()
    assert "3d_fullres is chosen without a score: nothing was validated." in selection.reasons


def test_nothing_trained_is_an_error(run):
    with pytest.raises(UsageError, match="no fold is fully trained; run autoseg-train first"):
        select_model(run.workspace)


def test_a_label_that_no_case_has_does_not_spoil_the_score(tmp_path):
    run = Run(tmp_path, {"a": as_map("1110000")}, LABELS, ENCODING)
    run.train("2d", "0", {"a": as_map("1100000")})
    run.train("3d_fullres", "0", {"a": as_map("1110000")})
    selection = select_model(run.workspace)
    assert selection.configurations == ("3d_fullres",)
    assert selection.mean_foreground_dice == 1.0


def test_the_union_of_all_foreground_is_tried_first(run):
    prediction = {case: array.copy() for case, array in GOOD.items()}
    references = {"a": as_map("1122000", "1122000"), "b": as_map("1122000", "1120000")}
    for case, array in references.items():
        run.references[case] = array
        write_map(run.workspace.root.parent / "data" / "labels" / f"{case}.nii.gz", array)
        prediction[case] = array.copy()
        prediction[case][0, 0, 5:] = (10, 20)
    run.train("2d", "0", prediction)
    calls = []

    titles = []

    def bar(title):
        titles.append(title)
        return nullcontext(lambda done, total: calls.append((done, total)))

    selection = select_model(run.workspace, bar=bar)

    assert selection.postprocessing == (KeepLargestComponent(labels=("one", "two")),)
    assert selection.mean_foreground_dice == 1.0
    assert selection.candidates[0].mean_foreground_dice != 1.0
    assert "Keep only the largest component of one, two: no, nothing would change." in selection.reasons
    assert calls == [(done, 10) for done in range(1, 11)]  # 2 cases read, 3 + 3 + 2 steps tried
    assert titles == ["post-processing"]


def test_one_label_gets_a_step_of_its_own_when_the_union_would_harm(run):
    # `one` lies in two true parts, so the union and `one` must not be touched; `two` has a false spot.
    references = {case: as_map("1101100", "0000222") for case in "ab"}
    for case, array in references.items():
        run.references[case] = array
        write_map(run.workspace.root.parent / "data" / "labels" / f"{case}.nii.gz", array)
    run.train("2d", "0", {case: as_map("1101100", "2000222") for case in "ab"})

    selection = select_model(run.workspace, workers=2)

    assert selection.postprocessing == (KeepLargestComponent(labels=("two",)),)
    assert selection.mean_foreground_dice == 1.0
    no, yes, _ = [reason for reason in selection.reasons if reason.startswith("Keep only the largest component")]
    assert no.startswith("Keep only the largest component of all foreground: no")
    assert "lower for one" in no
    assert yes.startswith("Keep only the largest component of two: yes, Dice 0.8571 before, 1.0000 after")


def test_equal_components_are_all_kept_so_nothing_is_gained(run):
    run.train("2d", "0", {"a": REFERENCES["a"], "b": as_map("1100022", "1100022", "0000000")[:, :2]})
    assert select_model(run.workspace).postprocessing == ()


def test_a_step_for_one_region_must_not_harm_another(tmp_path):
    # The smaller part of `core` is false as core (it is 1 in the reference), but right as part of `whole`:
    # removing it would raise `core` and lower `whole`.
    reference = as_map("2220011", "2220011", scale=1)
    run = Run(tmp_path, {"a": reference}, REGION_LABELS, REGIONS)
    run.train("2d", "0", {"a": as_map("2220022", "2220011", scale=1)})

    selection = select_model(run.workspace)

    assert selection.postprocessing == ()
    (reason,) = [one for one in selection.reasons if one.startswith("Keep only the largest component of core: no")]
    assert "lower for whole" in reason


PAIR = ("2d", "3d_fullres")


def combine(run, monkeypatch, predictions):
    """The pair of both configurations has these label maps in fold 0; where they come from is tested elsewhere."""
    asked = []

    def validate_pairs(_run, singles, _progress):
        asked.append(tuple(singles))
        folder = run.workspace.validation(PAIR, "0")
        for case, array in predictions.items():
            write_map(folder / f"{case}.nii.gz", array)
        scores = [score_case(case, array, run.references[case], run.labels) for case, array in predictions.items()]
        names = [name for name in run.labels if name != "background"]
        return {PAIR: [ValidatedFold("0", folder, summarize(scores, names))]}

    monkeypatch.setattr(comparison, "validate_pairs", validate_pairs)
    return asked


def test_a_better_pair_is_chosen_and_its_own_maps_are_post_processed(run, monkeypatch):
    run.train("3d_fullres", "0", GOOD)
    run.train("2d", "0", POOR)
    spot = {case: array.copy() for case, array in REFERENCES.items()}
    for array in spot.values():
        array[0, 0, 3] = 10  # one voxel too much; it touches the others in `a` only
    assert combine(run, monkeypatch, spot) == []

    selection = select.select_model(run.workspace, options=SelectionOptions(device="cpu"))

    assert selection.configurations == PAIR
    assert selection.folds == ("0",)
    assert [one.configurations for one in selection.candidates] == [PAIR, ("3d_fullres",), ("2d",)]
    assert selection.candidates[0].mean_foreground_dice == pytest.approx(((12 / 13 + 8 / 9) / 2 + 1) / 2)
    assert selection.candidates[1].mean_foreground_dice == pytest.approx((1 + 6 / 7) / 2)
    assert selection.postprocessing == (KeepLargestComponent(labels=("one",)),)
    assert selection.mean_foreground_dice == pytest.approx(((12 / 13 + 1) / 2 + 1) / 2)
    assert read_record(Selection, run.workspace.selection) == selection
    evaluation = read_record(Evaluation, run.workspace.evaluation)
    assert evaluation.mean_foreground_dice == selection.mean_foreground_dice
    assert selection.interval is not None
    low, high = selection.interval
    assert low <= ((12 / 13 + 1) / 2 + 1) / 2 <= high


def test_a_pair_below_the_margin_is_listed_and_not_chosen(run, monkeypatch):
    for name in PAIR:
        run.train(name, "0", GOOD)
    asked = combine(run, monkeypatch, GOOD)
    selection = select.select_model(run.workspace, options=SelectionOptions(device="cpu"))
    assert asked == [PAIR]
    assert selection.configurations == ("2d",)
    assert [one.configurations for one in selection.candidates] == [("2d",), ("3d_fullres",), PAIR]
    assert any("2d + 3d_fullres, against the best alone, 2d: Dice +0.0000" in text for text in selection.reasons)


def test_without_two_configurations_or_a_common_case_no_pair_is_predicted(run, monkeypatch):
    asked = combine(run, monkeypatch, GOOD)
    run.train("2d", "0", {"a": GOOD["a"]})
    alone = select.select_model(run.workspace, options=SelectionOptions(device="cpu"))
    run.train("3d_fullres", "1", {"b": GOOD["b"]})
    apart = select.select_model(run.workspace, options=SelectionOptions(device="cpu"))
    assert asked == []
    assert "No ensemble was tried: two validated configurations are needed." in alone.reasons
    assert "No ensemble was tried: the configurations share no validation case." in apart.reasons


def test_the_dataset_may_have_moved(run, tmp_path):
    run.train("2d", "0", GOOD)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="the dataset is missing; give its folder with --dataset"):
        select_model(run.workspace)
    assert select_model(run.workspace, tmp_path / "elsewhere").configurations == ("2d",)


def test_a_value_that_the_plan_does_not_know_names_the_file(run):
    run.train("2d", "0", GOOD)
    path = run.workspace.fold("2d", "0") / "validation" / "b.nii.gz"
    write_map(path, GOOD["b"] + np.uint8(5))
    with pytest.raises(ImageFileError, match=r"^\S+fold_0/validation/b\.nii\.gz: .*15"):
        select_model(run.workspace)


def test_a_fold_validated_for_other_labels_is_named(run):
    run.labels = {"background": 0, "one": 10, "three": 20}
    run.train("2d", "0", GOOD)
    with pytest.raises(UsageError, match=r"fold_0/validation/evaluation\.json: .*one, three.*one, two; .*--restart"):
        select_model(run.workspace)


def test_a_lost_validation_map_is_named(run):
    run.train("2d", "0", GOOD)
    (run.workspace.fold("2d", "0") / "validation" / "b.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"fold_0/validation: no label map of case b; validate fold 0 again"):
        select_model(run.workspace)


def record_training(run, configuration, fold, split, **changes):
    """The record beside the weights, and the facts about the cases as they are now."""
    plan = read_record(Plan, run.workspace.plan)
    fingerprint = read_record(Fingerprint, run.workspace.fingerprint)
    values = {
        "configuration": configuration, "fold": fold, "model_hash": model_hash(plan, configuration),
        "cases_hash": "made", "data_hash": data_hash(fingerprint, split),
        "training": plan.configurations[configuration].training, "epoch": 1, "step": 1, "elapsed_seconds": 0.0,
    }  # fmt: skip
    record = Checkpoint(**(values | changes))
    write_record(record, run.workspace.fold(configuration, fold) / "checkpoint_final.json")


@pytest.fixture
def trained_run(run):
    """Two trained folds, which hold out one case each."""
    splits = [Split(training=("b",), validation=("a",)), Split(training=("a",), validation=("b",))]
    write_record(Splits(folds=tuple(splits), reason="by hand"), run.workspace.splits)
    plan = make_plan({"3d_fullres": (3.0, 0.9, 0.7)}, labels=LABELS, encoding=ENCODING)
    write_record(plan, run.workspace.plan)
    write_fingerprint(run)
    for fold, (case, split) in enumerate(zip("ab", splits, strict=True)):
        run.train("3d_fullres", str(fold), {case: GOOD[case]})
        record_training(run, "3d_fullres", str(fold), split)
    return run


def write_fingerprint(run):
    plan, dataset = read_record(Plan, run.workspace.plan), read_record(DatasetDescription, run.workspace.dataset)
    folder = run.workspace.dataset_folder(dataset.folder)
    found = tuple(
        make_case_fingerprint(
            files.case,
            content_hash=hashlib.sha256((folder / files.label).read_bytes()).hexdigest(),
            files_state=files_state(folder, CaseFiles(case=files.case, images=(), label=files.label)),
        )
        for files in dataset.cases
    )
    write_record(make_fingerprint(found, plan), run.workspace.fingerprint)
    without_images = tuple(files.model_copy(update={"images": ()}) for files in dataset.cases)
    write_record(dataset.model_copy(update={"cases": without_images}), run.workspace.dataset)


def correct_label_map(run, case):
    run.references[case] = as_map("1111022", "1111022")
    write_map(run.workspace.root.parent / "data" / "labels" / f"{case}.nii.gz", run.references[case])


def test_folds_of_plan_and_data_of_today_are_selected(trained_run):
    assert select_model(trained_run.workspace).folds == ("0", "1")


def test_a_fold_of_earlier_label_maps_is_left_out(trained_run, caplog):
    """The other fold was trained again after the correction."""
    correct_label_map(trained_run, "a")
    write_fingerprint(trained_run)
    record_training(trained_run, "3d_fullres", "1", Split(training=("a",), validation=("b",)))
    selection = select_model(trained_run.workspace)
    assert selection.folds == ("1",)
    assert "3d_fullres: fold 0 was trained and validated on other cases, images or label maps" in selection.reasons[0]
    assert "-f 0 --restart" in caplog.text


@pytest.mark.parametrize("changed", ["label map", "folds", "plan"])
def test_results_of_an_earlier_state_alone_are_refused(trained_run, changed):
    workspace = trained_run.workspace
    if changed == "label map":
        correct_label_map(trained_run, "a")
        write_fingerprint(trained_run)
    elif changed == "folds":
        splits = read_record(Splits, workspace.splits)
        write_record(splits.model_copy(update={"folds": splits.folds[::-1]}), workspace.splits)
    else:
        plan = read_record(Plan, workspace.plan)
        write_record(plan.model_copy(update={"channel_names": ("other",)}), workspace.plan)
    with pytest.raises(UsageError, match=r"no trained fold belongs(?s:.)*fold 0 was trained(?s:.)*fold 1 was trained"):
        select_model(workspace)
    assert not workspace.selection.exists()


def test_label_maps_that_changed_after_planning_are_refused(trained_run):
    correct_label_map(trained_run, "b")
    with pytest.raises(UsageError, match=r"1 case\(s\), b first, was changed after the dataset was planned"):
        select_model(trained_run.workspace)


@pytest.mark.parametrize(("steps", "is_named"), [(40, True), (600, False)])
def test_a_choice_that_rests_on_too_short_a_training_says_so(trained_run, steps, is_named):
    missed = as_map("1110000", "1110000")  # the label two is not learned
    validation = trained_run.workspace.fold("3d_fullres", "0") / "validation"
    write_map(validation / "a.nii.gz", missed)
    evaluation = summarize([score_case("a", missed, REFERENCES["a"], LABELS)], ["one", "two"])
    write_record(evaluation, validation / "evaluation.json")
    for fold, split in enumerate(read_record(Splits, trained_run.workspace.splits).folds):
        record_training(trained_run, "3d_fullres", str(fold), split, step=steps)
    reasons = select_model(trained_run.workspace).reasons
    sentence = (
        "This choice means little: a label has Dice below 0.2 after too short a training of 3d_fullres, fold 0 (40 "
        "steps). Train again with more time, then select again."
    )
    assert [text for text in reasons if "means little" in text] == [sentence] * is_named
    assert not is_named or reasons[0] == sentence


def test_a_cascade_trained_on_maps_of_other_weights_is_left_out(trained_run, monkeypatch):
    workspace = trained_run.workspace
    plan = read_record(Plan, workspace.plan)
    cascade = make_cascade_plan((6.0, 1.8, 1.4), (3.0, 0.9, 0.7), labels=LABELS, encoding=ENCODING)
    write_record(plan.model_copy(update={"configurations": cascade.configurations}), workspace.plan)
    trained_run.train(CASCADE, "0", {"a": GOOD["a"]})
    record_training(trained_run, CASCADE, "0", read_record(Splits, workspace.splits).folds[0])
    asked = []
    monkeypatch.setattr(usable_folds, "is_trained_on_maps_of_today", lambda *of: asked.append(of[2:4]))
    selection = select_model(workspace)
    assert asked == [(CASCADE, read_record(Splits, workspace.splits).folds[0])]
    assert [one.configurations for one in selection.candidates] == [("3d_fullres",)]
    assert f"{CASCADE}: fold 0 was trained on label maps of an earlier training of 3d_lowres" in selection.reasons[0]


def test_a_selection_knows_the_trainings_that_it_scored(trained_run, caplog):
    selection = select_model(trained_run.workspace)
    assert selection.weights.keys() == {"3d_fullres"}
    assert selection.weights["3d_fullres"].keys() == {"0", "1"}
    assert find_retrained_folds(trained_run.workspace, selection) == []
    split = read_record(Splits, trained_run.workspace.splits).folds[1]
    record_training(trained_run, "3d_fullres", "1", split, elapsed_seconds=3.25)
    plan = read_record(Plan, trained_run.workspace.plan)
    choose_recipe(trained_run.workspace, plan, None, None, "final")
    assert "fold(s) 1 of 3d_fullres were trained again since; score, thresholds" in caplog.text
    caplog.clear()
    assert select_model(trained_run.workspace).weights != selection.weights
    choose_recipe(trained_run.workspace, plan, None, None, "final")
    assert "trained again" not in caplog.text
