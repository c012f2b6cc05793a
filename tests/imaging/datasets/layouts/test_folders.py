"""Folders as people have them: every entry lists the files of one, and the cases that autoseg finds in it."""

from pathlib import Path

import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.found_dataset import order_images
from autoseg.imaging.datasets.layouts.recognition import find_dataset

MRI = ("flair", "t1", "t1ce", "t2")


def make(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def repeated(*patterns: str, cases=("p_1", "p_2", "p_03")) -> list[str]:
    return [pattern.format(case) for case in cases for pattern in patterns]


def summary(found):
    return {files.case: [*files.images, files.label] for files in found.cases}


MARKS = ("_seg", "_label", "_mask", "_gt", "-seg", ".seg", "_SEG", "_labels", "_segmentation", " mask")
TWO_FOLDERS = {
    "masks": (("images/{}.png", "masks/{}.png"), None),
    "capitals": (("Images/{}.NII.GZ", "Masks/{}.nii"), None),
    "imagesTr without dataset.json": (("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"), None),
    "labels with a word": (("images/{}.nii.gz", "labels/{}_seg.nii.gz"), None),
    "labels with a word in front": (("images/{}.nii.gz", "labels/mask_{}.nii.gz"), None),
    "labelsTr with a word": (("imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz", "labelsTr/{}-label.nii.gz"), None),
    "scans": (("scans/{}.nii.gz", "segmentations/{}_gt.nii.gz"), None),
    "words for channels": (("images/{}_t1.nii.gz", "images/{}_CT.nii.gz", "masks/{}.nii.gz"), ("CT", "t1")),
}


@pytest.mark.parametrize("name", TWO_FOLDERS)
def test_two_folders(tmp_path, name):
    patterns, channels = TWO_FOLDERS[name]
    found = find_dataset(make(tmp_path, *repeated(*patterns)))
    ordered = [*sorted(patterns[:-1]), patterns[-1]]
    assert summary(found) == {case: [pattern.format(case) for pattern in ordered] for case in ("p_1", "p_2", "p_03")}
    assert (found.layout, found.channel_words, found.faults) == ("plain", channels, ())


@pytest.mark.parametrize("mark", MARKS)
def test_images_and_label_maps_in_one_folder(tmp_path, mark):
    found = find_dataset(make(tmp_path, *repeated("{}.nii.gz", f"{{}}{mark}.nii.gz")))
    assert summary(found) == {case: [f"{case}.nii.gz", f"{case}{mark}.nii.gz"] for case in ("p_1", "p_2", "p_03")}
    assert (found.layout, found.channel_words, found.faults) == ("one_folder", None, ())
    (note,) = found.notes
    assert note.startswith("recognised images and label maps in one folder: 3 cases, such as p_03 with p_03.nii.gz and")


@pytest.mark.parametrize(
    ("patterns", "channels"),
    [
        (("{}_image.nii.gz", "{}_mask.nii.gz"), None),
        (("{}_0000.nii.gz", "{}_0001.nii", "{}_seg.nii.gz"), None),
        (("{}_ct.nii.gz", "{}_seg.nii.gz"), ("ct",)),
        (("{}_flair.nii.gz", "{}_t1.nii.gz", "{}_t1ce.nii.gz", "{}_t2.nii.gz", "{}_seg.nii.gz"), MRI),
        (("volume-{}.nii", "segmentation-{}.nii"), None),
    ],
)
def test_channels_in_one_folder(tmp_path, patterns, channels):
    found = find_dataset(make(tmp_path, *repeated(*patterns)))
    assert summary(found) == {case: [p.format(case) for p in patterns] for case in ("p_1", "p_2", "p_03")}
    assert (found.channel_words, found.faults) == (channels, ())


CASE_FOLDERS = {
    "brats": (("{0}/{0}_flair.nii.gz", "{0}/{0}_t1.nii.gz", "{0}/{0}_t1ce.nii.gz", "{0}/{0}_t2.nii.gz"), "_seg", MRI),
    "one image": (("{0}/{0}.nii.gz",), "_label", None),
    "one channel": (("{0}/{0}_adc.nii.gz",), "-seg", ("adc",)),
    "numbers": (("{0}/{0}_0000.nii.gz", "{0}/{0}_0001.nii.gz"), "_gt", None),
}


@pytest.mark.parametrize("name", CASE_FOLDERS)
def test_one_folder_for_each_case(tmp_path, name):
    patterns, mark, channels = CASE_FOLDERS[name]
    label = f"{{0}}/{{0}}{mark}.nii.gz"
    found = find_dataset(make(tmp_path, *repeated(*patterns, label), "README.md"))
    assert summary(found) == {case: [p.format(case) for p in (*patterns, label)] for case in ("p_1", "p_2", "p_03")}
    assert (found.layout, found.channel_words, found.faults) == ("case_folders", channels, ())
    assert found.notes[0].startswith("recognised one folder for each case: 3 cases")


def test_case_folders_whose_files_all_have_the_same_names(tmp_path):
    kits = find_dataset(make(tmp_path / "kits", *repeated("{}/imaging.nii.gz", "{}/segmentation.nii.gz")))
    assert summary(kits)["p_1"] == ["p_1/imaging.nii.gz", "p_1/segmentation.nii.gz"]
    assert kits.channel_words is None
    mixed = find_dataset(make(tmp_path / "mixed", *repeated("{}/T2.nii.gz", "{}/adc.nii.gz", "{}/mask.nii.gz")))
    assert summary(mixed)["p_1"] == ["p_1/adc.nii.gz", "p_1/T2.nii.gz", "p_1/mask.nii.gz"]
    assert mixed.channel_words == ("adc", "T2")


def test_several_cases_in_the_folder_of_a_patient(tmp_path):
    frames = repeated(*("{0}/{0}_frame" + end for end in ("01.nii.gz", "01_gt.nii.gz", "12.nii.gz", "12_gt.nii.gz")))
    found = find_dataset(make(tmp_path / "a", *frames))
    assert sorted(summary(found)) == sorted(repeated("{}_frame01", "{}_frame12"))
    assert found.faults == ()
    found = find_dataset(make(tmp_path / "b", *repeated("{}/a.nii", "{}/a_seg.nii", "{}/b.nii", "{}/b_seg.nii")))
    assert sorted(summary(found)) == sorted(repeated("{}_a", "{}_b"))


def test_channels_that_are_missing_or_left_over(tmp_path):
    folder = make(tmp_path, *repeated("{0}/{0}_t1.nii.gz", "{0}/{0}_t2.nii.gz", "{0}/{0}_seg.nii.gz"))
    make(folder, "p_1/p_1_pet.nii.gz", "p_4/p_4_t1.nii.gz")
    (folder / "p_2" / "p_2_t1.nii.gz").unlink()
    found = find_dataset(folder)
    assert [(fault.severity, fault.case, fault.what) for fault in found.faults] == [
        ("error", "p_4", "there is no label map in the folder of this image"),
        ("warning", "p_1", "not used: most cases have no image 'pet'"),
        ("error", "p_2", "the image of channel 't1', which most cases have, is missing"),
        ("error", "p_4", "the image of channel 't2', which most cases have, is missing"),
    ]


def test_images_and_label_maps_that_have_no_partner(tmp_path):
    folder = make(
        tmp_path, *repeated("{}.nii.gz", "{}_seg.nii.gz"), "alone.nii.gz", "lost_seg.nii.gz", "p_1_mask.nii.gz"
    )
    found = find_dataset(folder)
    assert {(fault.file, fault.what) for fault in found.faults} == {
        ("alone.nii.gz", "there is no label map for this image"),
        ("lost_seg.nii.gz", "there is no image for this label map"),
        ("p_1_seg.nii.gz", "is a label map of the same case as p_1_mask.nii.gz; keep one of the two"),
    }


def test_no_file_is_dropped_without_a_word(tmp_path):
    one = find_dataset(make(tmp_path / "one", *repeated("{}.nii", "{}_seg.nii"), "p_1_image.nii"))
    assert [(fault.file, fault.what) for fault in one.faults] == [
        ("p_1_image.nii", "there is no label map for this image")
    ]
    by_hand = find_dataset(make(tmp_path / "by_hand", *repeated("{}.nii", "{}_seg-manual.nii"), "q.nii"))
    assert len(by_hand.cases) == 3
    assert [(fault.file, fault.what) for fault in by_hand.faults] == [("q.nii", "there is no label map for this image")]
    files = repeated("{0}/{0}_t1.nii", "{0}/{0}_t2.nii", "{0}/{0}_seg.nii")
    cases = find_dataset(make(tmp_path / "cases", *files, "p_1/p_1_T1.nii", "p_2/t1.nii"))
    assert [(fault.severity, fault.case, fault.file) for fault in cases.faults] == [
        ("error", "p_1", "p_1/p_1_t1.nii"),
        ("warning", "p_2", "p_2/t1.nii"),
    ]
    marked = find_dataset(
        make(tmp_path / "two", "images/p_t1.nii", "images/p_t2.nii", "masks/p_seg.nii", "masks/p_gt.nii")
    )
    assert [(fault.file, fault.what) for fault in marked.faults] == [
        ("masks/p_seg.nii", "is a label map of the same case as masks/p_gt.nii; keep one of the two")
    ]


def test_labels_and_channels_declared_beside_any_layout(tmp_path):
    folder = make(tmp_path, *repeated("images/{}.nii.gz", "masks/{}.nii.gz"))
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}')
    found = find_dataset(folder)
    assert (found.layout, found.labels, found.channel_names) == ("plain", {"background": 0, "liver": 1}, ("CT",))


