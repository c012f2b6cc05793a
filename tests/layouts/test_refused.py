"""Folders that cannot be understood: the sentence that says what was found, what is missing, and what to do."""

import json
from pathlib import Path

import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.formats.volume import IMAGE_ENDINGS
from autoseg.stages.describe import describe_dataset
from tests.layouts.folders import CASES, COLOURS, FOLDER, IMAGE, LABEL, MASK_1, Content, build, encode

READABLE = f"No file has an ending that can be read ({' '.join(IMAGE_ENDINGS)})."
FIX = "Fix these files, or leave out the 1 faulty case with --skip-faulty."
TWO_LABELS = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def images(*patterns: str, cases: tuple[str, ...] = CASES, kind: Content = IMAGE) -> dict[str, Content]:
    return {pattern.format(case): kind for case in cases for pattern in patterns}


def labels(*patterns: str, cases: tuple[str, ...] = CASES, kind: Content = LABEL) -> dict[str, Content]:
    return images(*patterns, cases=cases, kind=kind)


PLAIN = {**images("images/{}.nii.gz"), **labels("labels/{}.nii.gz")}
NNUNET = {**images("imagesTr/{}_0000.nii.gz"), **labels("labelsTr/{}.nii.gz")}


def without(files: dict[str, Content], *names: str) -> dict[str, Content]:
    return {name: content for name, content in files.items() if name not in names}


NO_LAYOUT: dict[str, tuple[dict[str, Content], str]] = {
    "an empty folder": ({}, f"It holds no files. {READABLE}"),
    "texts": ({"a.txt": "", "b.md": ""}, f"Found: 1 .txt in the folder itself, 1 .md in the folder itself. {READABLE}"),
    "images alone in their folder": (
        images("images/{}.nii.gz"),
        "Found: 3 .nii.gz 1 folder below; 1 folders (images). Nearest: images/CASE and labels/CASE; there is a folder "
        "of images, but none of label maps beside it: name it labels, masks or segmentations.",
    ),
    "images alone": (
        images("{}.nii.gz"),
        "Found: 3 .nii.gz in the folder itself. Nearest: one folder with CASE and CASE_seg; no file is marked as a "
        "label map: end the names of label maps in _seg, _label, _mask or _gt.",
    ),
    "label maps alone in their folder": (
        labels("masks/{}.nii.gz"),
        "Found: 3 .nii.gz 1 folder below; 1 folders (masks). Nearest: images/CASE and labels/CASE; there is a folder "
        "of label maps, but none of images: name it images.",
    ),
    "label maps alone": (
        labels("{}_seg.nii.gz"),
        "Names end in _seg (3). Nearest: one folder with CASE and CASE_seg; 3 files are marked as label maps",
    ),
    "predictions of autoseg": (
        {**labels("{}.nii.gz"), "prediction.json": "{}"},
        "Found: 3 .nii.gz in the folder itself, 1 .json in the folder itself. Nearest: one folder with CASE and "
        "CASE_seg; no file is marked as a label map",
    ),
    "DICOM": (
        {f"study/{index:03d}.dcm": b"DICM" for index in range(3)},
        f"Found: 3 .dcm 1 folder below; 1 folders (study). {READABLE} A DICOM series is one image, in a folder or zip "
        "archive of its own: put series into images/CASE, and their label maps into labels/CASE.nii.gz or",
    ),
    "DICOM without endings": (
        {f"study/IM{index:03d}": b"DICM" for index in range(3)},
        "Found: 3 without ending 1 folder below; 1 folders (study). ",
    ),
    "one folder for each case, without label maps": (
        images("{}/t1.nii.gz", "{}/t2.nii.gz"),
        "Found: 6 .nii.gz 1 folder below; 3 folders (p_03, p_1, p_2). Nearest: one folder for each case; no file is "
        "marked as a label map",
    ),
    "a folder too high": (
        images("data/images/{}.nii.gz") | labels("data/labels/{}.nii.gz"),
        "The folder data in it is a dataset (images/CASE.nii.gz and labels/CASE.nii.gz, 3 cases): give {folder}/data.",
    ),
    "a folder of cases too high": (
        images("data/{}/t1.nii.gz") | labels("data/{}/seg.nii.gz"),
        "Found: 6 .nii.gz 2 folders below; 1 folders (data). The folder data in it is a dataset (one folder for each "
        "case or PATIENT/VISIT: CASE/CASE_t1.nii.gz",
    ),
    "training and validation apart": (
        images("train/images/{}.png", "val/images/{}.png") | labels("train/masks/{}.png", "val/masks/{}.png"),
        "Found: 12 .png 2 folders below; 2 folders (train, val). Several folders in it are datasets: train (two "
        "folders of other names, such as scans/CASE.nii.gz and masks/CASE_mask.nii.gz, 3 cases); val (",
    ),
}

