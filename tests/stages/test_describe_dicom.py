"""Datasets of DICOM series: label maps as segmentations or NIfTI, in the layouts that people have."""

import shutil

import nibabel
import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.cases import content_hash, read_case
from autoseg.imaging.formats.dicom.segments import write_segmentation
from autoseg.imaging.formats.reading import read_image
from autoseg.imaging.formats.writing import write_label_map
from autoseg.records.dataset import LabelValues
from autoseg.stages.describe import describe_dataset
from autoseg.stages.evaluate import evaluate_predictions
from tests.dicom_builders import IDENTITY, Series, make_segments

pytest.importorskip("highdicom", reason="highdicom is not installed (extra `dicom`)")

CASES = ("p1", "p2", "p3")


def make_case(case, geometry="oblique"):
    number = CASES.index(case) + 1
    stored = np.random.default_rng(number).integers(0, 300, (5, 13, 17)).astype(np.uint16)
    return Series("MR", geometry, stored=stored, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.8")


def write_case(case, folder, label, values=(1, 2)):
    """A series with its label map, which is NIfTI or a segmentation by its ending; labels are bands of rows."""
    make_case(case).write(folder)
    volume = read_image([folder])
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[1:4, 2:6, 3:9], labels[1:4, 7:11, 3:9] = 1, 2
    label.parent.mkdir(parents=True, exist_ok=True)
    if label.suffix == ".dcm":
        assert volume.template.series is not None
        segments, algorithm = make_segments({"liver": (values[0],), "spleen": (values[1],)})
        write_segmentation(labels, volume.template.series, segments, algorithm, label)
    else:
        write_label_map(labels, volume.template, label)
    return labels


LAYOUTS = {
    "two folders": ("images/{}", "labels/{}.dcm"),
    "two folders, NIfTI": ("images/{}", "labels/{}.nii.gz"),
    "nnU-Net's names": ("imagesTr/{}_0000", "labelsTr/{}.nii.gz"),
    "one folder for each case": ("{}/mr", "{}/seg.dcm"),
    "one folder for each case, NIfTI": ("{}/series", "{}/seg.nii.gz"),
    "label map among the slices": ("{}", "{}/seg.dcm"),
    "NIfTI among the slices": ("{}", "{}/label.nii.gz"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    image, label = LAYOUTS[layout]
    root = tmp_path / "data"
    expected = [write_case(case, root / image.format(case), root / label.format(case)) for case in CASES]
    described = describe_dataset(root)
    assert [files.case for files in described.cases] == list(CASES)
    names = ("liver", "spleen") if label.endswith(".dcm") else ("label_1", "label_2")
    assert {name: described.labels[name] for name in names} == {names[0]: 1, names[1]: 2}
    assert described.file_ending == ".nii.gz"
    assert any("DICOM segmentations" in note for note in described.notes) == label.endswith(".dcm")
    assert IDENTITY not in described.model_dump_json()
    read = read_case(root, described.cases[2], described.encoding, "as_stored")
    np.testing.assert_array_equal(read.labels, expected[2])
    assert read.image.shape == (1, 5, 13, 17)


def test_archives(tmp_path):
    root = tmp_path / "data"
    for case in CASES:
        write_case(case, tmp_path / "x" / case, root / "labels" / f"{case}.nii.gz")
        (root / "images").mkdir(exist_ok=True)
        shutil.make_archive(str(root / "images" / case), "zip", tmp_path / "x" / case)
    described = describe_dataset(root)
    assert [files.images for files in described.cases] == [(f"images/{case}.zip",) for case in CASES]


def test_list_of_series(tmp_path):
    rows = ["case,image_0,image_1,label"]
    for case in CASES:
        write_case(case, tmp_path / case / "study", tmp_path / case / "label.dcm")
        second = make_case(case)
        second.number, second.series_uid, second.stored = 9, f"{second.series_uid}.9", second.stored[::-1].copy()
        second.write(tmp_path / case / "study")
        rows.append(f"{case},{case}/study#3,{case}/study#9,{case}/label.dcm")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    described = describe_dataset(tmp_path / "cases.csv")
    assert [len(files.images) for files in described.cases] == [2, 2, 2]
    image = read_case(tmp_path, described.cases[0], described.encoding, "as_stored").image
    np.testing.assert_array_equal(image[0], image[1, ::-1])


def test_changed_slice_changes_the_hash(tmp_path):
    root = tmp_path / "data"
    for case in CASES:
        write_case(case, root / "images" / case, root / "labels" / f"{case}.dcm")
    files = describe_dataset(root).cases[0]
    before = content_hash(root, files)
    path = min((root / "images" / "p1").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert content_hash(root, files) != before


def test_faults_of_series_are_listed_with_the_case(tmp_path):
    root = tmp_path / "data"
    for case in CASES:
        write_case(case, root / "images" / case, root / "labels" / f"{case}.dcm")
    (root / "images" / "p1" / "03_002.dcm").unlink()
    (root / "images" / "p1" / "03_001.dcm").unlink()
    with pytest.raises(DatasetError, match=r"error +p1 +images/p1 +the slices do not lie at equal distances") as error:
        describe_dataset(root)
    assert IDENTITY not in str(error.value)


def test_segmentations_are_compared_by_name(tmp_path):
    """The prediction numbers its segments in another order than the labels have values."""
    for case in CASES:
        write_case(case, tmp_path / "x" / case, tmp_path / "references" / f"{case}.nii.gz")
        write_case(case, tmp_path / "x" / case, tmp_path / "predictions" / f"{case}.dcm")
        write_case(case, tmp_path / "x" / case, tmp_path / "segments" / f"{case}.dcm")
    for path in (tmp_path / "references").iterdir():
        image = nibabel.load(path)
        moved = nibabel.Nifti1Image(np.array([0, 30, 7], np.uint8)[np.asarray(image.dataobj)], image.affine)
        nibabel.save(moved, path)
    labels: dict[str, LabelValues] = {"background": 0, "spleen": 7, "liver": 30}
    for references in ("references", "segments"):
        evaluation, faults = evaluate_predictions(tmp_path / "predictions", tmp_path / references, labels=labels)
        assert faults == ()
        assert len(evaluation.cases) == len(CASES)
        assert evaluation.mean_foreground_dice == 1
