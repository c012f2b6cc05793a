"""Worker processes: how they end."""

import inspect
import multiprocessing
import os
import signal
from itertools import islice

import pytest

from autoseg.errors import TrainingError
from tests.training.small_cases import SHAPES, make_configuration, make_stored_case, open_loader

PATCH = (6, 8, 10)


@pytest.fixture
def cases():
    return {case: make_stored_case(case, shape, seed=seed) for seed, (case, shape) in enumerate(SHAPES.items())}


def workers():
    """The loader's processes; other tests may have left idle ones of a pool behind."""
    return {child for child in multiprocessing.active_children() if child.name.startswith("Process-")}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_killed_worker_ends_training_with_a_message(cases):
    batches = open_loader(cases, make_configuration(PATCH), seed=1, workers=2)
    next(batches)
    next(iter(workers())).kill()

    with pytest.raises(TrainingError, match=r"worker that prepares batches was killed.*memory.*--workers"):
        list(islice(batches, 50))

    assert not workers()


def test_closing_ends_the_workers(cases):
    batches = open_loader(cases, make_configuration(PATCH), seed=1, workers=2)
    next(batches)
    assert len(workers()) == 2
    # as a traceback would; without a reference batchgenerators ends its workers when it is deleted
    kept_alive = dict(inspect.getgeneratorlocals(batches))

    batches.close()

    assert not workers()
    assert "augmenter" in kept_alive


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
