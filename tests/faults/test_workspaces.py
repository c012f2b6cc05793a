"""Workspaces whose records were edited wrongly, and workspaces in odd states."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.faults.battery import (
    DONE,
    EVALUATE,
    PREDICT,
    TRAIN,
    UNUSABLE,
    Row,
    check,
    draw,
    edit_json,
    replace,
    run,
    save,
)

FULL = "configurations__3d_fullres"
KEEP = "plan {dataset} -w {workspace} --keep-plan -j 1"
SELECT = "select {workspace} --device cpu -j 1"
REPORT = "report {workspace}"
EXPORT = "export {workspace} -o {out}.zip"


def edited(name, **changes):
    """Entries of a record that are replaced; None removes one."""
    return lambda place: edit_json(place.workspace / name, **changes)


def as_text(name, text):
    """A record with this content."""
    return lambda place: (place.workspace / name).write_bytes(text)


def without(name):
    def spoil(place):
        path = place.workspace / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def as_fifo(name):
    return lambda place: replace(place.workspace / name, os.mkfifo)


def as_folder(name):
    return lambda place: replace(place.workspace / name, Path.mkdir)


PLAN_JSON: list[Row] = [
    (f"plan.json, {name}", spoil, command, UNUSABLE, words)
    for name, spoil, command, words in (
        ("truncated", as_text("plan.json", b'{"schema_version": 1'), TRAIN, "plan.json: not a valid Plan"),
        ("empty", as_text("plan.json", b""), PREDICT, "plan.json: not a valid Plan"),
        ("no text", as_text("plan.json", b"\xff\xfe\x00"), TRAIN, "plan.json: cannot be read as a JSON record"),
        ("deep", as_text("plan.json", b"[" * 100_000), PREDICT, "plan.json: not a valid Plan"),
        ("missing", without("plan.json"), TRAIN, "plan.json"),
        ("missing, prediction", without("plan.json"), PREDICT, "not a model, it has no plan.json"),
        ("a FIFO", as_fifo("plan.json"), TRAIN, "it is a FIFO"),
        ("a folder", as_folder("plan.json"), TRAIN, "it is a folder"),
        ("newer schema", edited("plan.json", schema_version=2), TRAIN, "written by a newer version of autoseg"),
        ("newer schema, prediction", edited("plan.json", schema_version=999), PREDICT, "its schema_version is 999"),
        ("batch as text", edited("plan.json", **{f"{FULL}__batch_size": "2"}), TRAIN, "3d_fullres.batch_size"),
        ("batch of 10^30", edited("plan.json", **{f"{FULL}__batch_size": 10**30}), TRAIN, "batch_size"),
        ("features of 10^5", edited("plan.json", **{f"{FULL}__network__features__0": 10**5}), TRAIN, "features.0"),
        ("patch not divisible", edited("plan.json", **{f"{FULL}__patch_size": [9, 9, 9]}), TRAIN, "is not divisible"),
        ("patch of two axes", edited("plan.json", **{f"{FULL}__patch_size": [8, 8]}), TRAIN, "expected 3 numbers"),
        ("spacing of zero", edited("plan.json", **{f"{FULL}__spacing__0": 0}), KEEP, "spacing.0"),
        ("NaN", as_text("plan.json", b'{"schema_version": NaN}'), TRAIN, "plan.json: not a valid Plan"),
        ("unknown key", edited("plan.json", mine=1), TRAIN, "mine: Extra inputs are not permitted"),
        ("unknown loss", edited("plan.json", **{f"{FULL}__training__loss": "os.system"}), TRAIN, "training.loss"),
        ("even kernel", edited("plan.json", **{f"{FULL}__network__kernel_sizes__0": [2, 3, 3]}), TRAIN, "even numbers"),
        ("other channels", edited("plan.json", channel_names=["a", "b"]), TRAIN, "input_channels"),
        ("name that leads out", edited("plan.json", **{f"{FULL}__preprocessed_as": "../../x"}), KEEP,
         "leads out of its folder"),
        ("cascade of itself", edited("plan.json", **{f"{FULL}__previous_configuration": "3d_fullres"}), TRAIN,
         "expected another configuration"),
        ("no configurations", edited("plan.json", configurations={}), TRAIN, "no configuration '3d_fullres'"),
        ("other spacing after training", edited("plan.json", **{f"{FULL}__spacing__0": 3.5}), TRAIN, "plan"),
        ("other spacing after training, prediction", edited("plan.json", **{f"{FULL}__spacing__0": 3.5}), PREDICT,
         "was trained for another plan"),
    )
]  # fmt: skip

SPLITS_JSON: list[Row] = [
    (f"splits.json, {name}", spoil, TRAIN.replace("-f 0", "-f 1"), UNUSABLE, words)
    for name, spoil, words in (
        ("truncated", as_text("splits.json", b'{"folds": ['), "splits.json: not a valid Splits"),
        ("empty", as_text("splits.json", b""), "splits.json: not a valid Splits"),
        ("deep", as_text("splits.json", b"[" * 100_000), "splits.json: not a valid Splits"),
        ("missing", without("splits.json"), "splits.json"),
        ("newer schema", edited("splits.json", schema_version=3), "written by a newer version of autoseg"),
        ("no folds", edited("splits.json", folds=[]), "fold '1' does not exist"),
        ("case in both parts", edited("splits.json", folds__1={"training": ["case_0", "case_1"],
         "validation": ["case_1"]}), "1 cases are also in `training`"),
        ("unknown case", edited("splits.json", folds__1={"training": ["case_0", "nobody"], "validation": ["case_1"]}),
         "nobody"),
        ("case that leads out", edited("splits.json", folds__1={"training": ["../../x"], "validation": ["case_1"]}),
         "leads out of its folder"),
        ("no training cases", edited("splits.json", folds__1={"training": [], "validation": ["case_1"]}), "training"),
        ("cases as text", edited("splits.json", folds__1={"training": "case_0", "validation": []}), "folds.1.training"),
        ("case twice", edited("splits.json", folds__1={"training": ["case_0", "case_0"], "validation": ["case_1"]}),
         "fold 1 lists case_0 more than once"),
        ("folds as number", edited("splits.json", folds=5), "folds"),
    )
]  # fmt: skip


def truncated_array(place):
    for path in (place.workspace / "preprocessed").rglob("*.b2nd"):
        path.write_bytes(path.read_bytes()[:40])


def one_array_gone(place):
    path = sorted((place.workspace / "preprocessed").rglob("case_1*.b2nd"))[0]
    path.unlink()


def array_fifo(place):
    replace(sorted((place.workspace / "preprocessed").rglob("case_1*.b2nd"))[0], os.mkfifo)


def arrays_gone(place):
    shutil.rmtree(place.workspace / "preprocessed")


def array_record_gone(place):
    sorted((place.workspace / "preprocessed").rglob("case_1.json"))[0].unlink()


def array_record_empty(place):
    sorted((place.workspace / "preprocessed").rglob("case_1.json"))[0].write_text("")


def image_changed(place):
    save(place.image, draw(77)[0])


def label_changed(place):
    save(place.label, np.flip(draw(1)[1]).copy())


def label_reshaped(place):
    save(place.labels / "case_0.nii.gz", draw(0)[1][:-1])


def dataset_moved(place):
    place.dataset.rename(place.root / "elsewhere")


def weights_as(content, name="checkpoint_final.safetensors"):
    return lambda place: (place.fold / name).write_bytes(content)


def weights_cut(place):
    path = place.fold / "checkpoint_final.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def header_of_weights_huge(place):
    (place.fold / "checkpoint_final.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def weights_fifo(place):
    replace(place.fold / "checkpoint_final.safetensors", os.mkfifo)


def record_of_another_fold(place):
    edit_json(place.fold / "checkpoint_final.json", fold="1")


def table_fifo(place):
    place.out.mkdir()
    os.mkfifo(place.out / "statistics.csv")


def failures_fifo(place):
    place.out.mkdir()
    os.mkfifo(place.out / "failures.json")


def history_garbage(place):
    (place.fold / "history.jsonl").write_text("{garbage\n")


def selection_of(**changes):
    return edited("selection.json", **changes)


NEXT = TRAIN.replace("-f 0", "-f 1")

STATES: list[Row] = [
    ("arrays truncated", truncated_array, NEXT, UNUSABLE, "case_"),
    ("one array a FIFO", array_fifo, NEXT, UNUSABLE, "1 cases are not preprocessed"),
    ("one array missing", one_array_gone, NEXT, UNUSABLE, "1 cases are not preprocessed"),
    ("arrays missing", arrays_gone, NEXT, UNUSABLE, "4 cases are not preprocessed"),
    ("record of an array missing", array_record_gone, NEXT, UNUSABLE, "1 cases are not preprocessed"),
    ("record of an array empty", array_record_empty, NEXT, UNUSABLE, "case_1.json: not a valid PreprocessedCase"),
    ("image changed after planning", image_changed, NEXT, UNUSABLE, "was changed after the dataset was planned"),
    ("label map changed after planning", label_changed, NEXT, UNUSABLE, "was changed after the dataset was planned"),
    ("label map reshaped after planning", label_reshaped, NEXT, UNUSABLE, "was changed after the dataset was planned"),
    ("label maps gone", lambda place: shutil.rmtree(place.labels), SELECT, UNUSABLE, "case_"),
    ("dataset moved", dataset_moved, NEXT, UNUSABLE, "the dataset is missing"),
    ("dataset moved, select", dataset_moved, SELECT, UNUSABLE, "give its folder with --dataset"),
    ("dataset.json missing", without("dataset.json"), NEXT, UNUSABLE, "dataset.json"),
    ("dataset.json newer", edited("dataset.json", schema_version=2), NEXT, UNUSABLE, "newer version of autoseg"),
    ("fingerprint.json truncated", as_text("fingerprint.json", b"{"), NEXT, UNUSABLE, "not a valid Fingerprint"),
    ("fingerprint.json truncated, report", as_text("fingerprint.json", b"{"), REPORT, UNUSABLE,
     "not a valid Fingerprint"),
    ("dataset.json without cases", edited("dataset.json", cases=[]), NEXT, UNUSABLE, "which is no case of"),
    ("fingerprint.json without the ranges of a case", edited("fingerprint.json", cases__0__channel_ranges=[]), PREDICT,
     UNUSABLE, "channel_ranges of case_0 do not have one entry"),
    ("fingerprint.json without cases", edited("fingerprint.json", cases=[]), PREDICT, DONE, "Output:"),
    ("labels without their encoding", edited("plan.json", labels={"background": 0}), NEXT, UNUSABLE,
     "labels: differ from the labels of `encoding` in lesion, liver"),
    ("table a FIFO", table_fifo, PREDICT + " --statistics", UNUSABLE, "statistics.csv: is a FIFO"),
    ("list of failures a FIFO", failures_fifo, PREDICT, DONE, "left as it is"),
    ("history a FIFO", lambda place: replace(place.fold / "history.jsonl", os.mkfifo), TRAIN, UNUSABLE,
     "history.jsonl: cannot be read as JSON: it is a FIFO"),
    ("last checkpoint a FIFO", lambda place: replace(place.fold / "checkpoint_last.safetensors", os.mkfifo), TRAIN,
     UNUSABLE, "this checkpoint is damaged (it is a FIFO"),
    ("last checkpoint empty", weights_as(b"", "checkpoint_last.safetensors"), TRAIN, UNUSABLE,
     "this checkpoint is damaged"),
    ("history garbage", history_garbage, REPORT, UNUSABLE, "history.jsonl, line 1"),
    ("weights cut", weights_cut, PREDICT, UNUSABLE, "checkpoint_final.safetensors"),
    ("weights cut, export", weights_cut, EXPORT, UNUSABLE, "checkpoint_final.safetensors"),
    ("weights empty", weights_as(b""), PREDICT, UNUSABLE, "checkpoint_final.safetensors"),
    ("weights with a huge header", header_of_weights_huge, PREDICT, UNUSABLE, "checkpoint_final.safetensors"),
    ("weights a pickle", weights_as(b"cos\nsystem\n(S'touch ran'\ntR."), PREDICT, UNUSABLE, "checkpoint_final"),
    ("weights a FIFO", weights_fifo, PREDICT, UNUSABLE, "checkpoint_final.safetensors"),
    ("weights a FIFO, report", weights_fifo, REPORT, UNUSABLE, "checkpoint_final.safetensors: is a FIFO"),
    ("record of weights truncated", weights_as(b"{", "checkpoint_final.json"), PREDICT, UNUSABLE, "valid Checkpoint"),
    ("record of another fold", record_of_another_fold, PREDICT, UNUSABLE, "is the record of 3d_fullres, fold 1"),
    ("record of weights newer", lambda place: edit_json(place.fold / "checkpoint_final.json", schema_version=2),
     PREDICT, UNUSABLE, "newer version of autoseg"),
    ("fold missing", lambda place: shutil.rmtree(place.fold), PREDICT, UNUSABLE, "3d_fullres"),
    ("fold missing, select", lambda place: shutil.rmtree(place.fold), SELECT, UNUSABLE, "run autoseg-train first"),
    ("selection truncated", as_text("selection.json", b"{"), PREDICT, UNUSABLE, "not a valid Selection"),
    ("selection of an unknown configuration", selection_of(configurations=["mine"]), PREDICT, UNUSABLE, "mine"),
    ("selection of an unknown fold", selection_of(folds=["9"]), PREDICT, UNUSABLE, "9"),
    ("selection that leads out", selection_of(folds=["../../x"]), PREDICT, UNUSABLE, "leads out of its folder"),
    ("selection of nothing", selection_of(configurations=[]), PREDICT, UNUSABLE, "selection.json"),
    ("selection with an unknown label", selection_of(postprocessing=[{"operation": "fill_holes", "label": "bone"}]),
     PREDICT, UNUSABLE, "bone"),
    ("no workspace", lambda place: shutil.rmtree(place.workspace), NEXT, UNUSABLE, "tiny.autoseg"),
    ("no workspace, report", lambda place: shutil.rmtree(place.workspace), REPORT, UNUSABLE, "tiny.autoseg"),
    ("a file as workspace", lambda place: replace(place.workspace, Path.touch), NEXT,
     UNUSABLE, "tiny.autoseg"),
    ("output is a file", lambda place: place.out.write_text("x"), PREDICT, UNUSABLE, "is a file"),
    ("output below a file", lambda place: place.out.write_text("x"), PREDICT.replace("{out}", "{out}/deeper"),
     UNUSABLE, "out"),
    ("no images", lambda place: shutil.rmtree(place.images), PREDICT, UNUSABLE, "no such file or folder"),
    ("empty folder of images", lambda place: replace(place.images, Path.mkdir), PREDICT, UNUSABLE,
     "no images here"),
    ("predictions without references", lambda place: shutil.rmtree(place.labels), EVALUATE, UNUSABLE, "labelsTr"),
]  # fmt: skip


@pytest.mark.parametrize("row", [*PLAN_JSON, *SPLITS_JSON, *STATES], ids=lambda row: row[0])
def test_workspaces(place, row, capsys):
    check(place, row, capsys)


def test_a_fold_that_was_trained_again_is_named_and_its_selection_not_shown(place, capsys):
    edit_json(place.fold / "checkpoint_final.json", elapsed_seconds=77.0)
    for command in (PREDICT, REPORT, EXPORT):
        code, output = run(place, command, capsys)
        assert code == DONE, output
        assert "fold(s) 0 of 3d_fullres were trained again since" in output
    page = (place.workspace / "report.html").read_text(encoding="utf-8")
    assert "Selected: 3d_fullres" not in page
    assert "not selected yet" in page


def test_a_moved_workspace_predicts(place, capsys):
    place.workspace.rename(place.root / "moved.autoseg")
    code, output = run(place, PREDICT.replace("{workspace}", "{root}/moved.autoseg"), capsys)
    assert code == DONE, output