FAULTY: dict[str, tuple[dict[str, Content], str]] = {
    "empty folders": (
        {"images": FOLDER, "labels": FOLDER},
        "{folder}: No cases were found. Put images and label maps there, or give the folder that has them.",
    ),
    "no label map at all": (
        {**images("images/{}.nii.gz"), "labels": FOLDER},
        "error  p_2   images/p_2.nii.gz   there is no label map for this image in labels/\nEvery case has errors.",
    ),
    "a case without a label map": (
        without(PLAIN, "labels/p_2.nii.gz"),
        f"error  p_2  images/p_2.nii.gz  there is no label map for this image in labels/\n{FIX}",
    ),
    "a label map without an image": (
        without(PLAIN, "images/p_2.nii.gz"),
        f"error  p_2  labels/p_2.nii.gz  there is no image for this label map in images/\n{FIX}",
    ),
    "the same case twice": (
        {**PLAIN, "images/p_1.nii": IMAGE},
        f"error  p_1  images/p_1.nii.gz  has the same case name as images/p_1.nii; keep one of the two\n{FIX}",
    ),
    "two label maps of a case": (
        {**PLAIN, "labels/p_1_seg.nii.gz": LABEL},
        "error  p_1  labels/p_1_seg.nii.gz  is a label map of the same case as labels/p_1.nii.gz; keep one of the two",
    ),
    "names that do not fit": (
        images("images/{}.nii.gz") | labels("labels/{}.nii.gz", cases=("x", "y")),
        "error  x     labels/x.nii.gz     there is no image for this label map in images/",
    ),
    "a channel is missing": (
        without(images("images/{}_0000.nii.gz", "images/{}_0001.nii.gz") | labels("labels/{}.nii.gz"),
                "images/p_2_0001.nii.gz"),
        "error  p_2  images/p_2_0001.nii.gz  the file of channel 1 is missing",
    ),
    "a channel has no number": (
        {**images("images/{}_0000.nii.gz"), **labels("labels/{}.nii.gz"), "images/q.nii.gz": IMAGE,
         "labels/q.nii.gz": LABEL},
        "error  q  images/q.nii.gz  the name lacks a channel number; expected CASE_0000, CASE_0001, ...",
    ),
    "a case folder without a label map": (
        without(images("{}/t1.nii.gz") | labels("{}/seg.nii.gz"), "p_2/seg.nii.gz"),
        f"error  p_2  p_2/t1.nii.gz  there is no label map in the folder of this image\n{FIX}",
    ),
    "several folders of images": (
        images("images/{}.nii.gz", "scans/{}.nii.gz") | labels("masks/{}.nii.gz"),
        "several folders of images or of label maps: images/ (3 files), scans/ (3 files), masks/ (3 files). Rename "
        "those that are not to be used",
    ),
    "a damaged dataset.json": ({**NNUNET, "dataset.json": "{"}, "{folder}/dataset.json: cannot be read as JSON: EOF"),
    "dataset.json without folders": (
        {"dataset.json": json.dumps(TWO_LABELS)},
        "{folder}: the folder imagesTr and labelsTr is missing beside dataset.json; expected one of",
    ),
    "an undeclared value": (
        {**NNUNET, "dataset.json": json.dumps(TWO_LABELS)},
        "undeclared label values: 2 in 32 voxels; declared are 0, 1",
    ),
    "JPEG masks": (
        images("images/{}.jpg") | labels("labels/{}.jpg"),
        "error  p_1   labels/p_1.jpg   JPEG changes label values; save label maps as PNG",
    ),
    "colour masks": (
        images("images/{}.png") | labels("labels/{}.png", kind=COLOURS),
        "Say which label each colour is, with names of your own; other colours are refused where they cover areas:\n"
        "  autoseg-plan '{folder}' --label-colors '200,0,0=label_1, 0,90,0=label_2'",
    ),
    "images in the folder of label maps": (
        images("images/{}.nii.gz") | labels("labels/{}.nii.gz", kind=IMAGE),
        "lie only along edges or in dots, as in a soft or noisy mask",
    ),
    "a truncated file": (
        {**PLAIN, "images/p_1.nii.gz": encode(IMAGE, ".nii.gz", 0)[:60]},
        "error  p_1  images/p_1.nii.gz  the file is truncated or damaged: ",
    ),
    "an unpacked file that is called .gz": (
        {**PLAIN, "images/p_1.nii.gz": encode(IMAGE, ".nii", 0)},
        "p_1.nii.gz is not packed with gzip, although its name ends in .gz. If it is not packed at all, rename it",
    ),
    "a file of no bytes": (
        {**PLAIN, "images/p_1.nii.gz": b""},
        f"error  p_1  images/p_1.nii.gz  cannot be read as NIfTI: p_1.nii.gz is empty (0 bytes)\n{FIX}",
    ),
}  # fmt: skip

