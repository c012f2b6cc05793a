"""Sample cases: which ones, from which files, which slice."""

import nibabel
import numpy as np

from autoseg.imaging.arrays.storage import save_case
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.report.page import samples
from autoseg.report.page.samples import choose_samples, read_samples
from tests.builders import make_record
from tests.report.conftest import make_image, make_reference


def read(workspace, flagged=()):
    description = read_record(DatasetDescription, workspace.dataset)
    fingerprint, plan = read_record(Fingerprint, workspace.fingerprint), read_record(Plan, workspace.plan)
    return read_samples(workspace, description, fingerprint, plan, flagged)


def test_unusual_cases_are_among_the_samples_and_others_are_spread():
    cases = [f"{number:03d}" for number in range(100)]
    chosen = choose_samples(cases, ["050", "051", "052", "053", "054"])
    assert len(chosen) == 12
    assert chosen == sorted(chosen)
    assert {"000", "050", "051", "052", "053", "099"} <= set(chosen)
    assert "054" not in chosen


def test_few_cases_are_all_shown():
    assert choose_samples(["b", "a", "c"], ["c"]) == ["b", "a", "c"]
    assert choose_samples(["a"], ["a"]) == ["a"]


def test_small_images_are_read_from_their_files(planned):
    (first, second), notes = read(planned)
    assert notes == []
    assert (first.case, second.case) == ("a", "b")
    assert not first.is_preprocessed
    # the thick axis is z; slice 1 is the first of those with most foreground
    assert "axial slice 2 of 5" in first.image.description
    reference = make_reference(0)[1]
    np.testing.assert_allclose(np.sort(first.inside[0]), np.sort(make_image(0)[1][reference > 0]))
    assert first.outside.shape == (1, 77 - 15)


def store(workspace, case):
    record = make_record((5, 11, 7), (3.0, 0.9, 0.7), case=case)
    labels = np.zeros((5, 11, 7), dtype=np.int16)
    labels[3, 2:9, 1:6] = 1
    labels[:, 0] = -1
    locations = {1: np.argwhere(labels == 1).astype(np.int32), 2: np.zeros((0, 3), dtype=np.int32)}
    folder = workspace.preprocessed("3d_fullres")
    folder.mkdir(parents=True, exist_ok=True)
    save_case(folder, record, np.full((1, 5, 11, 7), 2.0, np.float32), labels, (locations, None), (8, 16, 8))


def test_large_images_are_read_slice_by_slice_from_the_preprocessed_arrays(planned, monkeypatch):
    store(planned, "a")
    monkeypatch.setattr(samples, "MAX_VOXELS", 100)
    (sample,), notes = read(planned)
    assert sample.is_preprocessed
    assert "axial slice 4 of 5" in sample.image.description
    assert sample.inside.shape == (1, 35)
    assert len(notes) == 1
    assert notes[0].startswith("Sample cases that cannot be shown: 1. Their images are too large to be read as a whole")


def test_without_the_dataset_the_preprocessed_arrays_do(planned, tmp_path):
    store(planned, "b")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (sample,), notes = read(planned)
    assert sample.case == "b"
    assert notes == ["Sample cases that cannot be shown: 1. The dataset is no longer at ../data."]


def test_a_file_that_cannot_be_read_is_named(planned, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((7, 11, 4)), np.eye(4)), tmp_path / "data" / "labels" / "a.nii.gz")
    (sample,), notes = read(planned)
    assert sample.case == "b"
    assert notes[0].startswith("a cannot be shown:")


def test_histograms_use_a_bounded_number_of_voxels(planned, monkeypatch):
    monkeypatch.setattr(samples, "MAX_INTENSITIES", 4)
    (sample, _), _ = read(planned)
    assert sample.inside.shape[1] <= 2 * 4
    assert sample.outside.shape[1] <= 2 * 4
