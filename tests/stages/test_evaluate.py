"""Matching, scoring and reporting of two folders of label maps, written here with SimpleITK, nibabel and Pillow."""

import json
import os
import signal

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image, ImageFilter

from autoseg.errors import DatasetError, ImageFileError, UsageError
from autoseg.imaging.datasets.labels.label_colors import parse_label_colors, resolve_colors
from autoseg.inference.files.label_maps import find_label_maps, read_on_one_grid
from autoseg.records.dataset import LabelReading, LabelValues
from autoseg.stages.evaluate import _score_files, evaluate_predictions

LABELS: dict[str, LabelValues] = {"background": 0, "liver": 1, "lesion": 7}


def write(path, array, spacing=(3.0, 0.7, 0.9)):
    """Write (Z, Y, X) with spacing (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.asarray(array, dtype=np.uint8))
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, str(path))


def block(start, stop, value=1, shape=(5, 7, 11)):
    """Voxels of value in planes start..stop of axis z."""
    array = np.zeros(shape, dtype=np.uint8)
    array[start:stop, 2:5, 1:4] = value
    return array


@pytest.fixture
def folders(tmp_path):
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    write(references / "a.nii.gz", block(0, 4))
    write(predictions / "a.nii.gz", block(2, 4))
    write(references / "b.nii.gz", block(0, 2) + block(3, 5, 7))
    write(predictions / "b.nrrd", block(0, 2))
    return predictions, references


def test_cases_are_matched_by_name_and_scored_by_label(folders):
    calls = []
    evaluation, faults = evaluate_predictions(
        *folders, labels=LABELS, progress=lambda done, total: calls.append((done, total))
    )

    assert faults == ()
    assert [case.case for case in evaluation.cases] == ["a", "b"]
    assert evaluation.cases[0].labels["liver"].dice == pytest.approx(2 * 18 / (18 + 36))
    assert evaluation.labels["liver"].dice == pytest.approx((2 / 3 + 1) / 2)
    assert evaluation.labels["lesion"].dice == 0.0
    assert evaluation.counts["lesion"].model_dump() == {"both_empty": 1, "missed": 1, "false_alarm": 0}
    assert evaluation.mean_foreground_dice == pytest.approx(5 / 12)
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize("mark", ["{}_seg", "{}-label", "mask_{}"])
@pytest.mark.parametrize("images", [True, False])
def test_references_that_lie_beside_their_images(folders, mark, images):
    _, references = folders
    before, _ = evaluate_predictions(*folders, labels=LABELS)
    for case in "ab":
        (references / f"{case}.nii.gz").rename(references / f"{mark.format(case)}.nii.gz")
        if images:
            write(references / f"{case}.nii.gz", block(0, 5, 1))
            write(references / f"{case}_t1.nii.gz", block(0, 5, 1))
    after, faults = evaluate_predictions(*folders, labels=LABELS)
    assert (after, faults) == (before, ())


@pytest.mark.parametrize("word", ["ct", "image"])
def test_cases_that_were_predicted_under_the_names_of_their_images(folders, word):
    predictions, references = folders
    before, _ = evaluate_predictions(*folders, labels=LABELS)
    for case in "ab":
        (predicted,) = predictions.glob(f"{case}.*")
        predicted.rename(predictions / predicted.name.replace(f"{case}.", f"{case}_{word}."))
        (references / f"{case}.nii.gz").rename(references / f"{case}_seg.nii.gz")
        write(references / f"{case}_{word}.nii.gz", block(0, 5, 1))
    after, faults = evaluate_predictions(*folders, labels=LABELS)
    assert faults == ()
    assert [case.labels for case in after.cases] == [case.labels for case in before.cases]


def test_distances_are_in_millimetres_of_the_file(folders):
    evaluation, _ = evaluate_predictions(*folders, labels=LABELS, tolerance_mm=2.5)
    liver = evaluation.cases[0].labels["liver"]  # planes 0 and 1 are missing, 3 mm each
    assert liver.hausdorff_mm == pytest.approx(6.0)
    assert liver.volume_error_ml == pytest.approx(-18 * 3.0 * 0.7 * 0.9 / 1000)
    assert evaluation.surface_tolerance_mm == 2.5
    diagonal = np.linalg.norm([5 * 3.0, 7 * 0.7, 11 * 0.9])
    hausdorff = evaluation.labels["lesion"].metrics["hausdorff_mm"]
    assert (hausdorff.mean, hausdorff.num_cases) == (None, 0)
    assert hausdorff.mean_with_misses == pytest.approx(diagonal)


def test_lengths_and_volumes_do_not_depend_on_the_unit_of_the_header(tmp_path):
    for unit, per_mm in (("mm", 1.0), ("micron", 1000.0), ("meter", 0.001)):
        for folder, voxels in (("predictions", block(0, 2)), ("references", block(0, 4))):
            image = nibabel.Nifti1Image(voxels.T, np.diag([0.5 * per_mm, 1.5 * per_mm, 0.4 * per_mm, 1]))
            image.header.set_xyzt_units(unit)
            (tmp_path / folder).mkdir(exist_ok=True)
            nibabel.save(image, tmp_path / folder / f"{unit}.nii.gz")
    labels: dict[str, LabelValues] = {"background": 0, "liver": 1}
    evaluation, _ = evaluate_predictions(
        tmp_path / "predictions", tmp_path / "references", labels=labels, tolerance_mm=1.0
    )
    for case in evaluation.cases:
        scores = case.labels["liver"]
        assert scores.hausdorff_mm == pytest.approx(0.8, rel=1e-5)
        assert scores.surface_dice == 1.0
        assert scores.volume_error_ml == pytest.approx(-18 * 0.5 * 1.5 * 0.4 / 1000, rel=1e-5)


def test_volumes_of_a_tilted_gantry_are_exact_and_distances_come_with_a_warning(tmp_path):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.deg2rad(25))
    for folder, stop in (("predictions", 3), ("references", 4)):
        (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(block(0, stop).T, affine), tmp_path / folder / "a.nii.gz")
    evaluation, faults = evaluate_predictions(tmp_path / "predictions", tmp_path / "references")
    volume_error = evaluation.cases[0].labels["label_1"].volume_error_ml
    assert volume_error == pytest.approx(-9 * np.linalg.det(affine[:3, :3]) / 1000, rel=1e-6)
    assert [fault.severity for fault in faults] == ["warning"]
    assert "not at right angles" in faults[0].what


def test_without_tolerance_surfaces_are_not_measured(folders):
    evaluation, _ = evaluate_predictions(*folders, labels=LABELS, tolerance_mm=None)
    assert evaluation.surface_tolerance_mm is None
    assert evaluation.cases[0].labels["liver"].hausdorff_mm is None


def test_maps_of_uncertainty_are_no_predictions(folders):
    predictions, _ = folders
    for name in ("a_uncertainty", "a_disagreement", "c_uncertainty"):
        write(predictions / f"{name}.nii.gz", block(0, 4))
    assert list(find_label_maps(predictions)) == ["a", "b", "c_uncertainty"]  # the last is a case of that name
    evaluation, faults = evaluate_predictions(*folders, labels=LABELS)
    assert [case.case for case in evaluation.cases] == ["a", "b"]
    assert [fault.case for fault in faults] == ["c_uncertainty"]


def test_labels_are_found_in_all_references_when_none_are_given(folders):
    evaluation, _ = evaluate_predictions(*folders)
    assert list(evaluation.labels) == ["label_1", "label_7"]
    assert list(evaluation.cases[0].labels) == ["label_1", "label_7"]
    assert evaluation.counts["label_7"].both_empty == 1


def test_cases_in_one_folder_only_are_named(folders):
    predictions, references = folders
    write(references / "c.nii.gz", block(0, 4))
    write(predictions / "d.nii.gz", block(0, 4))

    evaluation, faults = evaluate_predictions(predictions, references, labels=LABELS)

    assert evaluation.missing_predictions == ("c",)
    assert [case.case for case in evaluation.cases] == ["a", "b"]
    assert [(fault.severity, fault.case) for fault in faults] == [("warning", "d")]
    assert "no reference for case d" in faults[0].what


def test_a_case_that_cannot_be_compared_does_not_stop_the_others(folders):
    predictions, references = folders
    (predictions / "a.nii.gz").write_bytes(b"not an image")
    write(references / "c.nii.gz", block(0, 4))
    write(predictions / "c.nii.gz", block(0, 4), spacing=(3.0, 0.9, 0.7))

    evaluation, faults = evaluate_predictions(predictions, references, labels=LABELS)

    assert [case.case for case in evaluation.cases] == ["b"]
    assert [(fault.severity, fault.case) for fault in faults] == [("error", "a"), ("error", "c")]
    assert [fault.file for fault in faults] == [str(predictions / f"{case}.nii.gz") for case in "ac"]
    assert "does not lie on the grid of its reference" in faults[1].what


def test_an_unreadable_reference_is_named_as_the_file_at_fault(folders):
    predictions, references = folders
    (references / "a.nii.gz").write_bytes(b"not an image")
    _, (fault,) = evaluate_predictions(predictions, references)
    assert fault.file == str(references / "a.nii.gz")
    assert not fault.what.startswith(fault.file)


def test_not_one_comparable_case_is_an_error_that_lists_them(folders):
    predictions, references = folders
    for name in ("a.nii.gz", "b.nrrd"):
        (predictions / name).write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"(?s)no case could be compared.*a\.nii\.gz.*b\.nrrd"):
        evaluate_predictions(predictions, references, labels=LABELS)


def test_unreadable_references_are_no_lack_of_foreground(folders):
    predictions, references = folders
    for path in references.iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"(?s)no case could be compared.*a\.nii\.gz"):
        evaluate_predictions(predictions, references)


def test_references_without_foreground_are_told(folders):
    predictions, references = folders
    for case in "ab":
        write(references / f"{case}.nii.gz", block(0, 0))
    with pytest.raises(UsageError, match="references: the references have only background"):
        evaluate_predictions(predictions, references)


@pytest.mark.parametrize("workers", [1, 2])
def test_images_given_as_references_are_told(folders, workers):
    predictions, references = folders
    values = np.random.default_rng(0).normal(size=(11, 7, 5)).astype(np.float32)
    for case in "bcdefgh":
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), references / f"{case}.nii.gz")
    with pytest.raises(UsageError, match=r"/[b-h]\.nii\.gz: has more than 256 different values, so it is an image"):
        evaluate_predictions(predictions, references, workers=workers)


def die_of_b(labels, reading, tolerance_mm, files):
    if files[0] == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return _score_files(labels, reading, tolerance_mm, files)


def test_a_case_that_ends_its_worker_is_named_and_the_others_are_scored(folders, monkeypatch):
    monkeypatch.setattr("autoseg.stages.evaluate._score_files", die_of_b)
    evaluation, faults = evaluate_predictions(*folders, labels=LABELS, workers=2)
    assert [case.case for case in evaluation.cases] == ["a"]
    (fault,) = [fault for fault in faults if fault.severity == "error"]
    assert fault.case == "b"
    assert fault.what.startswith("the worker process was ended by SIGKILL, as systems do when memory runs out, and a")


def test_no_common_case_is_an_error_that_shows_both_sides(folders):
    predictions, references = folders
    for path in list(predictions.iterdir()):
        path.rename(path.with_name(f"case_{path.name}"))
    with pytest.raises(UsageError, match=r"no case is in both folders: .*has case_a, case_b, .*has a, b"):
        evaluate_predictions(predictions, references, labels=LABELS)


def test_values_that_no_label_declares_are_warned_about(tmp_path):
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
        picture = np.zeros((6, 9), dtype=np.uint8)
        picture[1:3, 2:7] = 255
        Image.fromarray(picture).save(tmp_path / folder / "1.png")

    evaluation, faults = evaluate_predictions(
        tmp_path / "predictions", tmp_path / "references", labels={"background": 0, "membrane": 1}
    )

    assert evaluation.labels["membrane"].dice is None
    assert [fault.severity for fault in faults] == ["warning", "warning"]
    assert "has the values 0, 255" in faults[0].what
    assert evaluate_predictions(tmp_path / "predictions", tmp_path / "references")[0].labels["label_255"].dice == 1.0


def test_float_label_maps_are_compared_by_value(folders):
    predictions, references = folders
    stored = nibabel.load(references / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(stored.get_fdata(dtype=np.float32), stored.affine), references / "a.nii.gz")
    assert evaluate_predictions(predictions, references)[0].labels["label_1"].dice == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("side", [0, 1])
def test_label_maps_that_were_stored_with_a_scale_are_compared_as_whole_numbers(folders, side):
    exact, _ = evaluate_predictions(*folders)
    for path in [path for path in folders[side].iterdir() if path.name.endswith(".nii.gz")]:
        stored = nibabel.load(path)
        scaled = nibabel.Nifti1Image(stored.get_fdata(), stored.affine)
        scaled.header.set_data_dtype(np.uint16)
        nibabel.save(scaled, path)
    found, faults = evaluate_predictions(*folders)
    assert found == exact
    assert all(fault.severity == "warning" for fault in faults)


@pytest.mark.parametrize("side", [0, 1])
def test_rounded_values_are_said_once_for_each_folder(folders, side):
    exact, _ = evaluate_predictions(*folders, labels=LABELS)
    for path in folders[side].iterdir():
        image = SimpleITK.ReadImage(str(path))
        SimpleITK.WriteImage(SimpleITK.Cast(image, SimpleITK.sitkFloat32) * 0.9999, str(path))
    found, faults = evaluate_predictions(*folders, labels=LABELS)
    assert found == exact
    (fault,) = faults
    assert (fault.severity, fault.file) == ("warning", str(folders[side]))
    assert "whole numbers but for rounding" in fault.what
    assert "(2 of 2 cases, the first is a)" in fault.what


@pytest.mark.parametrize("side", [0, 1])
def test_fractions_are_refused_with_their_values_instead_of_scored_as_0(folders, side):
    image = SimpleITK.ReadImage(str(folders[side] / "a.nii.gz"))
    SimpleITK.WriteImage(SimpleITK.Cast(image, SimpleITK.sitkFloat32) * 0.8, str(folders[side] / "a.nii.gz"))
    evaluation, (fault,) = evaluate_predictions(*folders, labels=LABELS)
    assert [case.case for case in evaluation.cases] == ["b"]
    assert (fault.severity, fault.case, fault.file) == ("error", "a", str(folders[side] / "a.nii.gz"))
    assert "label values must be whole numbers from 0 to 65535, found 0.8 in" in fault.what


@pytest.mark.parametrize("side", [0, 1])
def test_labels_with_other_numbers_are_not_scored_as_misses(folders, side):
    write(folders[side] / "a.nii.gz", block(1, 4, 255))
    evaluation, (fault,) = evaluate_predictions(*folders, labels=LABELS)
    assert [case.case for case in evaluation.cases] == ["b"]
    assert (fault.severity, fault.case, fault.file) == ("error", "a", str(folders[side] / "a.nii.gz"))
    assert "has the values 0, 255, but the labels are" in fault.what
    assert "not compared" in fault.what


def save_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def test_soft_references_are_refused_until_a_threshold_is_given(tmp_path):
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 12:40] = 255
    soft = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(2)))
    folders = tmp_path / "predictions", tmp_path / "references"
    save_mask(folders[0] / "a.png", (mask > 0).astype(np.uint8))
    save_mask(folders[1] / "a.png", soft)
    with pytest.raises(UsageError, match=r"a\.png: .* soft or noisy mask .*--label-threshold 128"):
        evaluate_predictions(*folders)
    evaluation, _ = evaluate_predictions(*folders, reading=LabelReading(threshold=128))
    expected, predicted = soft >= 128, mask > 0
    assert evaluation.labels["label_1"].dice == pytest.approx(
        2 * (expected & predicted).sum() / (expected.sum() + predicted.sum())
    )


def test_references_in_two_scales_are_one_label(tmp_path):
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 12:40] = 1
    for case, factor in (("a", 1), ("b", 255)):
        save_mask(tmp_path / "references" / f"{case}.png", factor * mask)
        save_mask(tmp_path / "predictions" / f"{case}.png", mask)
    evaluation, faults = evaluate_predictions(tmp_path / "predictions", tmp_path / "references")
    assert {case.labels["label_1"].dice for case in evaluation.cases} == {1.0}
    assert [fault.what[:30] for fault in faults] == ["some masks are 0 and 1, others"]


def test_colour_references_are_compared_by_the_declared_colours(tmp_path):
    mask = np.zeros((40, 50), np.uint8)
    mask[10:30, 12:40] = 1
    save_mask(tmp_path / "predictions" / "a.png", mask)
    save_mask(tmp_path / "references" / "a.png", np.stack([255 * mask, 0 * mask, 0 * mask], axis=-1))
    folders = tmp_path / "predictions", tmp_path / "references"
    with pytest.raises(UsageError, match="--label-colors '255,0,0=label_1'"):
        evaluate_predictions(*folders)
    reading, labels = resolve_colors(parse_label_colors("red=tumour"), None)
    evaluation, faults = evaluate_predictions(*folders, labels=labels, reading=reading)
    assert evaluation.labels["tumour"].dice == 1.0
    assert faults == ()


def test_processes_give_the_same_result(folders):
    assert evaluate_predictions(*folders, labels=LABELS, workers=2) == evaluate_predictions(*folders, labels=LABELS)


def test_two_files_of_one_case_are_refused(folders):
    predictions, _ = folders
    write(predictions / "a.nrrd", block(0, 4))
    with pytest.raises(UsageError, match=r"a\.nii\.gz and a\.nrrd are the same case"):
        find_label_maps(predictions)


def test_other_files_and_unfinished_ones_are_left_alone(folders):
    predictions, _ = folders
    (predictions / "evaluation.json").write_text("{}")
    (predictions / ".1234.c.nii.gz").write_bytes(b"half")
    assert list(find_label_maps(predictions)) == ["a", "b"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere: not a folder"):
        find_label_maps(tmp_path / "nowhere")


def test_a_pair_on_two_grids_names_both_files(folders):
    predictions, references = folders
    write(predictions / "a.nii.gz", np.zeros((5, 11, 7)))
    with pytest.raises(ImageFileError, match=r"predictions/a\.nii\.gz: case a .*references/a\.nii\.gz: "):
        read_on_one_grid("a", predictions / "a.nii.gz", references / "a.nii.gz")


def test_real_references_agree_with_themselves(shared, tmp_path):
    references = shared / "data" / "msd" / "Task04_Hippocampus" / "labelsTr"
    few = sorted(references.glob("hippocampus_00*.nii.gz"))
    for path in few:
        (tmp_path / path.name).symlink_to(path)
    evaluation, faults = evaluate_predictions(tmp_path, references, labels={"Anterior": 1, "Posterior": 2})
    assert faults == ()
    assert len(few) > 2
    assert len(evaluation.cases) == len(few)
    assert evaluation.mean_foreground_dice == 1.0
    assert len(evaluation.missing_predictions) == 200 - len(few)


def write_masks(folder, **masks):
    for name, mask in masks.items():
        (folder / "segmentations").mkdir(parents=True, exist_ok=True)
        nibabel.save(
            nibabel.Nifti1Image(mask.astype(np.uint8).T, np.diag([2.0, 1, 3, 1])),
            folder / "segmentations" / f"{name}.nii.gz",
        )


def test_references_are_masks_of_labels_that_may_overlap(tmp_path):
    """Each label is scored against its own mask; liver and vein overlap where the model knows no value for both."""
    masks = np.random.default_rng(0).random((3, 4, 6, 5)) > 0.6
    liver, vein, tumour = masks
    tumour &= liver & ~vein
    prediction = np.random.default_rng(1).choice([0, 1, 2, 3, 4], (4, 6, 5)).astype(np.uint8)
    for case in ("a", "b"):
        image = np.random.default_rng(2).random((4, 6, 5)).astype(np.float32)
        write_masks(tmp_path / "data" / case, liver=liver, vein=vein, tumour=tumour)
        nibabel.save(nibabel.Nifti1Image(image.T, np.diag([2.0, 1, 3, 1])), tmp_path / "data" / case / "ct.nii.gz")
        (tmp_path / "out").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(prediction.T, np.diag([2.0, 1, 3, 1])), tmp_path / "out" / f"{case}.nii.gz")
    labels: dict[str, LabelValues] = {"background": 0, "liver": (1, 4), "tumour": (3, 4), "vein": 2}
    evaluation, faults = evaluate_predictions(tmp_path / "out", tmp_path / "data", labels=labels)
    assert [case.case for case in evaluation.cases] == ["a", "b"]
    for name, mask in {"liver": liver, "tumour": tumour, "vein": vein}.items():
        found = np.isin(prediction, [labels[name]])
        dice = 2 * (found & mask).sum() / (found.sum() + mask.sum())
        assert evaluation.cases[0].labels[name].dice == pytest.approx(dice), name
    assert [fault for fault in faults if fault.severity == "error"] == []
    with pytest.raises(UsageError, match=r"labels are in masks and segments by name; give the model with its labels"):
        evaluate_predictions(tmp_path / "out", tmp_path / "data")


def test_segments_of_slicer_are_references_by_name(tmp_path):
    """The segmentation numbers the labels otherwise than the model, and is cut to its second half."""
    prediction = np.zeros((4, 6, 5), np.uint8)
    prediction[2:, 1:4], prediction[2:, 4:] = 1, 2
    for folder in ("out", "references"):
        (tmp_path / folder).mkdir()
    image = SimpleITK.GetImageFromArray(prediction)
    SimpleITK.WriteImage(image, str(tmp_path / "out" / "a.nrrd"))
    cut = SimpleITK.GetImageFromArray(np.array([0, 2, 1], np.uint8)[prediction[2:]])
    cut.SetOrigin((0, 0, 2))
    for number, (name, value) in enumerate((("spleen", 1), ("liver", 2))):
        cut.SetMetaData(f"Segment{number}_Name", name)
        cut.SetMetaData(f"Segment{number}_LabelValue", str(value))
        cut.SetMetaData(f"Segment{number}_Layer", "0")
    SimpleITK.WriteImage(cut, str(tmp_path / "references" / "a.seg.nrrd"))
    evaluation, faults = evaluate_predictions(
        tmp_path / "out", tmp_path / "references", labels={"background": 0, "liver": 1, "spleen": 2}
    )
    assert faults == ()
    assert {name: scores.dice for name, scores in evaluation.cases[0].labels.items()} == {"liver": 1.0, "spleen": 1.0}


def test_references_of_a_partly_labelled_dataset(tmp_path):
    for case, values in (("a", block(0, 4)), ("b", block(1, 3, 7))):
        write(tmp_path / "data" / "imagesTr" / f"{case}_0000.nii.gz", block(0, 5))
        write(tmp_path / "data" / "labelsTr" / f"{case}.nii.gz", values)
        write(tmp_path / "predictions" / f"{case}.nii.gz", values)
    write(tmp_path / "predictions" / "b.nii.gz", block(1, 3, 7) + block(3, 5))
    about = {
        "labels": LABELS, "channel_names": {"0": "CT"}, "numTraining": 2, "file_ending": ".nii.gz",
        "annotated": {"b": ["Lesion"]},
    }  # fmt: skip
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(about))
    evaluation, faults = evaluate_predictions(tmp_path / "predictions", tmp_path / "data", labels=LABELS)
    assert faults == ()
    assert evaluation.labels["liver"].dice == 1.0
    assert evaluation.labels["liver"].num_cases == 1
    assert evaluation.counts["liver"].false_alarm == 0
    own_labels, _ = evaluate_predictions(tmp_path / "predictions", tmp_path / "data")
    assert own_labels.labels == evaluation.labels, "the dataset declares the labels that it names"
    about["annotated"] = {"b": ["tumour"]}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(DatasetError, match="names 'tumour', which is no label of this dataset"):
        evaluate_predictions(tmp_path / "predictions", tmp_path / "data", labels=LABELS)