LISTS: dict[str, tuple[dict[str, Content], str, str]] = {
    "a list without images": (
        {"list.csv": "case,label\na,a.nii.gz\n"}, "list.csv",
        "{folder}/list.csv: expected the columns image (or image_0, image_1, ..., or a column for each channel, such "
        "as t1,flair) and label, found case, label",
    ),
    "a list of no bytes": (
        {"list.csv": ""}, "list.csv", "{folder}/list.csv: the file is empty; expected a header such as case,image,label"
    ),
    "a list without rows": (
        {"mine.csv": "case,image,label\n"}, "mine.csv",
        "{folder}: No cases were found. Add a row for each case to the list mine, with its image and its label map.",
    ),
    "a file that is not there": (
        {"list.csv": "case,image,label\na,x/a.nii.gz,y/a.nii.gz\n", "x/a.nii.gz": IMAGE}, "list.csv",
        "error  a  y/a.nii.gz  the label file does not exist\nEvery case has errors.",
    ),
    "a case that is listed twice": (
        {"list.csv": "case,image,label\na,a.nii.gz,m.nii.gz\na,b.nii.gz,m.nii.gz\n", "a.nii.gz": IMAGE,
         "b.nii.gz": IMAGE, "m.nii.gz": LABEL}, "list.csv",
        "error  a  b.nii.gz  several cases have this name; give each its own name (in lists: in the column `case`)",
    ),
    "a damaged list": ({"list.json": "[{"}, "list.json", "{folder}/list.json: cannot be read as JSON: EOF"),
    "masks without an image": (
        images("{}/ct.nii.gz", cases=("s1", "s2"))
        | labels("{}/segmentations/a.nii.gz", "{}/segmentations/b.nii.gz", cases=("s1", "s2", "s3"), kind=MASK_1), "",
        f"error  s3  s3/segmentations/a.nii.gz  there is no image beside these masks\n{FIX}",
    ),
    "two derivatives of BIDS": (
        images("sub-{0}/anat/sub-{0}_T1w.nii.gz", cases=("01", "02"))
        | labels(*(f"derivatives/{name}/sub-{{0}}/anat/sub-{{0}}_dseg.nii.gz" for name in ("anna", "bert")),
                 cases=("01", "02")), "",
        "{folder}: 2 cases have several label maps:\n  2 x derivatives/anna/sub-*/**/sub-*_dseg\n"
        "  2 x derivatives/bert/sub-*/**/sub-*_dseg\nGive the derivative whose label maps are meant",
    ),
}  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        describe_dataset(path)
    return str(caught.value)


@pytest.mark.parametrize("name", NO_LAYOUT)
def test_a_folder_without_a_layout(tmp_path, name):
    if name == "DICOM":
        pytest.importorskip("pydicom")
    files, sentence = NO_LAYOUT[name]
    folder = build(tmp_path / "my data", files)
    message = refusal(folder)
    assert message.startswith(f"{folder}: no known dataset layout; expected one of\n")
    assert sentence.replace("{folder}", str(folder)) in message


@pytest.mark.parametrize("name", FAULTY)
def test_a_folder_with_faults(tmp_path, name):
    files, sentence = FAULTY[name]
    folder = build(tmp_path / "my data", files)
    assert sentence.replace("{folder}", str(folder)) in refusal(folder)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_and_a_standard_with_faults(tmp_path, name):
    files, given, sentence = LISTS[name]
    folder = build(tmp_path / "my data", files)
    assert sentence.replace("{folder}", str(folder)) in refusal(folder / given)


def test_a_path_that_does_not_exist(tmp_path):
    assert refusal(tmp_path / "none").startswith(f"{tmp_path / 'none'}: does not exist; expected one of\n")


def test_an_image_instead_of_a_folder(tmp_path):
    path = build(tmp_path, {"p_1.nii.gz": IMAGE}) / "p_1.nii.gz"
    assert refusal(path).startswith(f"{path}: is neither a folder nor a ")


@pytest.mark.parametrize("name", ["images/p_1.nii.gz", "labels/p_1.nii.gz"])
def test_a_link_that_leads_nowhere(tmp_path, name):
    folder = build(tmp_path / "data", without(PLAIN, name))
    (folder / name).symlink_to(tmp_path / "gone.nii.gz")
    what = "image" if name.startswith("images") else "label"
    assert f"error  p_1  {name}  the {what} file does not exist\n{FIX}" in refusal(folder)


def test_a_folder_that_leads_back_to_itself(tmp_path):
    folder = build(tmp_path / "data", {"a.txt": ""})
    (folder / "again").symlink_to(folder)
    assert "no known dataset layout" in refusal(folder)


def test_faulty_cases_can_be_left_out(tmp_path):
    folder = build(tmp_path / "data", without(PLAIN, "labels/p_2.nii.gz"))
    description = describe_dataset(folder, skip_faulty=True)
    assert [files.case for files in description.cases] == ["p_03", "p_1"]
    assert description.warnings[0].what == "left out: there is no label map for this image in labels/"
