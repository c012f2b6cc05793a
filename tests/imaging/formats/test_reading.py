import re

import nibabel
import numpy as np
import pytest

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.label_values import check_whole_numbers
from autoseg.imaging.formats.reading import (
    IMAGE_ENDINGS,
    describe_notes,
    read_image,
    read_label_map,
    split_ending,
    volume_from_array,
    volume_from_nibabel,
)
from autoseg.imaging.formats.volume import canonical_orientation, grid_difference
from autoseg.records.case import Orientation
from tests.imaging.formats.small_images import AFFINE, INTENSITIES, RNG, SHAPE_XYZ, save_nifti


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.nii.gz", ("a", ".nii.gz")),
        ("A.NII.GZ", ("A", ".nii.gz")),
        ("case.1.2_0000.nrrd", ("case.1.2_0000", ".nrrd")),
        ("Größe é 海馬 01.png", ("Größe é 海馬 01", ".png")),
        ("x.mnc", ("x", ".mnc")),
        ("noending", ("noending", "")),
    ],
)
def test_split_ending(name: str, parts: tuple[str, str]):
    assert split_ending(name) == parts


def test_missing_file_is_named(tmp_path):
    for ending in IMAGE_ENDINGS:
        path = tmp_path / f"gone{ending}"
        with pytest.raises(ImageFileError, match=rf"gone{ending}: there is no such file$"):
            read_image([path])


def test_a_link_to_nothing_and_a_header_without_its_voxels_are_named(tmp_path):
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    with pytest.raises(ImageFileError, match="is a link to a file that does not exist"):
        read_image([tmp_path / "link.nii.gz"])
    nibabel.save(nibabel.Nifti1Pair(np.zeros((3, 4, 5), np.uint8), np.eye(4)), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    with pytest.raises(ImageFileError, match=r"pair.hdr: .*the file with its voxels, pair.img, does not exist"):
        read_image([tmp_path / "pair.hdr"])


def test_one_file_per_channel(tmp_path):
    first = save_nifti(tmp_path / "c_0000.nii.gz", INTENSITIES)
    second = save_nifti(tmp_path / "c_0001.nii.gz", INTENSITIES + 1)
    volume = read_image([first, second])
    np.testing.assert_array_equal(volume.array[1], volume.array[0] + 1)
    shifted = save_nifti(tmp_path / "s_0001.nii.gz", INTENSITIES, AFFINE + shift(4))
    with pytest.raises(ImageFileError, match=r"s_0001\.nii\.gz: not on the same grid as .*c_0000\.nii\.gz.*4 mm apart"):
        read_image([first, shifted])


def shift(distance_mm: float) -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[1, 3] = distance_mm
    return matrix


@pytest.mark.parametrize(
    ("dtype", "expected_kind"), [(np.uint8, "u"), (np.int16, "i"), (">i2", "i"), (np.float32, "i"), (np.float64, "i")]
)
def test_whole_label_values_become_integers(tmp_path, dtype, expected_kind: str):
    labels = RNG.integers(0, 4, SHAPE_XYZ)
    path = save_nifti(tmp_path / "x.nii.gz", labels.astype(dtype))
    array = read_label_map(path).array
    assert array.dtype.kind == expected_kind
    assert array.dtype.isnative
    np.testing.assert_array_equal(array[0], labels.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("wrong", "shown"), [(0.5, "0.5"), (1.002, "1.002"), (np.nan, "nan"), (np.inf, "inf"), (1e20, "1e+20")]
)
def test_other_label_values_stay_as_they_are_and_are_no_labels(tmp_path, wrong: float, shown: str):
    labels = np.zeros(SHAPE_XYZ, np.float32)
    labels[3, 2, 1] = wrong
    volume = read_label_map(save_nifti(tmp_path / "x.nii.gz", labels))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0, 1, 2, 3], np.float32(wrong))
    with pytest.raises(ImageFileError, match=rf"x\.nii\.gz: .*whole numbers.*found {re.escape(shown)} in 1 of 385 "):
        check_whole_numbers(volume.array, volume.path)


@pytest.mark.parametrize("stored", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.0, 9e-4])
def test_whole_numbers_but_for_rounding_are_read_as_such_with_a_note(tmp_path, stored, noise: float):
    labels = RNG.integers(0, 4, SHAPE_XYZ)
    labels[0, 0, :2] = 0, 3
    image = nibabel.Nifti1Image(labels + noise * RNG.uniform(-1, 1, SHAPE_XYZ), AFFINE)
    image.header.set_data_dtype(stored)  # nibabel chooses a scale factor for types of whole numbers
    nibabel.save(image, tmp_path / "x.nii.gz")
    found = nibabel.load(tmp_path / "x.nii.gz").get_fdata()
    if np.abs(found - labels).max() > 1e-3:
        pytest.skip("eight bits with a scale factor do not hold the noise")
    volume = read_label_map(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(volume.array[0], labels.transpose(2, 1, 0))
    assert volume.array.dtype == np.int32
    is_rounded = not np.array_equal(found, labels)
    assert [note for note in volume.notes if "whole numbers but for rounding" in note] == list(volume.notes)
    assert len(volume.notes) == is_rounded


def test_large_values_in_float32_are_rounded(tmp_path):
    labels = np.full(SHAPE_XYZ, 40000.0, np.float32)
    labels[1] = np.nextafter(np.float32(40000), np.float32(1e9))  # 40000.004
    array = read_label_map(save_nifti(tmp_path / "x.nii.gz", labels)).array
    np.testing.assert_array_equal(array, 40000)


def test_notes_are_counted_by_case():
    notes = {"a": (), "b": ("one", "two"), "c": ("two",)}
    assert describe_notes(notes) == ["one (1 of 3 cases, the first is b)", "two (2 of 3 cases, the first is b)"]


def test_label_map_has_one_channel(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", np.zeros((*SHAPE_XYZ, 2), np.uint8))
    with pytest.raises(ImageFileError, match="one value per voxel, found 2 channels"):
        read_label_map(path)


def test_volumes_from_memory_have_the_grid_of_the_file(tmp_path):
    path = save_nifti(tmp_path / "x.nii.gz", INTENSITIES)
    from_file = read_image([path])
    from_image = volume_from_nibabel(nibabel.Nifti1Image(INTENSITIES, AFFINE))
    assert grid_difference(from_file.grid, from_image.grid) is None
    np.testing.assert_array_equal(from_image.array, from_file.array)
    from_array = volume_from_array(from_file.array[0], from_file.grid.spacing, from_file.grid.affine)
    assert from_array.grid == from_file.grid
    assert from_array.array.shape == (1, 5, 7, 11)


def test_array_without_affine_is_canonical():
    volume = volume_from_array(np.zeros((2, 5, 7, 11)), (4.0, 0.5, 1.25))
    assert volume.array.dtype == np.float32
    assert canonical_orientation(volume.grid) == Orientation()
    with pytest.raises(ValueError, match=r"expected an array \(C, Z, Y, X\)"):
        volume_from_array(np.zeros((7, 11)), (4.0, 0.5, 1.25))
    with pytest.raises(ValueError, match="columns are not"):
        volume_from_array(np.zeros((5, 7, 11)), (4.0, 0.5, 1.25), np.eye(4))


def test_in_memory_affine_wins_over_a_stale_header():
    image = nibabel.Nifti1Image(INTENSITIES, AFFINE)
    moved = nibabel.Nifti1Image(INTENSITIES, AFFINE + shift(4), image.header)
    assert np.array(volume_from_nibabel(moved).grid.affine)[1, 3] == 11
