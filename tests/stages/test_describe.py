import json
import os
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.cases import read_case
from autoseg.imaging.datasets.checks import check_case
from autoseg.imaging.datasets.labels.label_colors import parse_label_colors
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.datasets.labels.label_reading import ReadingOptions
from autoseg.records.dataset import CaseFiles, DatasetDescription, Fault, LabelValues
from autoseg.stages.describe import describe_dataset, log_description
from tests.builders import make_dataset
from tests.imaging.datasets.small_datasets import AFFINE, SHAPE_XYZ, image, label, make_nnunet, make_plain, save, whats


def die_of_b(folder, files, **options):
    if files.case == "b":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    return check_case(folder, files, **options)


def test_decathlon(shared, tmp_path):
    source = shared / "data" / "msd" / "Task04_Hippocampus"
    content = json.loads((source / "dataset.json").read_text())
    content["training"] = content["training"][5:0:-1]
    for entry in content["training"]:
        for file in entry.values():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copy(source / file, tmp_path / file)
    content["training"].append({"image": "./imagesTr/._hippocampus_001.nii.gz", "label": "./labelsTr/._x.nii.gz"})
    (tmp_path / "imagesTr" / "._hippocampus_001.nii.gz").write_bytes(b"resource fork")
    shutil.copy(tmp_path / content["training"][0]["image"], tmp_path / "imagesTr" / "hippocampus_999.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    done: list[tuple[int, int]] = []
    description = describe_dataset(tmp_path, progress=lambda *counts: done.append(counts))
    assert description.layout == "decathlon"
    assert description.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert description.channel_names == ("MRI",)
    assert description.file_ending == ".nii.gz"
    ids = [files.case for files in description.cases]
    assert ids == [f"hippocampus_{number:03d}" for number in (3, 4, 6, 7, 8)]
    assert description.cases[0].images == ("imagesTr/hippocampus_003.nii.gz",)
    assert done == [(count, 5) for count in range(1, 6)]
    assert "dataset.json|numTraining is 200, but 5 cases were found" in whats(description)
    assert "imagesTr/hippocampus_999.nii.gz|not used" in whats(description)
    assert len(description.warnings) == 2


def test_workers_change_nothing(tmp_path):
    folder = make_plain(tmp_path, ["a", "b", "c"])
    assert describe_dataset(folder, workers=2) == describe_dataset(folder)


def test_a_case_that_ends_its_worker_is_named(tmp_path, monkeypatch):
    folder = make_plain(tmp_path, ["a", "b", "c"])
    monkeypatch.setattr("autoseg.stages.describe.check_case", die_of_b)
    with pytest.raises(DatasetError, match=r"error +b +- +the worker process was ended by SIGTERM, and a second time"):
        describe_dataset(folder, workers=2)
    description = describe_dataset(folder, workers=2, skip_faulty=True)
    assert [case.case for case in description.cases] == ["a", "c"]


def test_nnunet_raw_with_regions_and_ignore(tmp_path):
    make_nnunet(
        tmp_path,
        labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        regions_class_order=[1, 2],
    )
    description = describe_dataset(tmp_path, orientation="as_stored")
    assert description.layout == "nnunet"
    assert description.orientation == "as_stored"
    assert description.channel_names == ("T1", "CT")
    assert description.labels == {"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}
    assert description.encoding.activation == "sigmoid"
    assert description.encoding.ignore_value == 3
    assert description.cases[0] == CaseFiles(
        case="a", images=("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"), label="labelsTr/a.nii.gz"
    )
    assert description.warnings == ()


def test_channels_named_by_words_keep_the_order_of_the_file(tmp_path):
    make_nnunet(tmp_path, channel_names={"PET": "PET", "CT": "CT"})
    assert describe_dataset(tmp_path).channel_names == ("PET", "CT")


def test_nnunet_explicit_file_list(tmp_path):
    make_nnunet(tmp_path / "elsewhere")
    listed = {
        case: {
            "images": [f"../elsewhere/imagesTr/{case}_{channel:04d}.nii.gz" for channel in range(2)],
            "label": str(tmp_path / "elsewhere" / "labelsTr" / f"{case}.nii.gz"),
        }
        for case in ("b", "a")
    }
    content = json.loads((tmp_path / "elsewhere" / "dataset.json").read_text())
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({**content, "numTraining": 2, "dataset": listed}))
    description = describe_dataset(tmp_path / "set")
    assert [files.case for files in description.cases] == ["a", "b"]
    assert description.cases[0].label == "../elsewhere/labelsTr/a.nii.gz"
    assert description.warnings == ()


def test_real_nnunet_folder(shared):
    description = describe_dataset(shared / "data" / "nnunet_raw" / "Dataset027_ACDC")
    assert len(description.cases) == 40
    assert description.labels == {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}
    assert description.warnings == ()


def test_plain_folder_finds_labels_and_says_so(shared):
    description = describe_dataset(shared / "data" / "plain" / "lung_protonMR")
    assert description.layout == "plain"
    assert list(description.labels) == ["background", *(f"label_{value}" for value in range(1, 6))]
    assert description.channel_names == ("channel_0",)
    assert any("no labels are declared" in note for note in description.notes)
    assert any("no channel names are declared" in note for note in description.notes)


def test_pictures_with_other_label_ending(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("2", "10"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (7, 11, 4)).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(rng.choice([0, 255], (7, 11)).astype(np.uint8)).save(tmp_path / "labels" / f"{name}.bmp")
    description = describe_dataset(tmp_path)
    assert description.channel_names == ("R", "G", "B")
    assert description.labels == {"background": 0, "label_255": 255}
    assert description.encoding.values == (0, 255)
    assert [files.case for files in description.cases] == ["10", "2"]
    assert any("alpha channel was ignored (2 of 2 cases, the first is 10)" in note for note in description.notes)


def test_plain_folder_with_channel_numbers(tmp_path):
    for case in ("p 1", "ü_0002"):
        for channel in range(2):
            save(tmp_path / "images" / f"{case}_{channel:04d}.nii.gz", image(channel))
        save(tmp_path / "labels" / f"{case}.nii.gz", label(1))
    cases = describe_dataset(tmp_path).cases
    assert [files.case for files in cases] == ["p 1", "ü_0002"]
    assert cases[1].images == ("images/ü_0002_0000.nii.gz", "images/ü_0002_0001.nii.gz")


def test_equal_stems_beat_channel_numbers(tmp_path):
    make_plain(tmp_path, ["scan_0001", "scan_0002"])
    assert [files.case for files in describe_dataset(tmp_path).cases] == ["scan_0001", "scan_0002"]


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_lists(tmp_path, ending: str):
    for seed, name in enumerate(["x", "y z"]):
        save(tmp_path / "scans" / f"{name}_a.nii.gz", image(seed))
        save(tmp_path / "scans" / f"{name}_b.nii.gz", image(seed + 10))
        save(tmp_path / "truth" / f"{name}.nii.gz", label(4))
    path = tmp_path / f"cases{ending}"
    if ending == ".csv":
        rows = [f"{name};scans/{name}_b.nii.gz;scans/{name}_a.nii.gz;./truth/{name}.nii.gz" for name in ("y z", "x")]
        path.write_text("\ufeffcase;image_1;image_0;label\n" + "\n".join(rows), encoding="utf-8")
    else:
        entries = [
            {
                "case": name,
                "image": [f"scans/{name}_a.nii.gz", f"scans/{name}_b.nii.gz"],
                "label": f"truth/{name}.nii.gz",
            }
            for name in ("y z", "x")
        ]
        path.write_text(json.dumps(entries))
    description = describe_dataset(path, channel_names=["T1", "T2"])
    assert description.layout == "list"
    assert description.name == "cases"
    assert description.folder == str(tmp_path)
    assert description.channel_names == ("T1", "T2")
    assert description.cases[1] == CaseFiles(
        case="y z", images=("scans/y z_a.nii.gz", "scans/y z_b.nii.gz"), label="truth/y z.nii.gz"
    )


def test_list_faults(tmp_path):
    make_plain(tmp_path, ["a", "b"])
    rows = ["images/a.nii.gz,labels/a.nii.gz", "images/b.nii.gz,", "images/a.nii.gz,labels/b.nii.gz"]
    (tmp_path / "cases.csv").write_text("image,label\n" + "\n".join(rows))
    with pytest.raises(DatasetError, match="several cases have this name") as caught:
        describe_dataset(tmp_path / "cases.csv")
    assert "no label map is listed" in str(caught.value)
    (tmp_path / "cases.csv").write_text("picture,mask\nx,y")
    with pytest.raises(DatasetError, match=r"expected the columns image .* found picture, mask"):
        describe_dataset(tmp_path / "cases.csv")


def test_hounsfield_units_are_ct(tmp_path):
    make_plain(tmp_path, ["a", "b", "c"])
    for name in ("a", "b"):
        hounsfield = np.random.default_rng(ord(name)).integers(-1024, 2500, SHAPE_XYZ).astype(np.int16)
        hounsfield[0, 0, 0] = -1024
        save(tmp_path / "images" / f"{name}.nii.gz", hounsfield)
    description = describe_dataset(tmp_path)
    assert description.channel_names == ("CT",)
    assert any("Hounsfield" in note for note in description.notes)
    assert describe_dataset(tmp_path, channel_names=["PET"]).channel_names == ("PET",)


def test_wrong_number_of_channel_names(tmp_path):
    make_plain(tmp_path, ["a", "b"])
    with pytest.raises(DatasetError, match=r"2 channel names were given \(CT, PET\), but the images have 1"):
        describe_dataset(tmp_path, channel_names=["CT", "PET"])
    make_nnunet(tmp_path / "n", channel_names={"0": "T1", "1": "T2", "2": "T3"})
    with pytest.raises(DatasetError, match="the file of channel 2 is missing"):
        describe_dataset(tmp_path / "n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "gone", "does not exist; expected one of"),
        (lambda folder: folder, "no known dataset layout; expected one of"),
        (lambda folder: make_plain(folder, ["a"], values=()), "No label map has any foreground"),
        (lambda folder: make_nnunet(folder, labels={"background": 0}), "no label besides the background"),
        (lambda folder: make_nnunet(folder, labels={"background": 0, "a": [1, 2]}), "need 'regions_class_order'"),
        (lambda folder: make_nnunet(folder, labels={"background": 0, "a": {}}), r"labels\.a"),
    ],
)
def test_unusable_datasets(tmp_path, make, message: str):
    with pytest.raises(DatasetError, match=message):
        describe_dataset(make(tmp_path))


def save_scaled(path, labels):
    """Write labels as nibabel writes floats under a header of 16 bits: with a scale factor."""
    scaled = nibabel.Nifti1Image(labels.astype(np.float64), AFFINE)
    scaled.header.set_data_dtype(np.uint16)
    nibabel.save(scaled, path)


def test_label_maps_that_are_whole_numbers_but_for_rounding(tmp_path):
    make_plain(tmp_path, ["a", "b", "c"], values=(1, 2, 3))
    for case in "ac":
        save_scaled(tmp_path / "labels" / f"{case}.nii.gz", label(1, 2, 3))
    stored = nibabel.load(tmp_path / "labels" / "a.nii.gz").get_fdata()
    assert not np.array_equal(stored, np.rint(stored))
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "label_1": 1, "label_2": 2, "label_3": 3}
    (note,) = (note for note in description.notes if "rounding" in note)
    assert note.endswith("(2 of 3 cases, the first is a)")


