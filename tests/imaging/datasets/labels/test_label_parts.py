"""Masks of one label each: what the dataset says about them, and the label map that is put together from them."""

import nibabel
import numpy as np
import pytest

from autoseg.errors import DatasetError, ImageFileError
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.reading import read_label_map
from autoseg.stages.describe import describe_dataset
from tests.imaging.datasets.small_datasets import AFFINE, SHAPE_XYZ, image, save, whats


def box(*slices):
    mask = np.zeros(SHAPE_XYZ, np.uint8)
    mask[slices] = 1
    return mask


LIVER, SPLEEN = box(slice(1, 6), slice(0, 5)), box(slice(7, 10), slice(2, 6), slice(1, 3))
TUMOUR, KIDNEY = box(slice(2, 4), slice(1, 3), slice(2, 5)), box(slice(5, 8), slice(3, 5))
APART = {"liver": LIVER, "spleen": 255 * SPLEEN}
SHARED = {"kidney": KIDNEY, "liver": LIVER, "spleen": SPLEEN, "tumour": TUMOUR}


def make_masks(folder, masks, cases=("a", "b", "c")):
    for seed, case in enumerate(cases):
        save(folder / case / "ct.nii.gz", image(seed))
        for name, mask in masks.items():
            save(folder / case / "segmentations" / f"{name}.nii.gz", mask)
    return folder


def values_of(entry):
    return entry if isinstance(entry, tuple) else (entry,)


@pytest.mark.parametrize("masks", [APART, SHARED])
def test_every_label_has_the_voxels_of_its_mask(tmp_path, masks):
    description = describe_dataset(make_masks(tmp_path, masks))
    assert list(description.labels) == ["background", *masks]
    for files in description.cases:
        found = read_reference(tmp_path, files, description.encoding).array[0].T
        for name, mask in masks.items():
            assert np.array_equal(np.isin(found, values_of(description.labels[name])), mask > 0), name


def test_labels_that_do_not_overlap_are_one_label_map(tmp_path):
    description = describe_dataset(make_masks(tmp_path, APART))
    assert description.labels == {"background": 0, "liver": 1, "spleen": 2}
    assert (description.encoding.activation, description.encoding.overlapping) == ("softmax", False)
    assert description.layout == "masks"


def test_labels_that_overlap_are_independent(tmp_path):
    description = describe_dataset(make_masks(tmp_path, SHARED))
    encoding = description.encoding
    assert (encoding.activation, encoding.overlapping) == ("sigmoid", True)
    assert [head.name for head in encoding.heads] == [*SHARED]
    assert description.labels["spleen"] == (3, 6)  # kidney and spleen have voxels in common too
    assert any("labels overlap" in note and "liver and tumour in 3 cases" in note for note in description.notes)


def test_a_missing_mask_is_empty_and_said(tmp_path):
    make_masks(tmp_path, APART)
    (tmp_path / "b" / "segmentations" / "spleen.nii.gz").unlink()
    description = describe_dataset(tmp_path)
    assert "masks that are missing count as empty: spleen in 1 of 3 cases" in description.notes
    found = read_reference(tmp_path, description.cases[1], description.encoding).array[0].T
    assert np.array_equal(found, LIVER)


def test_labels_are_chosen_and_numbered(tmp_path):
    make_masks(tmp_path, SHARED)
    description = describe_dataset(tmp_path, labels={"spleen": 7, "liver": 3})
    assert description.labels == {"background": 0, "spleen": 7, "liver": 3}
    found = read_reference(tmp_path, description.cases[0], description.encoding).array[0].T
    assert np.array_equal(found, 3 * LIVER + 7 * SPLEEN)
    assert any("not used" in note and "kidney, tumour" in note for note in description.notes)
    with pytest.raises(DatasetError, match="there is no mask of heart; there are masks of kidney, liver, spleen"):
        describe_dataset(tmp_path, labels={"heart": 1, "liver": 2})


def test_a_label_map_among_masks_is_refused(tmp_path):
    make_masks(tmp_path, APART)
    save(tmp_path / "b" / "segmentations" / "liver.nii.gz", LIVER + 2 * SPLEEN)
    with pytest.raises(
        DatasetError, match=r"error +b +b/segmentations/liver.nii.gz +taken as the mask of the label 'l"
    ):
        describe_dataset(tmp_path)
    assert len(describe_dataset(tmp_path, skip_faulty=True).cases) == 2


def test_a_mask_on_another_grid_is_refused(tmp_path):
    make_masks(tmp_path, APART)
    save(tmp_path / "c" / "segmentations" / "liver.nii.gz", LIVER, AFFINE @ np.diag([1, 1, 2, 1]))
    with pytest.raises(DatasetError, match=r"c/segmentations/liver.nii.gz +not on the same grid as c/ct.nii.gz"):
        describe_dataset(tmp_path)


def test_an_ignore_mask_wins_over_labels(tmp_path):
    description = describe_dataset(make_masks(tmp_path, {"ignore": TUMOUR, **APART}))
    assert description.labels == {"background": 0, "liver": 2, "spleen": 3, "ignore": 1}
    assert description.encoding.activation == "softmax"
    found = read_reference(tmp_path, description.cases[0], description.encoding).array[0].T
    assert np.array_equal(found, np.where(TUMOUR, 1, 2 * LIVER + 3 * SPLEEN))


def test_masks_that_overlap_since_planning_are_refused(tmp_path):
    description = describe_dataset(make_masks(tmp_path, APART))
    save(tmp_path / "a" / "segmentations" / "spleen.nii.gz", LIVER)
    with pytest.raises(ImageFileError, match="the labels liver and spleen have voxels in common, which they had not"):
        read_reference(tmp_path, description.cases[0], description.encoding)


def test_masks_of_objects_are_united(tmp_path):
    for seed, case in enumerate("abc"):
        save(tmp_path / case / "images" / f"{case}.nii.gz", image(seed))
        save(tmp_path / case / "masks" / f"x{seed}.nii.gz", LIVER)
        save(tmp_path / case / "masks" / f"y{seed}.nii.gz", TUMOUR | SPLEEN)
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "object": 1}
    found = read_reference(tmp_path, description.cases[0], description.encoding).array[0].T
    assert np.array_equal(found, LIVER | SPLEEN)


def test_a_label_empty_everywhere_is_named(tmp_path):
    description = describe_dataset(make_masks(tmp_path, {**APART, "heart": 0 * LIVER}))
    assert "the label 'heart' (1) occurs in no case" in whats(description)


def test_a_case_without_parts_is_read_as_it_is(tmp_path):
    description = describe_dataset(make_masks(tmp_path, APART))
    label = description.cases[0].model_copy(update={"parts": None})
    plain = read_reference(tmp_path, label, description.encoding)
    assert np.array_equal(plain.array, read_label_map(tmp_path / label.label).array)
    assert np.array_equal(plain.array[0].T, nibabel.load(tmp_path / label.label).get_fdata())
