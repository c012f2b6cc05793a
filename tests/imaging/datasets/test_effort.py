"""Whether workers are worth their start."""

from functools import partial

import nibabel
import numpy as np
import pytest

from autoseg.imaging.datasets.cases import map_in_processes, work_on_cases
from autoseg.imaging.datasets.effort import choose_workers, label_map_memory_bytes, reading_memory_bytes
from autoseg.records.dataset import CaseFiles
from autoseg.stages import describe, fingerprint
from autoseg.stages.describe import describe_dataset
from autoseg.stages.fingerprint import extract_fingerprint
from tests.imaging.datasets.small_datasets import make_plain


def list_cases(number, folder, image_bytes):
    """Cases that share an image file of so many bytes, and a label map of none."""
    with (folder / "image.nii.gz").open("wb") as image:
        image.truncate(image_bytes)
    return [CaseFiles(case=f"{index}", images=("image.nii.gz",), label="missing.nii.gz") for index in range(number)]


@pytest.mark.parametrize(
    ("number", "image_bytes", "workers"),
    [
        (200, 20_000, 1),  # small files
        (2_000, 20_000, 8),  # many small files
        (5, 1_000_000, 1),  # few files of a megabyte
        (5, 100_000_000, 8),  # few large ones
    ],
)
def test_workers_are_started_for_many_and_for_large_files(tmp_path, number, image_bytes, workers):
    assert choose_workers(tmp_path, list_cases(number, tmp_path, image_bytes), cores=8) == workers


def test_memory_follows_the_largest_case_and_its_compression(tmp_path):
    for name, size in (("a_0000.nii.gz", 100), ("a_0001.nii.gz", 200), ("b.nii", 500), ("b_seg.nii.gz", 9000)):
        (tmp_path / name).write_bytes(bytes(size))
    cases = [
        CaseFiles(case="a", images=("a_0000.nii.gz", "a_0001.nii.gz"), label="a_seg.nii.gz"),
        CaseFiles(case="b", images=("b.nii",), label="b_seg.nii.gz"),
    ]
    assert reading_memory_bytes(tmp_path, cases[:1]) == 300 * 12
    assert reading_memory_bytes(tmp_path, cases[1:]) == 500 * 6
    assert reading_memory_bytes(tmp_path, cases) == 300 * 12
    assert reading_memory_bytes(tmp_path, []) == 0


def test_memory_of_label_maps_follows_from_the_largest_whatever_it_is_packed_to(tmp_path):
    for name, shape in (("a.nii.gz", (50, 40, 30)), ("b.nii", (20, 20, 20))):
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / name)
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii"]
    assert label_map_memory_bytes(paths) == 50 * 40 * 30 * 32
    assert label_map_memory_bytes(paths[1:]) == 20 * 20 * 20 * 32
    assert label_map_memory_bytes([tmp_path / "absent.nii.gz"]) == label_map_memory_bytes([]) == 0


@pytest.mark.parametrize(("asked", "started"), [(None, 1), (2, 2)])
def test_a_small_dataset_is_read_in_this_process_unless_workers_are_asked_for(tmp_path, monkeypatch, asked, started):
    folder = make_plain(tmp_path, ["a", "b", "c"])
    expected = describe_dataset(folder)
    used = []

    def work_here(function, *arguments, workers, **options):
        used.append(workers)
        return function(*arguments, workers=1, **options)

    monkeypatch.setattr(describe, "map_in_processes", partial(work_here, map_in_processes))
    monkeypatch.setattr(fingerprint, "work_on_cases", partial(work_here, work_on_cases))
    assert describe_dataset(folder, workers=asked) == expected
    extract_fingerprint(expected, folder, workers=asked)
    assert used == [started, started]
