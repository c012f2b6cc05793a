"""Workers that prepare batches: however they are started, and whoever of them or their parent is killed."""

import dataclasses
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typing_extensions import override

from autoseg import worker_memory
from autoseg.errors import TrainingError
from autoseg.training.data import shared_memory
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import BatchStream
from autoseg.training.data.loading import PatchLoader, training_cases
from autoseg.training.data.shared_memory import allocate, fill, seal, view
from autoseg.training.data.workers import SLOTS, choose_start_method
from tests.training.small_cases import ENCODING, SHAPES, make_configuration, make_stored_case, open_loader

PATCH = (6, 8, 10)


@pytest.fixture
def cases():
    return {case: make_stored_case(case, shape, seed=seed) for seed, (case, shape) in enumerate(SHAPES.items())}


def workers():
    """The loader's processes; other tests may have left idle ones of a pool behind."""
    return [child for child in multiprocessing.active_children() if child.name.startswith("batches-")]


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for batch, same in zip(batches, expected, strict=True):
        assert batch["cases"] == same["cases"]
        np.testing.assert_array_equal(batch["image"], same["image"])
        np.testing.assert_array_equal(batch["target"], same["target"])


STARTED_AFRESH = [pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn")]
"""Each worker imports torch."""


@pytest.mark.parametrize("method", ["fork", *STARTED_AFRESH])
def test_batches_are_the_same_however_workers_are_started(cases, method):
    previous = {case: (stored.array[:][-1] > 0).astype(np.int16) for case, stored in cases.items()}
    options = {"seed": 1, "previous": previous}
    expected = list(islice(open_loader(cases, make_configuration(PATCH), **options), 5))
    batches = open_loader(cases, make_configuration(PATCH), workers=2, start_method=method, **options)

    assert_equal(list(islice(batches, 5)), expected)
    assert len(workers()) == 2
    batches.close()
    assert not workers()


@pytest.mark.slow
def test_the_default_start_method_does_not_change_the_workers():
    """Python 3.14 starts processes by a server."""
    script = f"""
import multiprocessing
from itertools import islice
multiprocessing.set_start_method("forkserver")
from tests.training.small_cases import *
cases = {{case: make_stored_case(case, shape, seed=0) for case, shape in SHAPES.items()}}
batches = open_loader(cases, make_configuration({PATCH}), workers=2)
next(batches)
print(sorted(type(child).__name__ for child in multiprocessing.active_children()))
"""  # the iterator is not closed: the program ends nevertheless
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    name = {"fork": "ForkProcess", "spawn": "SpawnProcess"}[choose_start_method()]
    assert done.stdout.strip() == str([name, name])


def test_what_workers_that_are_not_forked_are_sent_does_not_grow_with_the_cases(cases):
    """Arrays and locations of cases in memory are shared."""

    many = {f"{case}{number}": stored for case, stored in cases.items() for number in range(50)}
    stream = BatchStream(seed=(0,), rules=AugmentationRules())
    opened = training_cases(many, ENCODING, ram_bytes=10**9)
    envelope, buffers = seal(PatchLoader(opened, make_configuration(PATCH), ENCODING, stream))
    assert sum(buffer.raw().nbytes for buffer in buffers) > sum(stored.array[:].nbytes for stored in many.values())
    assert len(envelope.stream) < 1000 * len(many)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_contents_of_shared_memory_are_those_that_were_put_in(method):
    memory = allocate(4096, multiprocessing.get_context(method))
    value: dict[str, Any] = {"a": np.arange(7, dtype=np.int8), "b": [np.ones((3, 5), np.float32)], "names": ["x"]}
    envelope, buffers = seal(value)
    fill(view(memory, 1024, 2048), envelope, buffers)

    opened = envelope.open(view(memory, 1024, 2048))

    np.testing.assert_array_equal(opened["a"], value["a"])
    np.testing.assert_array_equal(opened["b"][0], value["b"][0])
    assert opened["names"] == ["x"]
    opened["b"][0][0, 0] = 5  # it is the memory itself
    assert envelope.open(view(memory, 1024, 2048))["b"][0][0, 0] == 5
    with pytest.raises(ValueError, match="broadcast"):
        fill(view(memory, 0, 32), envelope, buffers)


def test_too_little_shared_memory_is_said_with_what_to_do(monkeypatch, cases):
    monkeypatch.setattr(shared_memory, "free_disk_bytes", lambda _folder: 60_000)
    batches = open_loader(cases, make_configuration(PATCH), workers=1, start_method="spawn")
    with pytest.raises(TrainingError, match=r"need .* of shared memory, and .* has .*--shm-size.*--workers 0"):
        next(batches)
    assert not workers()
    list(islice(open_loader(cases, make_configuration(PATCH), workers=1, start_method="fork"), 2))  # has no such limit


def test_there_are_no_more_workers_than_the_memory_has_room_for(cases, monkeypatch, caplog):
    expected = list(islice(open_loader(cases, make_configuration(PATCH)), 4))
    caplog.set_level("INFO")
    monkeypatch.setattr(worker_memory, "measure_available_memory", lambda: 300_000_000)
    batches = open_loader(cases, make_configuration(PATCH), workers=8)
    assert_equal(list(islice(batches, 4)), expected)
    assert len(workers()) == 2
    batches.close()
    assert (
        "preparing batches: 2 instead of 8 worker processes, because 3 batches of each take about 0.068 MB"
        in caplog.text
    )


def test_batches_that_are_kept_stay_as_they_are(cases):
    """More of them than there are slots."""
    options = {"seed": 3, "training": False}
    expected = list(islice(open_loader(cases, make_configuration(PATCH), **options), 4 * SLOTS))
    batches = open_loader(cases, make_configuration(PATCH), workers=1, **options)
    kept = list(islice(batches, 4 * SLOTS))
    batches.close()
    gc.collect()
    assert_equal(kept, expected)


def test_a_batch_lies_in_shared_memory_and_its_slot_is_used_again(cases):
    batches = open_loader(cases, make_configuration(PATCH), workers=1)
    places = {next(batches)["image"].ctypes.data for _ in range(12)}
    batches.close()
    assert len(places) <= SLOTS


def test_workers_are_started_again_when_one_is_killed_and_batches_stay_the_same(cases, caplog):
    expected = list(islice(open_loader(cases, make_configuration(PATCH), seed=1), 12))
    batches = open_loader(cases, make_configuration(PATCH), seed=1, workers=2)
    first = next(batches)
    workers()[0].kill()
    assert_equal([first, *islice(batches, 11)], expected)
    assert "a worker that prepares batches was killed (SIGKILL); " in caplog.text
    batches.close()
    assert not workers()


class DeadlyArray(np.ndarray):
    """An array whose reading ends the process, as exhausted memory does."""

    @override
    def __getitem__(self, key):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_again_ends_training_with_a_message(cases):
    array = cases["a"].array[:].view(DeadlyArray)
    deadly = {"a": dataclasses.replace(cases["a"], array=array)}
    batches = open_loader(deadly, make_configuration(PATCH), seed=1, workers=2, ram_bytes=0)
    message = r"worker that prepares batches was killed \(SIGKILL\), and a second time.*memory.*--workers"
    with pytest.raises(TrainingError, match=message):
        next(batches)
    assert not workers()


def test_a_signal_to_the_whole_group_is_left_to_the_parent(cases):
    batches = open_loader(cases, make_configuration(PATCH), seed=1, workers=2)
    list(islice(batches, 4))  # both have started
    for worker in workers():
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)

    assert len(list(islice(batches, 20))) == 20
    assert len(workers()) == 2
    batches.close()
    assert not workers()


def test_an_iterator_that_nobody_keeps_ends_its_workers(cases):
    batches = open_loader(cases, make_configuration(PATCH), seed=1, workers=2)
    next(batches)
    del batches
    gc.collect()
    assert not workers()


def shared_files():
    """What could stay in shared memory and among the temporary files; other programs may have theirs there."""
    names = [path for folder in (Path("/dev/shm"), Path("/tmp")) if folder.is_dir() for path in folder.iterdir()]
    return {path for path in names if path.name.startswith(("pym-", "psm_", "torch_", "autoseg"))}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_parent_that_is_killed_leaves_neither_workers_nor_memory(method):
    before = shared_files()
    script = f"""
import os, signal, sys, psutil
from tests.training.small_cases import *
cases = {{case: make_stored_case(case, shape, seed=0) for case, shape in SHAPES.items()}}
batches = open_loader(cases, make_configuration({PATCH}), workers=2, start_method={method!r})
next(batches), next(batches)
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    children = [int(word) for word in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(child) and is_alive(child) for child in children):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)
    assert shared_files() <= before


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
