"""Work on cases: order, progress, failures, killed workers."""

import os
import time
from functools import partial

import pytest

from autoseg.errors import DatasetError, ImageFileError, WorkerError, WriteError
from autoseg.imaging.datasets.cases import work_on_cases
from autoseg.records.dataset import CaseFiles

CASES = [CaseFiles(case=name, images=(f"{name}.nii.gz",), label="") for name in ("d", "a", "c", "b")]


def shout(files):
    if files.case == "a":
        raise ImageFileError("a.nii.gz: truncated")
    if files.case == "c":
        raise MemoryError
    return files.case.upper()


def succeed(files):
    return files.case, os.getpid()


def leave_a_mark(folder, files):
    (folder / files.case).touch()
    time.sleep(0.02)
    return files.case


def die_of_c(files):
    if files.case == "c":
        os._exit(3)
    return files.case.upper()


@pytest.mark.parametrize("workers", [1, 2])
def test_failures_are_named_at_the_end_and_the_others_are_done(workers):
    seen: list[tuple[int, int]] = []
    results: list[str] = []
    with pytest.raises(
        DatasetError, match=r"testing failed for 2 of 4 case\(s\):\n  a: a.nii.gz: truncated\n  c: out of memory"
    ):
        results.extend(
            work_on_cases(
                shout, CASES, task="testing", workers=workers, progress=lambda done, total: seen.append((done, total))
            )
        )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_full_disk_ends_the_work_at_the_first_case():
    begun = []

    def work(case):
        begun.append(case.case)
        raise WriteError("a.b2nd: cannot be written, because the disk is full")

    cases = [CaseFiles(case=name, images=(), label="") for name in "abc"]
    with pytest.raises(WriteError, match="disk is full"):
        list(work_on_cases(work, cases, task="preprocessing", workers=1))
    assert begun == ["a"]


def test_results_come_in_the_order_of_the_cases_from_other_processes():
    results = list(work_on_cases(succeed, CASES, task="testing", workers=2))
    assert [case for case, _ in results] == ["d", "a", "c", "b"]
    assert all(process != os.getpid() for _, process in results)


def test_one_worker_stays_in_this_process():
    assert {process for _, process in work_on_cases(succeed, CASES, task="testing", workers=1)} == {os.getpid()}


def test_results_stream():
    iterator = work_on_cases(shout, CASES, task="testing", workers=1)
    assert next(iterator) == "D"


def test_results_stream_from_other_processes(tmp_path):
    cases = [CASES[0].model_copy(update={"case": f"{index:02d}"}) for index in range(40)]
    iterator = work_on_cases(partial(leave_a_mark, tmp_path), cases, task="testing", workers=2)
    assert next(iterator) == "00"
    assert len(list(tmp_path.iterdir())) < 40
    assert len(list(iterator)) == 39


def test_a_case_that_ends_its_worker_is_named_and_the_others_are_done():
    results: list[str] = []
    with pytest.raises(WorkerError, match=r"testing failed for 1 of 4 case\(s\):\n  c: the worker .* exit code 3,"):
        results.extend(work_on_cases(die_of_c, CASES, task="testing", workers=2))
    assert results == ["D", "A", "B"]
