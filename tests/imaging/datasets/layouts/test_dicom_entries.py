import shutil

import numpy as np
import pytest

from autoseg.imaging.datasets.layouts.dicom_entries import (
    dicom_entries,
    is_series_folder,
    share_a_study,
    split_entry,
)
from tests.dicom_builders import Series


@pytest.fixture
def folder(tmp_path):
    """Every kind of entry, and what is none."""
    folder = tmp_path / "images"
    Series().write(folder / "case.1")
    shutil.make_archive(str(folder / "case2"), "zip", folder / "case.1")
    Series().write_enhanced(folder / "case3.dcm")
    Series().write(folder / "case4" / "series")
    Series().write(folder / ".hidden")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("text")
    shutil.make_archive(str(folder / "texts"), "zip", folder / "empty")
    return folder


def test_images_in_a_folder(folder):
    assert dicom_entries(folder) == ["case.1", "case2.zip", "case3.dcm"]
    assert split_entry(folder, "case.1") == ("case.1", "")
    assert split_entry(folder, "case2.zip") == ("case2", ".zip")


def test_slices_are_no_images_of_their_own(folder):
    assert dicom_entries(folder / "case.1") == []
    assert is_series_folder(folder / "case.1")
    assert not is_series_folder(folder)
    assert not is_series_folder(folder / "empty")


def test_folder_with_images_of_another_format_is_no_series(folder):
    (folder / "case.1" / "image.nii.gz").touch()
    assert not is_series_folder(folder / "case.1")


def test_studies(tmp_path):
    first = Series().write(tmp_path / "a")
    second = Series(series_uid="1.2.3").write(tmp_path / "b")
    other = Series(study_uid="1.2.9").write(tmp_path / "c")
    assert share_a_study([first, second])
    assert not share_a_study([first, other])


def test_numbers_do_not_matter(tmp_path):
    stored = np.zeros((3, 4, 5), np.uint16)
    assert is_series_folder(Series(stored=stored).write(tmp_path / "a"))
