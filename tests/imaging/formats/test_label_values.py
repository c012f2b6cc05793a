"""Masks of one structure with grey levels, fractions or several scales, by one threshold."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.label_values import check_whole_numbers
from autoseg.imaging.formats.reading import read_label_map
from autoseg.records.dataset import LabelReading


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        (np.array([[0, 127, 128, 255]], np.uint8), 128, [0, 0, 7, 7]),
        (np.array([[0, 1, 1, 0]], np.uint8), 128, [0, 7, 7, 0]),  # a label map already
        (np.array([[0, 7, 0, 7]], np.uint8), 128, [0, 7, 0, 7]),  # in the label's own value
        (np.array([[0, 0, 0, 0]], np.uint8), 128, [0, 0, 0, 0]),
        (np.array([[0, 1, 255, 0]], np.uint8), 128, [0, 0, 7, 0]),  # noise beside a full scale
        (np.array([[0, 300, 32768, 65535]], np.uint16), 32768, [0, 0, 7, 7]),
        (np.array([[0, 0.49, 0.5, 1]], np.float32), 0.5, [0, 0, 7, 7]),
        (np.array([[False, True, False, True]]), 128, [0, 7, 0, 7]),
    ],
)
def test_values_from_the_threshold_on_are_the_label(tmp_path, values, threshold: float, expected):
    Image.fromarray(values).save(tmp_path / "m.tif")
    found = read_label_map(tmp_path / "m.tif", LabelReading(threshold=threshold, threshold_value=7)).array
    assert found.dtype.kind in "ui"
    np.testing.assert_array_equal(found[0, 0, 0], expected)


def test_volumes_are_thresholded_too(tmp_path):
    soft = np.random.default_rng(1).uniform(0, 1, (5, 7, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(soft, np.diag([1.5, 2.0, 3.0, 1.0])), tmp_path / "m.nii.gz")
    found = read_label_map(tmp_path / "m.nii.gz", LabelReading(threshold=0.25)).array
    np.testing.assert_array_equal(found[0], (soft >= 0.25).T)


def test_fractions_are_refused_with_the_threshold_that_reads_them(tmp_path):
    Image.fromarray(np.array([[0, 0.3, 0.8]], np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(ImageFileError, match=r"whole numbers .*--label-threshold 0\.4"):
        check_whole_numbers(read_label_map(tmp_path / "m.tif").array, tmp_path / "m.tif")
