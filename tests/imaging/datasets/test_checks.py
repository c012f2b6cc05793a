"""Faults and warnings of a dataset: each is found, named, and all are reported together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg.errors import DatasetError
from autoseg.stages.describe import describe_dataset
from tests.imaging.datasets.small_datasets import SHAPE_XYZ, image, label, make_nnunet, make_plain, save, whats


@pytest.fixture
def faulty(shared: Path, tmp_path: Path) -> Path:
    """One good pair and one case for every fault, made from the odd files."""
    made = shared / "data" / "odd_files" / "made"
    pairs = {
        "good": ("image_ok", "label_ok"),
        "copy": ("image Größe é 海馬 01", "label_ok"),
        "empty": ("image_shear_1e-3", "label_only_background"),
        "nan": ("image_nan", "label_ok"),
        "constant": ("image_all_zero", "label_ok"),
        "truncated": ("image_truncated", "label_ok"),
        "text": ("image_is_text", "label_ok"),
        "seven": ("image_ok", "label_value_7"),
        "short": ("image_ok", "label_one_slice_less"),
        "shifted": ("image_ok", "label_shifted_5mm"),
        "half": ("image_ok", "label_float_half"),
        "two": ("image_4d_2channels", "label_ok"),
        "unlabelled": ("image_ok", None),
        "unpictured": (None, "label_ok"),
    }
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for case, (image_name, label_name) in pairs.items():
        if image_name:
            shutil.copy(made / f"{image_name}.nii.gz", tmp_path / "imagesTr" / f"{case}_0000.nii.gz")
        if label_name:
            shutil.copy(made / f"{label_name}.nii.gz", tmp_path / "labelsTr" / f"{case}.nii.gz")
    (tmp_path / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "MR"},
                "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
                "numTraining": 13,
                "file_ending": ".nii.gz",
            }
        )
    )
    return tmp_path


FOUND = {
    "nan": ("imagesTr/nan_0000.nii.gz", "49 voxels are NaN"),
    "constant": ("imagesTr/constant_0000.nii.gz", "the image is constant: every voxel is 0"),
    "truncated": ("imagesTr/truncated_0000.nii.gz", "truncated"),
    "text": ("imagesTr/text_0000.nii.gz", "gzip"),
    "seven": ("labelsTr/seven.nii.gz", "undeclared label values: 7 in 12 voxels; declared are 0, 1, 2"),
    "short": ("labelsTr/short.nii.gz", "shapes differ"),
    "shifted": ("labelsTr/shifted.nii.gz", "5 mm apart"),
    "half": ("labelsTr/half.nii.gz", "whole numbers from 0 to 65535, found 0.5, 1.5"),
    "two": ("imagesTr/two_0000.nii.gz", "2 channels, expected 1"),
    "unlabelled": ("imagesTr/unlabelled_0000.nii.gz", "no label map for this image"),
    "unpictured": ("labelsTr/unpictured.nii.gz", "no image for this label map"),
}


def test_all_faults_are_reported_together(faulty: Path):
    with pytest.raises(DatasetError, match=r"11 errors and \d+ warnings") as caught:
        describe_dataset(faulty)
    lines = str(caught.value).splitlines()
    for case, (file, what) in FOUND.items():
        assert any(line.split()[:3] == ["error", case, file] and what in line for line in lines), case
    assert any(line.startswith("warning  empty") and "no foreground" in line for line in lines)
    assert lines[-1] == "Fix these files, or leave out the 11 faulty cases with --skip-faulty."


def test_faulty_cases_can_be_left_out(faulty: Path):
    description = describe_dataset(faulty, skip_faulty=True)
    assert [files.case for files in description.cases] == ["copy", "empty", "good"]
    left_out = {fault.case: fault for fault in description.warnings if fault.what.startswith("left out: ")}
    assert {case: fault.file for case, fault in left_out.items()} == {case: file for case, (file, _) in FOUND.items()}
    assert "good|imagesTr/good_0000.nii.gz|the image is the same as that of case copy" in whats(description)
    assert all(fault.severity == "warning" for fault in description.warnings)


def test_left_out_cases_decide_nothing(tmp_path):
    """Three faulty cases against two sound ones: CT in two channels, values and images that the others lack."""
    make_plain(tmp_path, ["good1", "good2", "bad1", "bad2", "bad3"])
    hounsfield = np.random.default_rng(0).integers(-1024, 2500, (*SHAPE_XYZ, 2)).astype(np.int16)
    hounsfield[0, 0, 0] = -1024
    for case in ("bad1", "bad2", "bad3"):
        save(tmp_path / "images" / f"{case}.nii.gz", hounsfield)
        save(tmp_path / "labels" / f"{case}.nii.gz", label(1, 2, 9), np.diag([-1.25, -0.5, 5.0, 1.0]))
    description = describe_dataset(tmp_path, skip_faulty=True)
    assert [files.case for files in description.cases] == ["good1", "good2"]
    assert description.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert description.channel_names == ("channel_0",)
    assert "the same as that of case" not in whats(description)
    with pytest.raises(DatasetError, match="5 errors and 2 warnings"):
        describe_dataset(tmp_path)


def test_values_of_a_case_with_other_channels_are_no_labels(tmp_path):
    make_plain(tmp_path, ["a", "b", "c"])
    save(tmp_path / "images" / "c.nii.gz", np.stack([image(7), image(8)], axis=-1))
    save(tmp_path / "labels" / "c.nii.gz", label(1, 2, 9))
    assert describe_dataset(tmp_path, skip_faulty=True).labels == {"background": 0, "label_1": 1, "label_2": 2}


def test_labels_of_left_out_cases_only_are_absent(tmp_path):
    make_nnunet(tmp_path)
    for case in ("a", "b"):
        save(tmp_path / "labelsTr" / f"{case}.nii.gz", label(1, 2))
    save(tmp_path / "labelsTr" / "c.nii.gz", label(1, 2, 3, 7))
    assert "the label 'c' (3) occurs in no case" in whats(describe_dataset(tmp_path, skip_faulty=True))


def test_an_image_among_the_label_maps_is_a_fault_of_its_case(tmp_path):
    make_plain(tmp_path, ["a", "b", "c"])
    save(tmp_path / "labels" / "b.nii.gz", np.arange(385, dtype=np.uint16).reshape(SHAPE_XYZ))
    wrong = r"error +b +labels/b\.nii\.gz +385 different values .*is it a label map"
    with pytest.raises(DatasetError, match=wrong):
        describe_dataset(tmp_path)
    description = describe_dataset(tmp_path, skip_faulty=True)
    assert [files.case for files in description.cases] == ["a", "c"]
    assert description.labels == {"background": 0, "label_1": 1, "label_2": 2}


def test_no_sound_case_is_said(tmp_path):
    make_plain(tmp_path, ["a"])
    save(tmp_path / "images" / "a.nii.gz", np.zeros(SHAPE_XYZ, np.float32))
    with pytest.raises(DatasetError, match=r"the image is constant.*\n.*Every case has errors"):
        describe_dataset(tmp_path, skip_faulty=True)
    for file in (*(tmp_path / "images").iterdir(), *(tmp_path / "labels").iterdir()):
        file.unlink()
    with pytest.raises(DatasetError, match=rf"^{tmp_path}: No cases were found\. Put images"):  # not "0 errors"
        describe_dataset(tmp_path)


def test_two_files_of_one_channel_leave_their_case_out(tmp_path):
    make_nnunet(tmp_path)
    save(tmp_path / "imagesTr" / "b_0001.nii", image(9))
    with pytest.raises(DatasetError, match=r"error +b +imagesTr/b_0001\.nii\.gz +has the same case name as"):
        describe_dataset(tmp_path)
    assert [files.case for files in describe_dataset(tmp_path, skip_faulty=True).cases] == ["a", "c"]


def test_unusable_entries_of_dataset_json_are_faults(tmp_path):
    make_nnunet(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    images = [f"imagesTr/a_{channel:04d}.nii.gz" for channel in range(2)]
    listed = {"a": images, "none": [], "blank": [""], "x/y": images, "..": images, "": images}
    content["dataset"] = {
        case: {"images": files, "label": "" if case == "none" else "labelsTr/a.nii.gz"}
        for case, files in listed.items()
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="6 errors") as caught:
        describe_dataset(tmp_path)
    for expected in (
        "error    none       -                        no image is listed for this case",
        "error    none       -                        no label map is listed for this case",
        "error    blank      labelsTr/a.nii.gz        no image is listed for this case",
        "error    x/y        imagesTr/a_0000.nii.gz   the name of a case must be usable as a file name",
        "error    ..         imagesTr/a_0000.nii.gz   the name of a case must be usable as a file name",
        "error    (no name)  imagesTr/a_0000.nii.gz   the name of a case must be usable as a file name",
    ):
        assert expected.split() in [line.split() for line in str(caught.value).splitlines()]
    assert [files.case for files in describe_dataset(tmp_path, skip_faulty=True).cases] == ["a"]


@pytest.mark.parametrize("nothing", ["", [], [""]])
def test_decathlon_entries_without_image_are_faults(tmp_path, nothing: str | list[str]):
    make_plain(tmp_path, ["a", "b"])
    training: list[dict[str, str | list[str]]] = [
        {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"},
        {"image": nothing, "label": "labels/b.nii.gz"},
    ]
    content = {"labels": {"0": "background", "1": "x", "2": "y"}, "training": training}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"error +b +labels/b\.nii\.gz +no image is listed for this case"):
        describe_dataset(tmp_path)
    assert [files.case for files in describe_dataset(tmp_path, skip_faulty=True).cases] == ["a"]


def test_missing_channel_and_stray_names(tmp_path):
    make_nnunet(tmp_path)
    (tmp_path / "imagesTr" / "b_0001.nii.gz").unlink()
    save(tmp_path / "imagesTr" / "stray.nii.gz", image(5))
    (tmp_path / "imagesTr" / "notes.txt").write_text("")
    with pytest.raises(
        DatasetError, match=r"error +b +imagesTr/b_0001\.nii\.gz +the file of channel 1 is missing"
    ) as caught:
        describe_dataset(tmp_path)
    assert "the name lacks a channel number" in str(caught.value)
    description = describe_dataset(tmp_path, skip_faulty=True)
    assert [files.case for files in description.cases] == ["a", "c"]
    assert "|imagesTr/notes.txt|ignored" in whats(description)


def test_channels_on_different_grids(tmp_path):
    make_nnunet(tmp_path)
    save(tmp_path / "imagesTr" / "c_0001.nii.gz", image(9), np.diag([-1.25, -0.5, 5.0, 1.0]))
    with pytest.raises(
        DatasetError, match=r"c_0001\.nii\.gz +not on the same grid as imagesTr/c_0000\.nii\.gz: the spacings"
    ):
        describe_dataset(tmp_path)


def test_one_empty_channel_is_a_warning(tmp_path):
    make_nnunet(tmp_path)
    save(tmp_path / "imagesTr" / "c_0001.nii.gz", np.zeros(SHAPE_XYZ, np.float32))
    assert "c|imagesTr/c_0001.nii.gz|the image is constant" in whats(describe_dataset(tmp_path))


def test_unusual_spacing_and_absent_label_are_warnings(tmp_path):
    make_plain(tmp_path, ["a", "b", "c"])
    for kind in ("images", "labels"):
        array = image(2) if kind == "images" else label(1, 2)
        save(tmp_path / kind / "c.nii.gz", array, np.diag([-1.25, -0.5, 12.5, 1.0]))
    assert "c|images/c.nii.gz|unusual spacing: 12.5, 0.5, 1.25 mm" in whats(describe_dataset(tmp_path))
    make_nnunet(tmp_path / "n", labels={"background": 0, "a": 1, "b": 2, "c": 3, "d": 4})
    assert "the label 'd' (4) occurs in no case" in whats(describe_dataset(tmp_path / "n"))


def test_jpeg_label_maps_are_refused(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.arange(77, dtype=np.uint8).reshape(7, 11)).save(tmp_path / folder / "a.jpg")
    with pytest.raises(DatasetError, match="JPEG changes label values"):
        describe_dataset(tmp_path)