def test_equal_numbers_that_end_marked_names_are_no_channels(tmp_path):
    found = find_dataset(make(tmp_path, *(f"{name}/scan_{i:04d}{mark}.png" for i in range(3) for name, mark in
                                          (("images", ""), ("labels", "_mask")))))  # fmt: skip
    assert sorted(summary(found)) == ["scan_0000", "scan_0001", "scan_0002"]


@pytest.mark.parametrize("names", [("T2", "t1"), ("t1", "T2")])
def test_images_follow_the_order_of_given_channel_names(tmp_path, names):
    folder = make(tmp_path, *repeated("{0}/{0}_t1.nii", "{0}/{0}_t2.nii", "{0}/{0}_seg.nii"))
    found = order_images(find_dataset(folder), names)
    assert summary(found)["p_1"] == [*(f"p_1/p_1_{name.lower()}.nii" for name in names), "p_1/p_1_seg.nii"]
    with pytest.raises(DatasetError, match=r"are called T1w, T2w, but in the names of the files t1, t2"):
        order_images(find_dataset(folder), ("T1w", "T2w"))


def test_two_readings_are_shown(tmp_path):
    folder = make(tmp_path, *repeated("images/{}.nii.gz", "masks/{}.nii.gz"), "gt/p_1.nii.gz")
    with pytest.raises(DatasetError, match=r"images/ \(3 files\), gt/ \(1 files\), masks/ \(3 files\)\. Rename those"):
        find_dataset(folder)