def test_label_maps_that_are_no_label_maps_are_not_said_to_lack_foreground(tmp_path):
    make_plain(tmp_path, ["a", "b"])
    for case in "ab":
        save(tmp_path / "labels" / f"{case}.nii.gz", label(1, 2) * np.float32(0.3))
    with pytest.raises(
        DatasetError, match=r"labels/a\.nii\.gz .* whole numbers from 0 to 65535, found 0.3, 0.6 in"
    ) as caught:
        describe_dataset(tmp_path)
    assert "foreground" not in str(caught.value)
    assert "Every case has errors." in str(caught.value)


def test_masks_with_grey_levels_do_not_become_classes(tmp_path):
    soft = np.zeros(SHAPE_XYZ, np.uint8)
    soft[3:8, 2:5] = 255
    soft[2, 2:5] = soft[8, 2:5] = np.linspace(10, 240, 15).reshape(3, 5).astype(np.uint8)
    for seed, case in enumerate("ab"):
        save(tmp_path / "images" / f"{case}.nii.gz", image(seed))
        save(tmp_path / "labels" / f"{case}.nii.gz", soft)
    with pytest.raises(
        DatasetError, match=r"0 and 255 hold 92\.2 % of the voxels. Threshold the mask: --label-threshold 128"
    ):
        describe_dataset(tmp_path)
    (tmp_path / "declared").mkdir()
    values = {f"level {value}": value for value in np.unique(soft).tolist() if value}
    make_nnunet(tmp_path / "declared", labels={"background": 0, **values}, channel_names={"0": "T1", "1": "T2"})
    for case in "abc":
        save(tmp_path / "declared" / "labelsTr" / f"{case}.nii.gz", soft)
    assert len(describe_dataset(tmp_path / "declared").labels) == 17


