"""Folders that can be read in two ways: both are shown, and each command gives its reading. No file has content."""

import re
import shlex
from pathlib import Path

import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.patterns import FilePatterns
from autoseg.imaging.datasets.layouts.readings import infer_patterns
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.records.dataset import CaseFiles


def make(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def repeated(*patterns: str, cases: tuple[str, ...] = ("p_1", "p_2", "q")) -> list[str]:
    return [pattern.format(case) for case in cases for pattern in patterns]


def shown(message: str) -> list[tuple[str, FilePatterns, bool]]:
    """Description and patterns of every reading in a message, and whether its command skips faulty cases."""
    found = []
    for description, command in re.findall(r"(\d+ cases.*?): (autoseg-plan .*)", message):
        words = shlex.split(command)
        options = dict(zip(words[2::2], words[3::2], strict=False))
        patterns = FilePatterns(options["--image-pattern"], options["--label-pattern"])
        found.append((description, patterns, words[-1] == "--skip-faulty"))
    return found


AMBIGUOUS = {
    "folders of label maps": (
        repeated("images/{}.nii.gz", "masks/{}_mask.nii", "gt/{}.nii"),
        {"images/p_1.nii.gz gt/p_1.nii": 3, "images/p_1.nii.gz masks/p_1_mask.nii": 3},
    ),
    "folders of images": (
        repeated("images/{}.nii.gz", "scans/{}.nii.gz", "masks/{}.nii.gz"),
        {"images/p_1.nii.gz masks/p_1.nii.gz": 3, "scans/p_1.nii.gz masks/p_1.nii.gz": 3},
    ),
    "some without label map": (
        [*repeated("images/{}.png", "masks/{}.png"), "gt/p_1.png"],
        {"images/p_1.png masks/p_1.png": 3, "images/p_1.png gt/p_1.png": 3},
    ),
    "loose files beside folders of cases": (
        [*repeated("{0}/t1.nii", "{0}/flair.nii", "{0}/seg.nii"), "p_1.nii", "p_1_seg.nii"],
        {"p_1.nii p_1_seg.nii": 1, "p_1/flair.nii p_1/t1.nii p_1/seg.nii": 3},
    ),
    "loose files beside two folders": (
        [*repeated("scans/{}_0000.nii", "scans/{}_0001.nii", "masks/{}.nii"), "p_1.nii", "p_1_seg.nii"],
        {"scans/p_1_0000.nii scans/p_1_0001.nii masks/p_1.nii": 3, "p_1.nii p_1_seg.nii": 1},
    ),
    "numbers of channels or cases": (
        repeated("images/{}_0.nii", "images/{}_1.nii", "labels/{}_0.nii", cases=("p_1", "q")),
        {"images/p_1_0.nii labels/p_1_0.nii": 4, "images/p_1_0.nii images/p_1_1.nii labels/p_1_0.nii": 2},
    ),
    "four digits": (
        repeated("imagesTr/{}_0000.nii", "imagesTr/{}_0001.nii", "labelsTr/{}_0000.nii", cases=("p_1", "q")),
        {"imagesTr/p_1_0000.nii labelsTr/p_1_0000.nii": 4,
         "imagesTr/p_1_0000.nii imagesTr/p_1_0001.nii labelsTr/p_1_0000.nii": 2},
    ),
    "numbers in one folder": (
        repeated("{}_0.nii", "{}_1.nii", "{}_1_seg.nii", cases=("p_1", "q")),
        {"p_1_1.nii p_1_1_seg.nii": 4, "p_1_0.nii p_1_1.nii p_1_1_seg.nii": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_every_reading_has_its_command(tmp_path, name):
    files, readings = AMBIGUOUS[name]
    with pytest.raises(DatasetError, match=r"he files can be read in 2 ways; give the command of the one") as caught:
        find_dataset(make(tmp_path / "my set", *files))
    found = {}
    for description, patterns, skips in shown(str(caught.value)):
        dataset = find_dataset(tmp_path / "my set", patterns)
        complete = {files.case: files for files in dataset.cases if files.label}
        assert skips == ("without label map" in description) == (len(complete) < len(dataset.cases))
        assert description.startswith(f"{len(dataset.cases)} cases")
        example = next(files for case, files in complete.items() if case.startswith("p_1"))
        found[" ".join([*example.images, example.label])] = len(dataset.cases)
    assert found == readings


def test_folders_of_the_usual_names_are_taken_and_the_others_noted(tmp_path):
    files = repeated("images/{}.nii.gz", "labels/{}.nii.gz", "masks/{}.nii.gz")
    found = find_dataset(make(tmp_path, *files, "loose.nii", "loose_seg.nii"))
    assert found.cases[0].label == "labels/p_1.nii.gz"
    first, second = (note for note in found.notes if note.startswith("not used, but possible too: "))
    assert first.startswith(
        "not used, but possible too: 3 cases, such as p_1 with images/p_1.nii.gz and the label map masks"
    )
    assert shown(first)[0][1] == FilePatterns("images/{case}.nii.gz", "masks/{case}.nii.gz")
    assert shown(second)[0][1] == FilePatterns("{case}.nii", "{case}_seg.nii")


UNAMBIGUOUS = {
    "other names in a second folder": [*repeated("images/{}.png", "masks/{}.png"), "gt/other.png", "scans/x.png"],
    "numbered cases": repeated("images/{}_0.nii", "images/{}_1.nii", "masks/{}_0.nii", "masks/{}_1.nii"),
    "numbered channels": repeated("images/{}_0.nii", "images/{}_1.nii", "masks/{}.nii"),
    "pictures of a folder": [*repeated("{}.nii", "{}_seg.nii"), "preview/p_1.png", "preview/p_2.png"],
}


@pytest.mark.parametrize("name", UNAMBIGUOUS)
def test_what_has_one_reading_is_read(tmp_path, name):
    found = find_dataset(make(tmp_path, *UNAMBIGUOUS[name]))
    assert [fault for fault in found.faults if fault.severity == "error"] == []
    assert not any("possible too" in note for note in found.notes)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("x/{}.nii", "y/{}.nii"), ("x/{case}.nii", "y/{case}.nii")),
        (("x/a/{}.nii", "x/b/{}.nii", "y/{}.nii"), ("x/{channel}/{case}.nii", "y/{case}.nii")),
        (("{0}/{0}_t1.nii", "{0}/{0}_t2.nii", "{0}/{0}_s.nii"), ("{case}/{case}_{channel}.nii", "{case}/{case}_s.nii")),
        (("{}-t1-x.nii", "{}-t2-x.nii", "{}-s.nii"), ("{case}-{channel}-x.nii", "{case}-s.nii")),
        (("x/{}.nii", "x/{}_t1.nii", "y/{}.nii"), None),
        (("x/{}.nii", "y/label.nii"), None),
    ],
)
def test_patterns_of_cases(tmp_path, patterns, expected):
    folder = make(tmp_path, *repeated(*patterns))
    cases = [
        CaseFiles(case=case, images=tuple(p.format(case) for p in patterns[:-1]), label=patterns[-1].format(case))
        for case in ("p_1", "p_2", "q")
    ]
    assert infer_patterns(folder, cases) == (None if expected is None else FilePatterns(*expected))
