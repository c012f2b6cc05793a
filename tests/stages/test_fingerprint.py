"""Fingerprint: counts worked out by hand, intensities against nnU-Net's own on real data."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.contrast import CONTRAST_LEVELS
from autoseg.records.dataset import CaseFiles
from autoseg.records.fingerprint import data_hash
from autoseg.records.plan import Split
from autoseg.stages.fingerprint import extract_fingerprint
from tests.builders import make_dataset, make_plan

LABELS = {"background": 0, "near": 1, "far": 5, "ignore": 9}


def write_case(folder, case, image, labels, spacing=(1.0, 2.0, 4.0)):
    """Spacing is (x, y, z), as SimpleITK has it."""
    for name, array in (("images", image), ("labels", labels)):
        (folder / name).mkdir(exist_ok=True)
        file = SimpleITK.GetImageFromArray(array)
        file.SetSpacing(spacing)
        SimpleITK.WriteImage(file, folder / name / f"{case}.nii.gz")


def description_of(folder, names, labels=LABELS, regions_class_order=None):
    plan = make_plan(labels=labels, encoding=make_encoding(labels, regions_class_order), orientation="as_stored")
    return make_dataset(names, plan, name="made up", folder=str(folder))


def blocks():
    """(Z, Y, X) = (5, 7, 11); content in [1:4, 1:6, 2:10]; near in two parts that touch at a corner, far in two."""
    image = np.zeros((5, 7, 11), dtype=np.float32)
    image[1:4, 1:6, 2:10] = np.arange(1, 121).reshape(3, 5, 8)
    labels = np.zeros((5, 7, 11), dtype=np.uint8)
    labels[1, 1, 2:4] = 1
    labels[2, 2, 4] = 1
    labels[3, 1, 2] = 5
    labels[3, 5, 9] = 5
    labels[3, 4, 3:9] = 9
    return image, labels


def test_one_case_by_hand(tmp_path):
    write_case(tmp_path, "a", *blocks())
    fingerprint = extract_fingerprint(description_of(tmp_path, ["a"]), tmp_path)
    (case,) = fingerprint.cases
    assert case.shape == (5, 7, 11)
    assert case.cropped_shape == (3, 5, 8)
    assert case.spacing == pytest.approx((4.0, 2.0, 1.0))
    assert case.channel_ranges == ((0.0, 120.0),)
    assert len(case.content_hash) == 32
    assert {name: (facts.voxels, facts.volume_mm3, facts.components) for name, facts in case.labels.items()} == {
        "near": (3, 24.0, 1),
        "far": (2, 16.0, 2),
    }
    assert fingerprint.median_cropped_fraction == pytest.approx(120 / 385)
    # Foreground values: near 1, 2 and 51; far 81 and 120. The ignore label's values do not count.
    (intensities,) = fingerprint.intensities
    foreground = np.array([1, 2, 51, 81, 120])
    assert intensities.mean == pytest.approx(foreground.mean())
    assert intensities.std == pytest.approx(foreground.std())
    assert (intensities.minimum, intensities.maximum) == (1.0, 120.0)
    assert intensities.median == pytest.approx(51.0)


def test_volumes_of_a_tilted_gantry_are_those_of_its_determinant(tmp_path):
    affine = np.diag([1.0, 2.0, 4.0, 1.0])
    affine[1, 2] = 4 * np.tan(np.deg2rad(25))
    write_case(tmp_path, "a", *blocks())
    for path in tmp_path.rglob("a*.nii.gz"):
        voxels = np.asanyarray(nibabel.load(path).dataobj)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    (case,) = extract_fingerprint(description_of(tmp_path, ["a"]), tmp_path).cases
    assert case.labels["near"].volume_mm3 == pytest.approx(3 * 8.0, rel=1e-6)


def test_regions_are_measured_as_unions(tmp_path):
    labels = {"background": 0, "whole": (1, 5), "core": 5}
    image, values = blocks()
    values[values == 9] = 0
    write_case(tmp_path, "a", image, values)
    fingerprint = extract_fingerprint(description_of(tmp_path, ["a"], labels, (1, 5)), tmp_path)
    facts = fingerprint.cases[0].labels
    assert {name: (fact.voxels, fact.components) for name, fact in facts.items()} == {"whole": (5, 3), "core": (2, 2)}


def test_cases_count_equally_and_empty_ones_not_at_all(tmp_path):
    for name, value, side in (("a", 10.0, 1), ("b", 30.0, 5)):
        image = np.full((5, 7, 11), value, dtype=np.float32)
        labels = np.zeros((5, 7, 11), dtype=np.uint8)
        labels[:side, :side, :side] = 1
        write_case(tmp_path, name, image, labels)
    write_case(tmp_path, "c", np.full((5, 7, 11), 999.0, dtype=np.float32), np.zeros((5, 7, 11), dtype=np.uint8))
    fingerprint = extract_fingerprint(description_of(tmp_path, ["a", "b", "c"]), tmp_path)
    assert fingerprint.intensities[0].mean == pytest.approx(20.0)
    assert fingerprint.intensities[0].std == pytest.approx(10.0)
    assert fingerprint.intensities[0].maximum == 30.0
    assert fingerprint.cases[2].labels["near"].voxels == 0
    assert fingerprint.cases[2].labels["near"].components == 0


def test_order_of_cases_and_number_of_workers_do_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    names = ["d", "a", "c", "b"]
    for name in names:
        labels = rng.choice(np.array([0, 1, 5, 9], dtype=np.uint8), size=(15, 17, 21))
        write_case(tmp_path, name, rng.normal(rng.normal(), 3, size=labels.shape).astype(np.float32), labels)
    seen = []
    fingerprint = extract_fingerprint(
        description_of(tmp_path, names), tmp_path, progress=lambda *done: seen.append(done)
    )
    assert [case.case for case in fingerprint.cases] == ["a", "b", "c", "d"]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert extract_fingerprint(description_of(tmp_path, sorted(names)), tmp_path, workers=2) == fingerprint


def test_a_dataset_without_foreground_is_refused(tmp_path):
    image, labels = blocks()
    write_case(tmp_path, "a", image, np.where(labels == 9, labels, 0))
    with pytest.raises(DatasetError, match="none of the 1 label maps has a labelled voxel"):
        extract_fingerprint(description_of(tmp_path, ["a"]), tmp_path)


def test_no_cases_and_faulty_cases_are_reported(tmp_path):
    with pytest.raises(DatasetError, match="there are no training cases"):
        extract_fingerprint(description_of(tmp_path, []), tmp_path)
    for name in ("a", "b"):
        write_case(tmp_path, name, *blocks())
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"?")
    description = description_of(tmp_path, ["a", "b"])
    with pytest.raises(DatasetError, match=r"measuring failed for 1 of 2 case\(s\):\n  a: .*a\.nii\.gz"):
        extract_fingerprint(description, tmp_path)
    unlabelled = description.cases[1].model_copy(update={"label": ""})
    with pytest.raises(DatasetError, match="b: no label file"):
        extract_fingerprint(description.model_copy(update={"cases": (unlabelled,)}), tmp_path)
    with pytest.raises(DatasetError, match=r"b: 1 channel\(s\) found, 2 expected \(T1, T2\)"):
        extract_fingerprint(
            description.model_copy(update={"cases": description.cases[1:], "channel_names": ("T1", "T2")}), tmp_path
        )


@pytest.mark.parametrize(
    ("dataset", "plan", "image_pattern", "num_labels"),
    [
        ("nnunet_raw/Dataset027_ACDC", "Dataset027_ACDC__", "imagesTr/{}_0000.nii.gz", 3),
        ("plain/lung_protonMR", "lung_protonMR__", "images/{}.nii.gz", 5),
    ],
)
def test_equal_to_nnunet_on_real_data(shared, dataset, plan, image_pattern, num_labels):
    folder = shared / "data" / dataset
    labels_folder = "labelsTr" if (folder / "labelsTr").is_dir() else "labels"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (folder / labels_folder).glob("*.nii.gz"))
    labels = {"background": 0, **{str(value): value for value in range(1, num_labels + 1)}}
    description = description_of(folder, [], labels).model_copy(
        update={
            "cases": tuple(
                CaseFiles(case=name, images=(image_pattern.format(name),), label=f"{labels_folder}/{name}.nii.gz")
                for name in names
            )
        }
    )
    (ours,) = extract_fingerprint(description, folder).intensities
    plans = json.loads((shared / "peer_oracles" / "plans" / f"{plan}.json").read_text())
    theirs = plans["foreground_intensity_properties_per_channel"]["0"]
    # nnU-Net draws voxels at random, so its figures carry noise and its extremes may miss the true ones.
    tolerance = 0.01 * theirs["std"]
    assert ours.mean == pytest.approx(theirs["mean"], abs=tolerance)
    assert ours.std == pytest.approx(theirs["std"], abs=tolerance)
    assert ours.median == pytest.approx(theirs["median"], abs=tolerance)
    assert ours.percentile_00_5 == pytest.approx(theirs["percentile_00_5"], abs=2 * tolerance)
    assert ours.percentile_99_5 == pytest.approx(theirs["percentile_99_5"], abs=2 * tolerance)
    assert ours.minimum <= theirs["min"]
    assert ours.maximum >= theirs["max"]


def test_contrasts_are_those_of_whole_images(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.uniform(1, 9, (3, 6, 8, 10)).astype(np.float32) * np.array([1, 10, 100]).reshape(3, 1, 1, 1)
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[0, 0, 0] = 1
    for case, image in zip("abc", images, strict=True):
        write_case(tmp_path, case, image.astype(np.float32), labels)
    for workers in (1, 2):
        (contrast,) = extract_fingerprint(description_of(tmp_path, list("cab")), tmp_path, workers=workers).contrasts
        median = CONTRAST_LEVELS.index(0.5)
        assert contrast.quantiles[median] == pytest.approx(np.median(images, axis=(1, 2, 3)).mean())
        standard = (images - images.mean(axis=(1, 2, 3), keepdims=True)) / images.std(axis=(1, 2, 3), keepdims=True)
        assert contrast.standard_quantiles[median] == pytest.approx(
            np.median(standard, axis=(1, 2, 3)).mean(), abs=1e-5
        )
        assert contrast.num_cases == 3


def test_sizes_of_components(tmp_path):
    image, labels = np.ones((9, 40, 60), np.float32), np.zeros((9, 40, 60), np.uint8)
    for number in range(45):
        y, x = divmod(number, 15)
        labels[0:1, 12 * y : 12 * y + 1 + number // 15, 4 * x : 4 * x + 2] = 1
    labels[2:8, 1:11, 3:7] = labels[8, 11, 7] = 5
    write_case(tmp_path, "a", image, labels)
    facts = extract_fingerprint(description_of(tmp_path, ["a"]), tmp_path).cases[0].labels
    assert facts["far"].instance_sizes == ((7, 11, 5),)
    assert facts["near"].components == 45
    assert len(facts["near"].instance_sizes) == 20
    found = [facts["near"].instance_sizes.count((1, height, 2)) for height in (1, 2, 3)]
    assert max(found) - min(found) <= 1
    assert sum(found) == 20


def test_sizes_of_objects_with_numbers(tmp_path):
    image, labels = np.ones((4, 12, 20), np.float32), np.zeros((4, 12, 20), np.uint8)
    labels[1:3, 2:8, 3:18] = 1
    write_case(tmp_path, "a", image, labels)
    numbers = np.zeros(labels.shape, np.uint32)
    numbers[1:3, 2:8, :10], numbers[1:3, 2:8, 10:] = 70_000, 12  # they touch, and reach beyond the label
    write_case(tmp_path, "a_instances", image, numbers)
    description = description_of(tmp_path, ["a"])
    files = description.cases[0].model_copy(update={"instances": "labels/a_instances.nii.gz"})
    description = description.model_copy(update={"cases": (files,)})
    facts = extract_fingerprint(description, tmp_path).cases[0].labels["near"]
    assert facts.components == 1
    assert facts.instance_sizes == ((2, 6, 7), (2, 6, 8))


def test_a_label_that_was_looked_for_nowhere_is_refused(tmp_path):
    for case in "ab":
        write_case(tmp_path, case, *blocks())
    dataset = description_of(tmp_path, "ab")
    cases = tuple(files.model_copy(update={"annotated": ("far",)}) for files in dataset.cases)
    with pytest.raises(DatasetError, match="no case names near in `annotated`, and none leaves it empty"):
        extract_fingerprint(dataset.model_copy(update={"cases": cases}), tmp_path)
    extract_fingerprint(dataset.model_copy(update={"cases": (cases[0], dataset.cases[1])}), tmp_path)


def test_labels_that_were_not_looked_for_have_no_facts(tmp_path):
    for case in "abc":
        write_case(tmp_path, case, *blocks())
    dataset = description_of(tmp_path, "abc")
    whole = extract_fingerprint(dataset, tmp_path)
    cases = [files.model_copy(update={"annotated": ("far",) if files.case == "b" else None}) for files in dataset.cases]
    partial = extract_fingerprint(dataset.model_copy(update={"cases": tuple(cases)}), tmp_path)
    assert [sorted(case.labels) for case in partial.cases] == [["far", "near"], ["far"], ["far", "near"]]
    assert partial.cases[1].labels["far"] == whole.cases[1].labels["far"]
    split = Split(training=("a",), validation=("b",))
    assert data_hash(partial, split) != data_hash(whole, split)
    other = Split(training=("a",), validation=("c",))
    assert data_hash(partial, other) == data_hash(whole, other)
