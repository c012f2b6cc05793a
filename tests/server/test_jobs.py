"""Jobs over a stand-in for the process that has the models: bounds, order, cancelling, time-outs, deaths, stopping."""

import threading
import time
from pathlib import Path

import pytest

from autoseg.server import jobs as jobs_module
from autoseg.server.jobs import Jobs, QueueFullError, StoppingError
from autoseg.server.messages import PredictionTask, TaskResult
from autoseg.server.settings import ServerSettings
from tests.server.served import DEATH, NeverAgain, StandIn, wait_for


def add(jobs: Jobs, name="a"):
    with jobs.reserve() as job:
        (job.folder / name).write_text("secret")
        job.task = PredictionTask(
            model="made", images=(Path(name),), folder=job.folder, ending=".nii.gz", max_image_bytes=1
        )
    return job


class Gate:
    """Work that waits until it may go on."""

    def __init__(self):
        self.open, self.begun = threading.Event(), threading.Event()
        self.seen: list[str] = []

    def __call__(self, task):
        self.seen.append(task.images[0].name)
        self.begun.set()
        self.open.wait(30)
        return TaskResult(seconds=1.5)


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(process, **settings) -> Jobs:
        jobs = Jobs(process, ServerSettings(**settings), tmp_path)
        jobs.start()
        started.append(jobs)
        return jobs

    yield begin
    for jobs in started:
        jobs.stop(0.0)


def test_jobs_run_one_after_the_other_in_order(start):
    gate = Gate()
    jobs = start(StandIn(gate))
    added = [add(jobs, name) for name in "abc"]
    gate.begun.wait(10)
    wait_for(lambda: added[0].state == "running")
    assert [job.state for job in added] == ["running", "queued", "queued"]
    assert (jobs.num_waiting, jobs.num_running) == (2, 1)
    gate.open.set()
    wait_for(lambda: all(job.is_over for job in added))
    assert gate.seen == ["a", "b", "c"]
    assert (jobs.counts.ended["done"], jobs.counts.prediction_seconds) == (3, 4.5)


def test_the_queue_is_bounded_and_counts_what_arrives(start):
    gate = Gate()
    jobs = start(StandIn(gate), max_queue=2)
    add(jobs)
    gate.begun.wait(10)
    add(jobs)
    with jobs.reserve() as arriving, pytest.raises(QueueFullError), jobs.reserve():
        pass
    assert not arriving.folder.exists()  # it brought no task
    add(jobs)
    gate.open.set()


def test_an_upload_that_fails_leaves_neither_place_nor_files(start, tmp_path):
    jobs = start(StandIn(), max_queue=1)
    for _ in range(3):
        with pytest.raises(FileExistsError), jobs.reserve() as job:
            job.folder.mkdir()
    assert (jobs.num_waiting, list(tmp_path.iterdir())) == (0, [])


def test_a_waiting_and_a_running_job_are_cancelled(start):
    gate = Gate()
    process = StandIn(gate)
    jobs = start(process)
    running, waiting, last = (add(jobs, name) for name in "abc")
    gate.begun.wait(10)
    jobs.remove(waiting)
    assert (waiting.state, waiting.folder.exists()) == ("cancelled", False)
    jobs.remove(running)
    wait_for(lambda: running.is_over)
    assert running.state == "cancelled"
    assert running.result is not None
    assert running.result.status == 409
    gate.open.set()
    wait_for(lambda: last.is_over)
    assert (last.state, process.starts, jobs.counts.restarts) == ("done", 2, 1)
    jobs.remove(last)
    assert (jobs.find(last.id), last.folder.exists()) == (None, False)


def test_a_job_that_takes_too_long_fails(start):
    gate = Gate()
    jobs = start(StandIn(gate), timeout_seconds=0.3)
    job = add(jobs)
    wait_for(lambda: job.is_over)
    assert job.result is not None
    assert (job.state, job.result.status, job.folder.exists()) == ("failed", 504, False)
    assert "the limit of this server" in job.result.error


def test_the_death_of_the_process_costs_one_job(start):
    answers = iter([DEATH, TaskResult()])
    process = StandIn(lambda task: next(answers))
    jobs = start(process)
    first, second = add(jobs), add(jobs)
    wait_for(lambda: second.is_over)
    assert (first.state, second.state, process.starts) == ("failed", "done", 2)
    assert first.result is not None
    assert first.result.status == 503
    assert "was ended by SIGKILL" in first.result.error
    assert jobs.is_ready


def test_models_that_cannot_be_loaded_again_fail_jobs_with_a_sentence(start):
    process = NeverAgain(lambda task: DEATH)
    jobs = start(process)
    first, second = add(jobs), add(jobs)
    wait_for(lambda: second.is_over)
    assert [first.state, second.state, jobs.is_ready] == ["failed", "failed", False]


def test_results_expire_and_are_bounded(start, monkeypatch):
    jobs = start(StandIn(), keep_seconds=0.2)
    job = add(jobs)
    wait_for(lambda: job.is_over)
    wait_for(lambda: jobs.find(job.id) is None)
    wait_for(lambda: not job.folder.exists())
    monkeypatch.setattr(jobs_module, "MAX_KEPT_JOBS", 2)
    lasting = start(StandIn(), keep_seconds=100)
    added = [add(lasting) for _ in range(4)]
    wait_for(lambda: all(job.is_over for job in added))
    wait_for(lambda: [lasting.find(job.id) is not None for job in added] == [False, False, True, True])


@pytest.mark.parametrize("finishes", [True, False])
def test_stopping_gives_the_running_job_time_and_fails_the_others(start, finishes):
    gate = Gate()
    jobs = start(StandIn(gate))
    running, waiting = add(jobs), add(jobs)
    gate.begun.wait(10)
    if finishes:
        threading.Timer(0.2, gate.open.set).start()
    began = time.monotonic()
    jobs.stop(10.0 if finishes else 0.2)
    assert time.monotonic() - began < 9
    assert running.state == ("done" if finishes else "failed")
    assert waiting.state == "failed"
    assert waiting.result is not None
    assert "the server was stopped" in waiting.result.error
    with pytest.raises(StoppingError), jobs.reserve():
        pass