UNKNOWN = {
    "no label map": (
        ["a_t1.nii.gz", "b_t1.nii.gz"],
        r"Found: 2 \.nii\.gz in the folder itself\. Names end in _t1 \(2\)\. Nearest: one folder with CASE and "
        "CASE_seg; no file is marked as a label map",
    ),
    "a list": (
        ["a.nii", "cases.csv"],
        r"The list cases\.csv in it names cases: give .*cases\.csv\. Or say how the files are called: --image-pattern ",
    ),
    "parts of a dataset": (
        [*repeated("train/images/{}.nii", "train/labels/{}.nii"), *repeated("val/{}.nii", "val/{}_seg.nii")],
        r"Several folders in it are datasets: train \(images/CASE.*, 3 cases\); val \(one folder: .*, 3 cases\)\.",
    ),
    "only label maps": (
        ["a_seg.nii.gz", "b_seg.nii.gz"],
        "2 files are marked as label maps .*, but no image beside them",
    ),
    "one folder too high": (
        repeated("train/{}.nii.gz", "train/{}_seg.nii.gz"),
        r"The folder train in it is a dataset \(one folder: .*, 3 cases\): give .*train",
    ),
    "no folder of label maps": (["images/a.png"], "there is a folder of images, but none of label maps"),
    "no folder of images": (["x/a.png", "masks/a.png"], "there is a folder of label maps, but none of images"),
    "case folders": (repeated("{}/t1.nii", "{}/t2.nii"), "Nearest: one folder for each case; no file is marked"),
    "dicom": (
        repeated("{}/1.dcm", "{}/2.dcm"),
        r"Found: 6 \.dcm 1 folder below; 3 folders \(p_03, p_1, p_2\)\. No file has .* into labels/CASE\.dcm",
    ),
    "empty": ([], "It holds no files"),
    "a workspace": (["plan.json", "preprocessed/2d/a.b2nd"], "It is a workspace of autoseg-plan: train in it, or give"),
}


@pytest.mark.parametrize("name", ["images", "labels"])
def test_one_folder_too_deep(tmp_path, name):
    make(tmp_path, *repeated("images/{}.png", "labels/{}.png"))
    with pytest.raises(DatasetError, match=rf"The folder above it is a dataset \(.*, 3 cases\): give {tmp_path}\."):
        find_dataset(tmp_path / name)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_lies_in_an_unknown_folder(tmp_path, name):
    if name == "dicom":
        pytest.importorskip("pydicom")
    files, message = UNKNOWN[name]
    make(tmp_path, *files)
    if "cases.csv" in files:
        (tmp_path / "cases.csv").write_text("image,label\na.nii,b.nii\n")
    with pytest.raises(DatasetError, match=f"(?s)no known dataset layout; expected one of.*{message}"):
        find_dataset(tmp_path)
