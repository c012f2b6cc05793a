"""Folders whose files are named by patterns; no file has any content."""

from pathlib import Path

import pytest

from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.datasets.layouts.patterns import FilePatterns, check_pattern
from autoseg.imaging.datasets.layouts.recognition import find_dataset


def make(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def repeated(*patterns: str, cases: tuple[str, ...] = ("p_1", "p_2")) -> list[str]:
    return [pattern.format(case) for case in cases for pattern in patterns]


def summary(found: FoundDataset) -> dict[str, list[str]]:
    return {files.case: [*files.images, files.label] for files in found.cases}


def errors(found: FoundDataset) -> list[tuple[str, str]]:
    return [(fault.case, fault.what) for fault in found.faults if fault.severity == "error"]


CT, PET = "x/p_1_ct.nii", "x/p_1_pet.nii"
TWO = ["x/{0}_ct.nii", "x/{0}_pet.nii", "y/{0}.nii.gz"]
IN_FOLDERS = ["{0}/ct.nii", "{0}/pet.nii", "{0}/seg.nii"]
DEEP = ["a/b/{0}/ct.nii", "c/{0}/seg.nii"]
PNG = ["b/{0}.png", "a/{0}.png", "truth/{0}.png"]
TWICE = ["{0}/{0}_t1.nii", "{0}/x_t1.nii", "{0}/{0}_s.nii"]
NUMBERS = ["i/{0}_10.nii", "i/{0}_9.nii", "l/{0}.nii"]


@pytest.mark.parametrize(
    ("image", "label", "files", "images", "channels"),
    [
        ("x/{case}_{channel}.nii", "y/{case}.nii.gz", TWO, [CT, PET], ("ct", "pet")),
        ("x/{case}_{channel}", "y/{case}", TWO, [CT, PET], ("ct", "pet")),
        ("./x/{case}_{channel}.*", "y/{case}.*", TWO, [CT, PET], ("ct", "pet")),
        ("x/{case}_{channel:pet|ct}.nii", "y/{case}.nii.gz", TWO, [PET, CT], ("pet", "ct")),
        ("x/{case}_{channel:pet}.nii", "y/{case}.nii.gz", TWO, [PET], ("pet",)),
        ("x/{case}_c?.nii", "y/{case}.nii.gz", TWO, [CT], None),
        ("*/{case}_{channel}.nii", "?/{case}.nii.gz", TWO, [CT, PET], ("ct", "pet")),
        ("**/{case}_ct.nii", "**/{case}.nii.gz", TWO, [CT], None),
        ("{case}/{channel}.nii", "{case}/seg.nii", IN_FOLDERS, ["p_1/ct.nii", "p_1/pet.nii"], ("ct", "pet")),
        ("**/{case}/ct.nii", "**/{case}/seg.nii", IN_FOLDERS, ["p_1/ct.nii"], None),
        ("**/{case}/ct.nii", "**/{case}/seg.nii", DEEP, ["a/b/p_1/ct.nii"], None),
        ("{channel}/{case}.png", "truth/{case}.png", PNG, ["a/p_1.png", "b/p_1.png"], ("a", "b")),
        ("{case}/{case}_{channel}.nii", "{case}/{case}_s.nii", TWICE, ["p_1/p_1_t1.nii"], ("t1",)),
        ("i/{case}_{channel}.nii", "l/{case}.nii", NUMBERS, ["i/p_1_9.nii", "i/p_1_10.nii"], None),
    ],
)
def test_parts_of_names(tmp_path, image, label, files, images, channels):
    found = find_dataset(make(tmp_path, *repeated(*files)), FilePatterns(image, label))
    assert list(summary(found)) == ["p_1", "p_2"]
    assert summary(found)["p_1"] == [*images, files[-1].format("p_1")]
    assert (found.layout, found.channel_words, errors(found)) == ("pattern", channels, [])
    assert found.notes[0].startswith("recognised by the patterns: 2 cases, such as p_1 with ")


def test_files_in_folders_elsewhere(tmp_path):
    make(tmp_path, *repeated("raw/set/{}.nii", "derived/{}_seg.nii"))
    for label in ("../../derived/{case}_seg.nii", f"{tmp_path}/derived/{{case}}_seg.nii"):
        found = find_dataset(tmp_path / "raw" / "set", FilePatterns("{case}.nii", label))
        assert summary(found)["p_1"] == ["p_1.nii", "../../derived/p_1_seg.nii"]
        assert (found.folder / found.cases[0].label).is_file()


def test_groups_and_folds(tmp_path):
    files = [
        f"fold{fold}/{p}/{v}/{name}.nii" for fold, p in ((0, "a"), (1, "b")) for v in "xy" for name in ("im", "seg")
    ]
    found = find_dataset(
        make(tmp_path, *files), FilePatterns("fold{fold}/{group}/{case}/im.nii", "fold{fold}/{group}/{case}/seg.nii")
    )
    assert [(files.case, files.group, files.fold) for files in found.cases] == [
        ("a_x", "a", 0), ("a_y", "a", 0), ("b_x", "b", 1), ("b_y", "b", 1)
    ]  # fmt: skip
    assert found.faults == ()


def test_what_does_not_fit_together(tmp_path):
    make(
        tmp_path,
        *repeated("i/{}_ct.nii", "i/{}_pet.nii", "l/{}.nii"),
        "i/alone_ct.nii",
        "i/alone_pet.nii",
        "l/lost.nii",
    )
    found = find_dataset(tmp_path, FilePatterns("i/{case}_{channel}.nii", "l/{case}.nii"))
    assert errors(found) == [
        ("alone", "there is no label map for this image"), ("lost", "there is no image for this label map")
    ]  # fmt: skip
    found = find_dataset(tmp_path, FilePatterns("i/{case}_*.nii", "l/{case}.nii"))
    assert [what.partition(";")[0] for case, what in errors(found) if case == "p_1"] == [
        "is the same image of this case as i/p_1_ct.nii"
    ]
    make(tmp_path / "sites", *(f"{site}/{name}.nii" for site in "ab" for name in ("p_im", "p_seg")))
    found = find_dataset(tmp_path / "sites", FilePatterns("*/{case}_im.nii", "*/{case}_seg.nii"))
    assert {what.partition("; ")[2] for _, what in errors(found)} == {
        "write {group} in both patterns for the part in which the two differ, or {channel} for channels"
    }
    found = find_dataset(tmp_path / "sites", FilePatterns("{group}/{case}_im.nii", "{group}/{case}_seg.nii"))
    assert list(summary(found)) == ["a_p", "b_p"]


@pytest.mark.parametrize(
    ("image", "label", "what"),
    [
        (
            "images/{case}.nii",
            "l/{case}.nii",
            r"no image file fits --image-pattern 'images/{case}\.nii'\. Found: 4 \.nii",
        ),
        ("i/{case}.nii", "l/{case}_seg.nii", r"fits --label-pattern .* Such as i/p_1\.nii, i/p_2\.nii, l/p_1\.nii"),
        ("i/{case}.nii.gz", "l/{case}.nii", r"fits --image-pattern 'i/{case}\.nii\.gz'"),
        ("i/{case}.nii", "i/{case}.nii", "every file that fits --image-pattern 'i/{case}.nii' is a label map too"),
    ],
)
def test_patterns_that_no_file_fits(tmp_path, image, label, what):
    make(tmp_path, *repeated("i/{}.nii", "l/{}.nii"))
    with pytest.raises(DatasetError, match=what):
        find_dataset(tmp_path, FilePatterns(image, label))


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("images/*.nii.gz", r"--x 'images/\*\.nii\.gz': has no {case}, the part of the name that differs"),
        ("images/{patient}.nii", r"{patient} is not known; the named parts are {case}, {channel}, {group}, {fold}"),
        ("images/{case.nii", "braces do not match"),
        ("images/{}.nii", "{} is not known"),
    ],
)
def test_patterns_that_cannot_be_meant(pattern, what):
    with pytest.raises(UsageError, match=what):
        check_pattern(pattern, "--x")


def test_labels_that_are_declared_beside_the_files(tmp_path):
    make(tmp_path, *repeated("i/{}.nii", "l/{}.nii"))
    (tmp_path / "dataset.json").write_text(
        '{"labels": {"0": "background", "1": "a"}, "modality": {"0": "CT"}, "training": []}'
    )
    found = find_dataset(tmp_path, FilePatterns("i/{case}.nii", "l/{case}.nii"))
    assert (found.labels, found.channel_names) == ({"background": 0, "a": 1}, ("CT",))


def test_hidden_files_and_accents(tmp_path):
    make(tmp_path, "i/Mu\u0308ller.nii", "l/M\u00fcller.nii", "i/._x.nii", "l/notes.txt")
    found = find_dataset(tmp_path, FilePatterns("i/{case}", "l/{case}"))
    assert (list(summary(found)), found.faults) == (["M\u00fcller"], ())