def test_a_stray_value_of_one_case_is_a_warning_with_its_name(tmp_path):
    make_plain(tmp_path, ["a", "b", "c"])
    for case in "abc":
        labels = np.ones(SHAPE_XYZ, np.uint8)
        labels[:2], labels[4, 0, :3] = 0, 7 * (case == "b")
        save(tmp_path / "labels" / f"{case}.nii.gz", labels)
    (warning,) = describe_dataset(tmp_path).warnings
    assert (warning.severity, warning.case, warning.file) == ("warning", "b", "labels/b.nii.gz")
    assert "the value 7 occurs in 3 voxels of this case alone and becomes the label label_7" in warning.what


def test_labels_of_a_plain_folder_can_be_named(tmp_path):
    make_plain(tmp_path / "p", ["a", "b"], values=(1, 2, 9))
    description = describe_dataset(tmp_path / "p", labels={"tumour": 2, "liver": 1, "ignore": 9})
    assert description.labels == {"background": 0, "tumour": 2, "liver": 1, "ignore": 9}
    assert [head.name for head in description.encoding.heads] == ["background", "liver", "tumour"]
    assert description.encoding.ignore_value == 9
    with pytest.raises(DatasetError, match="undeclared label values: 9 in 1 voxels; declared are 0, 1, 2"):
        describe_dataset(tmp_path / "p", labels={"liver": 1, "tumour": 2})
    make_nnunet(tmp_path / "n")
    with pytest.raises(DatasetError, match="leave --label-names out"):
        describe_dataset(tmp_path / "n", labels={"liver": 1})


