"""Folders with a mask file for each label: every entry lists the files of one, and the labels found in it."""

from pathlib import Path

import pytest

from autoseg.imaging.datasets.layouts.recognition import find_dataset

CASES = ("p_1", "p_2", "p_03")
BOTH = ["liver", "spleen"]


def make(folder: Path, *patterns: str, cases=CASES) -> Path:
    for case in cases:
        for pattern in patterns:
            file = folder / pattern.format(case)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return folder


FOLDERS = {
    "TotalSegmentator": (("{}/ct.nii.gz",), ("{}/segmentations/liver.nii.gz", "{}/segmentations/spleen.nii.gz")),
    "masks": (("{}/image.nii.gz",), ("{}/masks/liver.nii.gz", "{}/masks/mask_spleen.nii.gz")),
    "marked in the case's folder": (("{}/image.nii.gz",), ("{}/liver_mask.nii.gz", "{}/mask_spleen.nii.gz")),
    "marked, with the case": (("{0}/{0}.nii.gz",), ("{0}/{0}_liver_seg.nii.gz", "{0}/{0}_mask_spleen.nii.gz")),
    "not marked": (("{0}/{0}.nii.gz",), ("{0}/{0}_liver.nii.gz", "{0}/{0}_spleen.nii.gz")),
    "labels alone": (("{}/ct.nii.gz",), ("{}/liver.nii.gz", "{}/spleen.nii.gz")),
    "channels": (
        ("{0}/{0}_flair.nii.gz", "{0}/{0}_t1.nii.gz"), ("{0}/{0}_mask_liver.nii.gz", "{0}/{0}_mask_spleen.nii.gz")
    ),
    "a folder of masks for each case": (("images/{}.png",), ("masks/{}/liver.png", "masks/{}/spleen.png")),
    "a folder of masks for each label": (("images/{}.png",), ("masks/liver/{}.png", "masks/spleen/{}_mask.png")),
    "two folders": (
        ("imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz"),
        ("labelsTr/{}_liver.nii.gz", "labelsTr/{}_spleen_seg.nii.gz"),
    ),
    "one folder": (("{}.nii.gz",), ("{}_liver-mask.nii.gz", "{}_mask_spleen.nii.gz")),
    "one folder, words in front": (("{}.nii.gz",), ("mask_{}_liver.nii.gz", "mask_{}_spleen.nii.gz")),
    "one folder, not marked": (("{}.nii.gz",), ("{}_liver.nii.gz", "{}_spleen.nii.gz")),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_mask_for_each_label(tmp_path, name):
    images, masks = FOLDERS[name]
    found = find_dataset(make(tmp_path, *images, *masks))
    assert found.layout == "masks"
    assert found.faults == ()
    assert [files.case for files in found.cases] == sorted(CASES)
    for files in found.cases:
        assert list(files.images) == [pattern.format(files.case) for pattern in images]
        assert sorted(part.label for part in files.parts or ()) == BOTH
        assert {part.label: part.file for part in files.parts or ()} == {
            label: pattern.format(files.case) for label, pattern in zip(BOTH, masks, strict=True)
        }
    (note,) = found.notes
    assert note.startswith("recognised a mask file for each label (liver, spleen): 3 cases, such as p_03 with ")


def test_a_mask_that_is_missing_is_no_fault_and_a_case_without_any_is_one(tmp_path):
    make(tmp_path, "{}/ct.nii.gz", "{}/segmentations/liver.nii.gz", "{}/segmentations/spleen.nii.gz")
    (tmp_path / "p_1" / "segmentations" / "spleen.nii.gz").unlink()
    make(tmp_path, "{}/ct.nii.gz", cases=("p_4",))
    found = find_dataset(tmp_path)
    assert {files.case: len(files.parts or ()) for files in found.cases} == {"p_03": 2, "p_1": 1, "p_2": 2, "p_4": 0}
    (fault,) = found.faults
    assert (fault.severity, fault.case, fault.file) == ("error", "p_4", "p_4/ct.nii.gz")
    assert fault.what == "there is no mask in the folder of this image"


@pytest.mark.parametrize(
    "patterns",
    [
        ("{0}.png", "{0}_mask.png", "{0}_mask_1.png", "{0}_mask_2.png"),
        ("{0}/images/{0}.png", "{0}/masks/a{0}.png", "{0}/masks/b{0}.png", "{0}/masks/c{0}.png"),
    ],
)
def test_masks_named_after_objects_are_one_label(tmp_path, patterns):
    found = find_dataset(make(tmp_path, *patterns))
    assert [len(files.parts or ()) for files in found.cases] == [3, 3, 3]
    assert {part.label for files in found.cases for part in files.parts or ()} == {"object"}


@pytest.mark.parametrize(
    "patterns",
    [
        ("{}.nii.gz", "{}_liver_mask.nii.gz"),
        ("images/{}.nii.gz", "labels/{}_liver.nii.gz"),
        ("{}/image.nii.gz", "{}/seg/anything.nii.gz"),
        ("{}/images/a.png", "{}/masks/b.png"),
    ],
)
def test_one_file_for_each_case_is_a_label_map(tmp_path, patterns):
    found = find_dataset(make(tmp_path, *patterns))
    assert found.faults == ()
    assert [[*files.images, files.label] for files in found.cases] == [
        [pattern.format(case) for pattern in patterns] for case in sorted(CASES)
    ]
    assert {files.parts for files in found.cases} == {None}
