"""A recognised dataset written as a list is recognised as the same dataset."""

import csv
import json
from pathlib import Path

import pytest

from autoseg.errors import UsageError
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.datasets.layouts.patterns import FilePatterns
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.datasets.list_writing import write_case_list
from tests.builders import touch_files

V2 = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def make(folder: Path, *patterns: str) -> Path:
    return touch_files(folder, ("p, 1", "p_2", "q"), *patterns)


def facts(found: FoundDataset) -> list[object]:
    def absolute(file: str) -> str:
        return str((found.folder / file).resolve())

    cases = [(f.case, [*map(absolute, f.images)], absolute(f.label), f.group, f.fold) for f in found.cases]
    return [cases, found.channel_names or found.channel_words]


def header(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return next(csv.reader(file))


NUMBERED = ["case", "image_0", "image_1", "label"]
LAYOUTS = {
    "two folders": (("images/{}.nii.gz", "labels/{}.nii.gz"), ["case", "image", "label"]),
    "numbers": (("imagesTr/{}_0000.nii", "imagesTr/{}_0001.nii", "labelsTr/{}.nii"), NUMBERED),
    "one folder": (("{}.nii.gz", "{}_seg.nii.gz"), ["case", "image", "label"]),
    "brats": (("{0}/{0}_t1.nii", "{0}/{0}_flair.nii", "{0}/{0}_seg.nii"), ["case", "flair", "t1", "label"]),
    "one channel": (("{0}/{0}_adc.nii", "{0}/{0}_seg.nii"), ["case", "adc", "label"]),
    "words of columns": (("{0}/{0}_id.nii", "{0}/{0}_input.nii", "{0}/{0}_seg.nii"), NUMBERED),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("where", ["set", "lists/deep"])
def test_the_same_cases_and_channels(tmp_path, name, where):
    patterns, columns = LAYOUTS[name]
    found = find_dataset(make(tmp_path / "set", *patterns))
    path = tmp_path / where / "cases.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_case_list(found, path)
    assert header(path) == columns
    again, expected = facts(find_dataset(path)), facts(found)
    assert again[0] == expected[0]
    assert again[1] == (expected[1] if "image_0" not in columns else None)
    assert find_dataset(path).faults == ()


def test_declared_channels_name_the_columns(tmp_path):
    make(tmp_path, "imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz", "labelsTr/{}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(V2))
    found = find_dataset(tmp_path)
    write_case_list(found, tmp_path / "cases.csv")
    assert header(tmp_path / "cases.csv") == ["case", "MRI", "CT", "label"]
    assert facts(find_dataset(tmp_path / "cases.csv")) == facts(found)


@pytest.mark.parametrize("names", [["CT", "ct"], ["CT", "label"]])
def test_names_that_cannot_be_columns(tmp_path, names):
    make(tmp_path, "imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz", "labelsTr/{}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({**V2, "channel_names": names}))
    write_case_list(find_dataset(tmp_path), tmp_path / "cases.csv")
    assert header(tmp_path / "cases.csv")[:3] == ["case", "image_0", "image_1"]


def test_a_declared_channel_that_no_case_has_is_an_empty_column(tmp_path):
    make(tmp_path, "imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz", "labelsTr/{}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({**V2, "channel_names": ["a", "b", "c"]}))
    write_case_list(find_dataset(tmp_path), tmp_path / "cases.csv")
    assert header(tmp_path / "cases.csv") == ["case", "a", "b", "c", "label"]
    last = (tmp_path / "cases.csv").read_text().splitlines()[-1]
    assert last == "q,imagesTr/q_0000.nii.gz,imagesTr/q_0001.nii.gz,,labelsTr/q.nii.gz"


def test_groups_and_folds(tmp_path):
    for fold, patient in ((0, "a"), (0, "b"), (1, "c")):
        make(tmp_path / f"{fold}" / patient, "{}.nii", "{}_m.nii")
    patterns = FilePatterns("{fold}/{group}/{case}.nii", "{fold}/{group}/{case}_m.nii")
    found = find_dataset(tmp_path, patterns)
    assert len({files.case for files in found.cases}) == 9
    write_case_list(found, tmp_path / "cases.csv")
    assert header(tmp_path / "cases.csv") == ["case", "image", "label", "group", "fold"]
    assert facts(find_dataset(tmp_path / "cases.csv")) == facts(found)
    write_case_list(find_dataset(tmp_path / "cases.csv"), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "cases.csv").read_text()


def test_the_cell_of_a_channel_that_a_case_lacks_is_empty(tmp_path):
    make(tmp_path, "{0}/{0}_t1.nii", "{0}/{0}_flair.nii", "{0}/{0}_seg.nii")
    (tmp_path / "q" / "q_flair.nii").unlink()
    write_case_list(find_dataset(tmp_path), tmp_path / "cases.csv")
    assert (tmp_path / "cases.csv").read_text().splitlines()[-1] == "q,,q/q_t1.nii,q/q_seg.nii"


def test_masks_of_labels_have_columns_of_their_own(tmp_path):
    found = find_dataset(
        make(tmp_path, "{0}/ct.nii", "{0}/segmentations/liver.nii", "{0}/segmentations/left kidney.nii")
    )
    (tmp_path / "q" / "segmentations" / "liver.nii").unlink()
    found = find_dataset(tmp_path)
    write_case_list(found, tmp_path / "lists" / "cases.csv")
    again = find_dataset(tmp_path / "lists" / "cases.csv")
    assert [{(p.label, Path(p.file).name) for p in files.parts or ()} for files in again.cases] == [
        {(p.label, Path(p.file).name) for p in files.parts or ()} for files in found.cases
    ]
    assert header(tmp_path / "lists" / "cases.csv") == ["case", "ct", "mask_left kidney", "mask_liver"]
    assert (again.folder / again.cases[0].images[0]).is_file()


def test_several_masks_of_one_label_cannot_be_a_list(tmp_path):
    for case in "ab":
        for name in ("image", *(f"masks/{case}{number}" for number in (11, 22, 33))):
            path = tmp_path / case / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    with pytest.raises(UsageError, match="has several masks of one label in a case"):
        write_case_list(find_dataset(tmp_path), tmp_path / "cases.csv")


def test_a_list_is_never_overwritten(tmp_path):
    found = find_dataset(make(tmp_path, "images/{}.nii", "labels/{}.nii"))
    write_case_list(found, tmp_path / "cases.csv")
    with pytest.raises(UsageError, match="already exists; choose another name, or delete it"):
        write_case_list(found, tmp_path / "cases.csv")
    with pytest.raises(UsageError, match=r"must end in \.csv"):
        write_case_list(found, tmp_path / "cases.txt")


def test_names_are_no_formulas_and_are_read_again(tmp_path):
    for case in ("=cmd", "+1+1", "@x", "'=y", "-5"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{case}.nii").touch()
    found = find_dataset(tmp_path)
    write_case_list(found, tmp_path / "cases.csv")
    with (tmp_path / "cases.csv").open(newline="") as file:
        assert sorted(row[0] for row in csv.reader(file)) == ["''=y", "'+1+1", "'=cmd", "'@x", "-5", "case"]
    assert facts(find_dataset(tmp_path / "cases.csv")) == facts(found)