def test_regions_of_a_plain_folder_are_written_from_the_largest_to_the_smallest(tmp_path):
    make_plain(tmp_path / "p", ["a", "b"], values=(1, 2, 4, 9))
    labels: dict[str, LabelValues] = {"whole": (1, 2, 4), "core": (1, 4), "enhancing": 4, "ignore": 9}
    encoding = describe_dataset(tmp_path / "p", labels=labels).encoding
    assert [(head.name, encoding.values[head.painted_index]) for head in encoding.heads] == [
        ("whole", 2), ("core", 1), ("enhancing", 4)
    ]  # fmt: skip
    with pytest.raises(DatasetError, match=r"every value of the region 'core' is in regions after it"):
        describe_dataset(tmp_path / "p", labels={"core": (1, 4), "whole": (1, 2, 4)})


def save_masks(folder, masks) -> None:
    """Grey 2D images with these masks, (Y, X) or (Y, X, 3)."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number, mask in enumerate(masks):
        noise = np.random.default_rng(number).integers(0, 256, mask.shape[:2]).astype(np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{number}.png")


def read_labels(description: DatasetDescription, case: int) -> np.ndarray:
    files = description.cases[case]
    labels = read_case(Path(description.folder), files, description.encoding, "canonical").labels
    assert labels is not None
    return labels


def test_colour_masks_are_refused_with_the_command_that_reads_them(tmp_path):
    masks = np.zeros((2, 20, 30, 3), np.uint8)
    masks[:, 2:9, 3:9], masks[1, 12:18, 15:25] = (255, 0, 0), (0, 128, 255)
    save_masks(tmp_path / "my masks", masks)
    colors = "255,0,0=label_1, 0,128,255=label_2"
    with pytest.raises(DatasetError) as caught:
        describe_dataset(tmp_path / "my masks")
    assert str(caught.value).endswith(f"autoseg-plan '{tmp_path}/my masks' --label-colors '{colors}'")
    reading = ReadingOptions(colors=parse_label_colors("0,128,255=vessel, red=tumour"))
    description = describe_dataset(tmp_path / "my masks", reading=reading)
    assert description.labels == {"background": 0, "vessel": 1, "tumour": 2}
    assert read_labels(description, 1).sum() == 2 * 42 + 60


def test_a_folder_of_masks_in_two_scales_has_one_label(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[2:9, 3:9] = 1
    save_masks(tmp_path, [mask, 255 * mask, 0 * mask])
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "label_1": 1}
    assert any("some masks are 0 and 1, others 0 and 255" in note for note in description.notes)
    for case in range(2):
        np.testing.assert_array_equal(read_labels(description, case)[0], mask)


def test_a_threshold_reads_masks_of_the_only_declared_label(tmp_path):
    mask = np.full((20, 30), 3, np.uint8)
    mask[2:9, 3:9] = 250
    save_masks(tmp_path, [mask, mask])
    with pytest.raises(DatasetError, match=r"undeclared label values: 3, 250 .*--label-threshold 125"):
        describe_dataset(tmp_path, labels={"vessel": 1})
    description = describe_dataset(tmp_path, labels={"vessel": 1}, reading=ReadingOptions(threshold=125))
    assert description.labels == {"background": 0, "vessel": 1}
    assert read_labels(description, 0).sum() == 42


def test_label_maps_that_hold_numbers_of_objects(tmp_path):
    ids = np.zeros((20, 30), np.uint16)
    ids[2:9, 3:9], ids[2:9, 9:12], ids[15:, 20:] = 700, 3, 1
    save_masks(tmp_path, [ids, ids])
    description = describe_dataset(tmp_path, labels={"cell": 2}, reading=ReadingOptions(are_ids=True))
    assert description.labels == {"background": 0, "cell": 2}
    assert [files.instances for files in description.cases] == [files.label for files in description.cases]
    assert any("a number for each object, all of the label 2" in note for note in description.notes)
    np.testing.assert_array_equal(read_labels(description, 0)[0], np.where(ids > 0, 1, 0))
    with pytest.raises(DatasetError, match=r"undeclared label values: 1, 3, 700"):
        describe_dataset(tmp_path, labels={"cell": 2})


def test_masks_of_stacks_without_voxel_size_lie_on_the_grid_of_their_image(tmp_path):
    mask = np.zeros((4, 20, 30), np.uint8)
    mask[1:3, 2:9, 3:9] = 1
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for case in "ab":
        noise = np.random.default_rng(ord(case)).integers(0, 256, mask.shape).astype(np.uint8)
        metadata = {"spacing": 2.0, "unit": "mm", "axes": "ZYX"}
        image, labels = tmp_path / "images" / f"{case}.tif", tmp_path / "labels" / f"{case}.tif"
        tifffile.imwrite(image, noise, imagej=True, resolution=(2, 2), metadata=metadata)
        tifffile.imwrite(labels, mask, photometric="minisblack", metadata=None)
    description = describe_dataset(tmp_path)
    assert description.file_ending == ".nii.gz"
    np.testing.assert_array_equal(read_labels(description, 1), mask)
    assert read_reference(tmp_path, description.cases[0], description.encoding).grid.spacing == (2.0, 0.5, 0.5)


def test_damaged_json_is_named(tmp_path):
    make_nnunet(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset\.json: cannot be read as JSON"):
        describe_dataset(tmp_path)


def test_description_survives_json(tmp_path):
    description = describe_dataset(make_plain(tmp_path, ["a"]))
    assert DatasetDescription.model_validate_json(description.model_dump_json()) == description


def test_warnings_are_logged_with_the_names_that_they_have(caplog):
    warnings = (
        Fault(severity="warning", case="", file="", what="the label 'b' (2) occurs in no case"),
        Fault(severity="warning", case="a", file="labels/a.nii", what="the label map has no foreground"),
    )
    description = make_dataset(["a"], warnings=warnings)
    with caplog.at_level("INFO", logger="autoseg"):
        log_description(description)
    first, *following = [record.getMessage() for record in caplog.records]
    assert ": 1 case, channels " in first
    assert following == [
        "warning: the label 'b' (2) occurs in no case",
        "warning: a labels/a.nii: the label map has no foreground",
    ]
