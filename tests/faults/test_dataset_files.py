"""dataset.json and the folders of a dataset, edited wrongly."""

import json
import os
import shutil

import pytest

from tests.faults.battery import PLAN, UNUSABLE, Row, check, edit_json


def edited(**changes):
    """Entries of dataset.json that are replaced; None removes one."""
    return lambda place: edit_json(place.dataset / "dataset.json", **changes)


def as_text(text):
    """dataset.json with this content."""
    return lambda place: (place.dataset / "dataset.json").write_bytes(text)


def as_fifo(place):
    (place.dataset / "dataset.json").unlink()
    os.mkfifo(place.dataset / "dataset.json")


def as_folder(place):
    (place.dataset / "dataset.json").unlink()
    (place.dataset / "dataset.json").mkdir()


def as_loop(place):
    (place.dataset / "dataset.json").unlink()
    (place.dataset / "dataset.json").symlink_to(place.dataset / "dataset.json")


def without_labels(place):
    shutil.rmtree(place.labels)


def without_images(place):
    shutil.rmtree(place.images)


def one_label_gone(place):
    place.label.unlink()


def one_image_gone(place):
    place.image.unlink()


def second_channel_once(place):
    shutil.copy(place.image, place.images / "case_1_0001.nii.gz")


def list_of(rows, name="list.csv"):
    def write(place):
        (place.root / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))

    return write


FOLDS = "case,image,label,fold\na,tiny/imagesTr/case_0_0000.nii.gz,tiny/labelsTr/case_0.nii.gz,{}\n"
LIST = PLAN.replace("{dataset}", "{root}/list.csv")
JSON_LIST = PLAN.replace("{dataset}", "{root}/list.json")

FAULTS: list[Row] = [
    ("truncated", as_text(b'{"channel_names": {"0": "MR"'), PLAN, UNUSABLE, "dataset.json: cannot be read as JSON"),
    ("empty", as_text(b""), PLAN, UNUSABLE, "dataset.json: cannot be read as JSON"),
    ("no text", as_text(b"\x89PNG\r\n\x1a\n\x00\xff"), PLAN, UNUSABLE, "dataset.json: cannot be read as JSON"),
    ("a list", as_text(b"[1, 2]"), PLAN, UNUSABLE, "dataset.json"),
    ("a number", as_text(b"7"), PLAN, UNUSABLE, "dataset.json"),
    ("deep", as_text(b"[" * 100_000), PLAN, UNUSABLE, "dataset.json: cannot be read as JSON"),
    ("long number", as_text(b'{"numTraining": ' + b"9" * 5000 + b"}"), PLAN, UNUSABLE, "cannot be read as JSON"),
    ("a FIFO", as_fifo, PLAN, UNUSABLE, "it is a FIFO"),
    ("a folder", as_folder, PLAN, UNUSABLE, "dataset.json"),
    ("a loop of links", as_loop, PLAN, UNUSABLE, "dataset.json"),
    ("labels missing", edited(labels=None), PLAN, UNUSABLE, "labels"),
    ("labels as list", edited(labels=["liver"]), PLAN, UNUSABLE, "labels"),
    ("labels without one that occurs", edited(labels={"liver": 1}), PLAN, UNUSABLE, "undeclared label values: 2"),
    ("label as text", edited(labels__liver="one"), PLAN, UNUSABLE, "labels"),
    ("label twice", edited(labels__lesion=1), PLAN, UNUSABLE, "lesion"),
    ("negative label", edited(labels__lesion=-1), PLAN, UNUSABLE, "-1"),
    ("fractional label", edited(labels__lesion=1.5), PLAN, UNUSABLE, "labels"),
    ("huge label", edited(labels__lesion=10**12), PLAN, UNUSABLE, "1000000000000"),
    ("no foreground", edited(labels={"background": 0}), PLAN, UNUSABLE, "label"),
    ("empty region", edited(labels__lesion=[]), PLAN, UNUSABLE, "lesion"),
    ("regions without order", edited(labels__lesion=[1, 2]), PLAN, UNUSABLE, "regions_class_order"),
    ("channels as number", edited(channel_names=3), PLAN, UNUSABLE, "channel_names"),
    ("a channel more", edited(channel_names={"0": "MR", "1": "CT"}), PLAN, UNUSABLE,
     "2 channel names are declared (MR, CT), but the images have 1 channels"),
    ("no label maps", without_labels, PLAN, UNUSABLE, "labelsTr"),
    ("no images", without_images, PLAN, UNUSABLE, "imagesTr"),
    ("a label map missing", one_label_gone, PLAN, UNUSABLE, "case_1"),
    ("an image missing", one_image_gone, PLAN, UNUSABLE, "case_1"),
    ("a channel of one case", second_channel_once, PLAN, UNUSABLE, "case_1"),
    ("list without file", lambda _: None, LIST, UNUSABLE, "there is no such dataset"),
    ("empty list", list_of(""), LIST, UNUSABLE, "list.csv: the file is empty"),
    ("list of others", list_of("a,b\n1,2\n"), LIST, UNUSABLE, "expected the columns image"),
    ("list that leads nowhere", list_of("image,label\nx.nii.gz,y.nii.gz\n"), LIST, UNUSABLE, "x.nii.gz"),
    ("list with a name that leads out", list_of("case,image,label\n../../evil,tiny/imagesTr/case_0_0000.nii.gz,"
     "tiny/labelsTr/case_0.nii.gz\n"), LIST, UNUSABLE, "the name of a case must be usable as a file name"),
    ("list with a name of 5,000 characters", list_of(f"case,image,label\n{'n' * 5000},x.nii.gz,y.nii.gz\n"), LIST,
     UNUSABLE, "x.nii.gz"),
    ("list with a fold of 5,000 digits", list_of(FOLDS.format("9" * 5000)), LIST, UNUSABLE, "is not a whole number"),
    ("list with a fold below zero", list_of(FOLDS.format(-1)), LIST, UNUSABLE, "the fold '-1' is not a whole number"),
    ("list with a column of 5,000 digits", list_of(f"image_{'9' * 5000},label\nx,y\n"), LIST, UNUSABLE, "list.csv"),
    ("list with a cell of 200,000 characters", list_of(f"image,label\n{'x' * 200_000},y\n"), LIST, UNUSABLE,
     "field larger than field limit"),
    ("list with a NUL", list_of("image,label\nx\0.nii.gz,y.nii.gz\n"), LIST, UNUSABLE, "list.csv"),
    ("list with a FIFO", lambda place: os.mkfifo(place.root / "list.csv"), LIST, UNUSABLE, "it is a FIFO"),
    ("JSON list of numbers", list_of([1, 2], "list.json"), JSON_LIST, UNUSABLE, "expected a list of"),
    ("JSON list with a wrong key", list_of([{"image": "x.nii.gz", "mask": "y"}], "list.json"), JSON_LIST, UNUSABLE,
     "none of the 1 listed images exists"),
    ("JSON list with a wrong type", list_of([{"image": 7, "label": "y"}], "list.json"), JSON_LIST, UNUSABLE, "image"),
]  # fmt: skip


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_dataset(place, row, capsys):
    check(place, row, capsys)
