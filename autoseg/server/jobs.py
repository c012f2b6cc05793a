"""Jobs: a bounded queue, one thread that hands them to the process that has the models, and results that expire.

    queued -> running -> done | failed | cancelled

A process that is killed or takes too long fails the job that it works on, and no other: it is started again for the
next one.
"""

import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autoseg.errors import PredictionError, UsageError
from autoseg.server.messages import ModelFacts, PredictionTask, TaskResult
from autoseg.server.model_process import ModelProcess, ModelProcessEndedError
from autoseg.server.settings import ServerSettings
from autoseg.text import format_duration

logger = logging.getLogger("autoseg.server")

State = Literal["queued", "running", "done", "failed", "cancelled"]

OVER: frozenset[State] = frozenset({"done", "failed", "cancelled"})

SECONDS_BETWEEN_LOOKS = 0.1
"""How often a running job is looked at: whether it was cancelled, or took too long."""

SECONDS_TO_END = 2.0
"""Longest wait for the thread of the jobs when the server stops."""

SECONDS_TO_LOAD = 600.0
"""Longest time that loading the models may take."""

MAX_KEPT_JOBS = 100
"""Jobs that are over and kept; the oldest go first."""

CANCELLED, TIMED_OUT, ENDED = 409, 504, 503
"""HTTP statuses of jobs without a result of their own."""


class QueueFullError(Exception):
    """No job may be added now."""


class StoppingError(Exception):
    """The server is about to stop, and takes no more jobs."""


@dataclass
class Job:
    """One image of one client."""

    id: str
    folder: Path
    """Its image and its results; removed with the job."""
    task: PredictionTask | None = None
    """What is to be done; None until the image has arrived."""
    state: State = "queued"
    result: TaskResult | None = None
    """What became of it, once it is over."""
    ended: float | None = None
    """Clock of the process, seconds; None until it is over."""
    is_cancelled: bool = False
    """Whether somebody asked to cancel it while it ran."""

    @property
    def model(self) -> str:
        """Name of the model; empty until the image has arrived."""
        return "" if self.task is None else self.task.model

    @property
    def is_over(self) -> bool:
        """Whether nothing happens to it any more."""
        return self.state in OVER


@dataclass
class JobCounts:
    """What happened since the start, for the metrics."""

    ended: dict[State, int] = field(default_factory=lambda: {"done": 0, "failed": 0, "cancelled": 0})
    prediction_seconds: float = 0.0
    restarts: int = 0


