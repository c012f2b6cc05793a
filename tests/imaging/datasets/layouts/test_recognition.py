"""Which cases a folder holds, by names alone: no file here has any content."""

import json
from pathlib import Path

import pytest

from autoseg.imaging.datasets.layouts.recognition import find_dataset

V1 = {"modality": {"0": "MRI", "1": "CT"}, "labels": {"0": "background", "1": "a"}}
V2 = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def declare(folder: Path, **keys) -> Path:
    (folder / "dataset.json").write_text(json.dumps(keys))
    return folder


def make_raw(folder: Path, *cases: str, channels=2) -> Path:
    for case in cases:
        touch(folder, *(f"imagesTr/{case}_{channel:04d}.nii.gz" for channel in range(channels)))
        touch(folder, f"labelsTr/{case}.nii.gz")
    return folder


def entries(*cases: str, images="./imagesTr/{}.nii.gz"):
    return [{"image": images.format(case), "label": f"./labelsTr/{case}.nii.gz"} for case in cases]


def summary(found):
    return {files.case: [*files.images, files.label] for files in found.cases}


def errors(found):
    return [(fault.case, fault.file, fault.what) for fault in found.faults if fault.severity == "error"]


def warnings(found):
    return [f"{fault.file}: {fault.what}" for fault in found.faults if fault.severity == "warning"]


def channels_of(case: str) -> list[str]:
    return [f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz"]


@pytest.mark.parametrize("keys", [V1, V2])
@pytest.mark.parametrize("listed", [entries("p_01", "p_02"), [], ["p_01", "p_02"], ["./imagesTr/p_01.nii.gz", "p_02"]])
def test_a_list_of_cases_beside_files_with_channel_numbers(tmp_path, keys, listed):
    folder = declare(make_raw(tmp_path, "p_01", "p_02"), **keys, training=listed, test=["./imagesTs/x.nii.gz"])
    found = find_dataset(folder)
    assert summary(found) == {case: channels_of(case) for case in ("p_01", "p_02")}
    assert found.faults == ()
    assert (found.layout, found.channel_names) == ("nnunet", ("MRI", "CT"))
    assert found.labels == {"background": 0, "a": 1}


def test_the_list_of_nnunet_v1_chooses_the_cases(tmp_path):
    found = find_dataset(declare(make_raw(tmp_path, "a", "b"), **V1, training=entries("b", "c"), numTraining=2))
    assert summary(found) == {"b": channels_of("b")}
    assert [error[:2] for error in errors(found)] == [("c", "./imagesTr/c.nii.gz")]
    assert warnings(found) == [
        "imagesTr/a_0000.nii.gz: not used: dataset.json does not list it",
        "dataset.json: numTraining is 2, but 1 cases were found",
    ]


def test_a_list_left_over_in_nnunet_v2_is_compared_and_not_followed(tmp_path):
    found = find_dataset(declare(make_raw(tmp_path, "a", "b"), **V2, training=entries("b", "c"), numTraining="2"))
    assert summary(found) == {case: channels_of(case) for case in ("a", "b")}
    assert errors(found) == []
    assert warnings(found) == [
        "./imagesTr/c.nii.gz: dataset.json lists this case, but there is no such file, nor files with channel numbers",
        "imagesTr/a_0000.nii.gz: used, though dataset.json does not list it",
    ]


def test_a_list_of_first_channels_names_cases(tmp_path):
    listed = entries("a", "b", images="imagesTr/{}_0000.nii.gz")
    found = find_dataset(declare(make_raw(tmp_path, "a", "b"), **V2, training=listed))
    assert summary(found) == {case: channels_of(case) for case in ("a", "b")}
    assert found.faults == ()


def test_a_channel_that_is_missing_beside_a_list(tmp_path):
    folder = declare(make_raw(tmp_path, "a", "b"), **V1, training=entries("a", "b"))
    (folder / "imagesTr" / "b_0001.nii.gz").unlink()
    assert errors(find_dataset(folder)) == [("b", "imagesTr/b_0001.nii.gz", "the file of channel 1 is missing")]


def test_numbers_that_end_the_names_of_cases_are_no_channels(tmp_path):
    touch(tmp_path, *(f"{kind}Tr/BRATS_{number:04d}.nii.gz" for kind in ("images", "labels") for number in range(2)))
    found = find_dataset(declare(tmp_path, **V1, training=entries("BRATS_0000", "BRATS_0001")))
    assert found.layout == "decathlon"
    assert summary(found)["BRATS_0001"] == ["imagesTr/BRATS_0001.nii.gz", "labelsTr/BRATS_0001.nii.gz"]
    assert found.faults == ()


def test_images_of_nnunet_without_channel_numbers(tmp_path):
    keys = {**V2, "channel_names": {"0": "CT"}}
    for folder, names in ((tmp_path / "a", ("x", "y")), (tmp_path / "b", ("scan_0001", "scan_0002"))):
        touch(folder, *(f"{kind}Tr/{name}.nii.gz" for kind in ("images", "labels") for name in names))
        found = find_dataset(declare(folder, **keys, numTraining=2))
        assert summary(found) == {name: [f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz"] for name in names}
        assert (found.layout, found.channel_names, found.faults) == ("nnunet", ("CT",), ())
        assert found.notes[0].startswith("the images in imagesTr/ have no channel numbers (CASE_0000)")


def test_listed_files_that_were_unpacked(tmp_path):
    touch(tmp_path, "imagesTr/a.nii", "labelsTr/a.NII")
    found = find_dataset(declare(tmp_path, **V1, training=entries("a")))
    assert summary(found) == {"a": ["imagesTr/a.nii", "labelsTr/a.NII"]}
    assert found.faults == ()


def test_images_and_label_maps_whose_names_are_written_with_other_code_points(tmp_path):
    touch(tmp_path, "images/M\u00fcller.nii.gz", "labels/Mu\u0308ller.nii.gz", "images/b.NII.GZ", "labels/b.nii")
    found = find_dataset(tmp_path)
    assert summary(found)["M\u00fcller"] == ["images/M\u00fcller.nii.gz", "labels/Mu\u0308ller.nii.gz"]
    assert summary(found)["b"] == ["images/b.NII.GZ", "labels/b.nii"]
    assert found.faults == ()