class Jobs:
    """All jobs of a server. Methods may be called from any thread."""

    def __init__(self, process: ModelProcess, settings: ServerSettings, folder: Path) -> None:
        self.counts = JobCounts()
        self._process, self._settings, self._folder = process, settings, folder
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._reserved = 0
        self._is_stopping = False
        self.facts: Mapping[str, ModelFacts] = {}
        self._thread = threading.Thread(target=self._work, daemon=True, name="jobs")

    def start(self) -> None:
        """Load the models, and begin to work.

        Raises:
            UsageError: If two models have one name.
            PredictionError: If a model cannot be loaded.
        """
        try:
            self.facts = {facts.name: facts for facts in self._process.start(SECONDS_TO_LOAD)}
        except ModelProcessEndedError as error:
            raise UsageError(
                f"the process that loads the models {error}; look at the machine's memory, or load fewer models"
            ) from error
        self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether jobs are accepted and the models are loaded."""
        return not self._is_stopping and self._process.is_running

    @property
    def num_waiting(self) -> int:
        """Jobs that wait, those included whose image is still arriving."""
        return len(self._waiting) + self._reserved

    @property
    def num_running(self) -> int:
        """1 while the models work, else 0."""
        return int(self._running is not None)

    def measure_process_memory(self) -> int:
        """Bytes that the process with the models holds."""
        return self._process.measure_memory()

    @contextmanager
    def reserve(self) -> Iterator[Job]:
        """Hold a place in the queue while an image arrives; it is queued at the end if it has a task by then.

        Raises:
            QueueFullError: If as many jobs as allowed are waiting.
            StoppingError: If the server is about to stop.
        """
        with self._changed:
            self._refuse_when_stopping()
            if self.num_waiting >= self._settings.max_queue:
                raise QueueFullError
            self._reserved += 1
        identifier = secrets.token_hex(16)
        job = Job(identifier, self._folder / identifier)
        try:
            job.folder.mkdir(mode=0o700)
            yield job
            with self._changed:
                self._refuse_when_stopping()
                if job.task is not None:
                    self._jobs[job.id] = job
                    self._waiting.append(job)
        finally:
            with self._changed:
                self._reserved -= 1
                is_kept = job.id in self._jobs
                self._changed.notify_all()
            if not is_kept:
                shutil.rmtree(job.folder, ignore_errors=True)

    def find(self, identifier: str) -> Job | None:
        """The job of this name; None if there is none, or it has expired."""
        return self._jobs.get(identifier)

    def remove(self, job: Job) -> None:
        """Forget a job that is over, with its files; cancel one that is not.

        A cancelled job has no files any more, and is forgotten when it expires, or is removed again. If it was running,
        the process that works on it is ended and started again.
        """
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled", TaskResult(error="the job was cancelled", status=CANCELLED))
            elif job.is_over:
                self._jobs.pop(job.id, None)
                shutil.rmtree(job.folder, ignore_errors=True)
            else:
                job.is_cancelled = True

    def stop(self, seconds: float) -> None:
        """Take no more jobs, fail those that wait, give the running one some time, then end the process.

        Args:
            seconds: Time that the running job gets to be finished.
        """
        with self._changed:
            self._is_stopping = True
            while self._waiting:
                self._end(self._waiting.popleft(), "failed", _stopped())
            self._changed.notify_all()
            deadline = time.monotonic() + seconds
            while self._running is not None and time.monotonic() < deadline:
                self._changed.wait(max(0.0, deadline - time.monotonic()))
        self._process.kill()  # the thread notices it, and fails the job that still runs
        if self._thread.is_alive():
            self._thread.join(SECONDS_TO_END)

    def _refuse_when_stopping(self) -> None:
        if self._is_stopping:
            raise StoppingError

    def _work(self) -> None:
        """Run one job after the other until the server stops; the thread's own loop."""
        while not self._is_stopping:
            self._expire()
            job = self._take()
            if job is None:
                continue
            try:
                state, result = self._run(job)
            except ModelProcessEndedError as error:
                state, result = "failed", self._explain_end(error)
            with self._changed:
                self._running = None
                self._end(job, state, result)
                self._changed.notify_all()
            self._restart_if_needed()

    def _take(self) -> Job | None:
        """The next job, which runs from now on; None if none came within a second."""
        with self._changed:
            if not self._waiting:
                self._changed.wait(1.0)
            if not self._waiting or self._is_stopping:
                return None
            self._running = self._waiting.popleft()
            self._running.state = "running"
            return self._running

    def _run(self, job: Job) -> tuple[State, TaskResult]:
        if job.task is None:
            raise ValueError("a job without a task was queued")
        if not self._process.is_running:
            self._restart_if_needed()
        began = time.monotonic()
        self._process.give(job.task)
        while True:
            answer = self._process.receive(SECONDS_BETWEEN_LOOKS)
            if isinstance(answer, TaskResult):
                self.counts.prediction_seconds += answer.seconds
                return ("failed" if answer.error else "done"), answer
            if job.is_cancelled:
                self._process.kill()
                return "cancelled", TaskResult(error="the job was cancelled", status=CANCELLED)
            if time.monotonic() - began > self._settings.timeout_seconds:
                self._process.kill()
                limit = format_duration(self._settings.timeout_seconds)
                sentence = f"the job was ended after {limit}, the limit of this server; send a smaller image"
                return "failed", TaskResult(error=sentence, status=TIMED_OUT)

    def _explain_end(self, error: ModelProcessEndedError) -> TaskResult:
        if self._is_stopping:
            return _stopped()
        logger.warning("warning: the process that has the models %s; it is started again", error)
        sentence = (
            f"the process that worked on the image {error}, as happens when memory runs out; it is started again. Send "
            "the image again, once, or a smaller one"
        )
        return TaskResult(error=sentence, status=ENDED)

    def _restart_if_needed(self) -> None:
        if self._process.is_running or self._is_stopping:
            return
        self.counts.restarts += 1
        self._process.kill()
        try:
            self._process.start(SECONDS_TO_LOAD)
        except (PredictionError, ModelProcessEndedError, OSError) as error:
            logger.error("the models could not be loaded again: %s; the next job tries it again", error)

    def _end(self, job: Job, state: State, result: TaskResult) -> None:
        if state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)
        job.result, job.ended, job.state = result, time.monotonic(), state
        self.counts.ended[state] += 1
        logger.info("job %s: %s%s", job.id[:8], state, f" ({result.status})" if result.error else "")

    def _expire(self) -> None:
        """Remove jobs that are over for too long, or too many."""
        now = time.monotonic()
        with self._changed:
            over = [(job.ended, job) for job in self._jobs.values() if job.ended is not None]
            over.sort(key=lambda pair: pair[0])
            excess = max(0, len(over) - MAX_KEPT_JOBS)
            old = [
                job for place, (ended, job) in enumerate(over)
                if place < excess or now - ended > self._settings.keep_seconds
            ]  # fmt: skip
            for job in old:
                del self._jobs[job.id]
        for job in old:
            shutil.rmtree(job.folder, ignore_errors=True)


def _stopped() -> TaskResult:
    return TaskResult(error="the server was stopped before the job was finished; send the image again", status=ENDED)
