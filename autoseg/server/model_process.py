"""The server's side of the process that has the models: start it, give it tasks, notice its death, end it."""

import multiprocessing
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from autoseg.errors import PredictionError
from autoseg.server.messages import ModelFacts, ModelOptions, PredictionTask, TaskResult
from autoseg.server.model_loop import work_on_tasks

SECONDS_TO_DIE = 5.0
"""How long a killed process is waited for."""


class ModelProcessEndedError(Exception):
    """The process that has the models ended; the message says how."""


class ModelProcess:
    """One process with all models; used by one thread at a time."""

    def __init__(self, models: Mapping[str, Path], options: ModelOptions) -> None:
        self._models, self._options = dict(models), options
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self, seconds: float) -> tuple[ModelFacts, ...]:
        """Start the process and wait until it has loaded the models.

        Args:
            seconds: Longest time that this may take.

        Raises:
            PredictionError: If a model cannot be loaded in this time; the message is the process's own.
            ModelProcessEndedError: If the process ended.
        """
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
        self._connection, end = context.Pipe()
        self._process = context.Process(target=work_on_tasks, args=(end, self._models, self._options), daemon=True)
        self._process.start()
        end.close()
        deadline = time.monotonic() + seconds
        while (answer := self.receive(0.1)) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise PredictionError(f"the models were not loaded within {seconds:.0f} s")
        if isinstance(answer, str):
            self.kill()
            raise PredictionError(answer)
        if isinstance(answer, TaskResult):
            raise TypeError("the process answered before it was asked")
        return answer

    def give(self, task: PredictionTask) -> None:
        """Begin a task; the death of the process is noticed when its answer is waited for."""
        if self._connection is not None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send(task)

    def receive(self, seconds: float) -> TaskResult | tuple[ModelFacts, ...] | str | None:
        """The answer, or None if there is none within this time.

        Raises:
            ModelProcessEndedError: If the process ended.
        """
        if self._connection is None or self._process is None:
            raise ModelProcessEndedError("is not running")
        try:
            if not self._connection.poll(seconds):
                return None
            answer: TaskResult | tuple[ModelFacts, ...] | str = self._connection.recv()
        except (EOFError, OSError) as error:  # OSError: it died while it sent
            raise ModelProcessEndedError(self._cause_of_death()) from error
        return answer

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.is_alive()

    def measure_memory(self) -> int:
        """Bytes that the process holds; 0 without one."""
        process = self._process
        if process is None or process.pid is None:
            return 0
        try:
            return int(psutil.Process(process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def kill(self) -> None:
        """End the process at once; files that it writes lie in the folder of its task."""
        if self._process is not None:
            self._process.kill()
            self._process.join(SECONDS_TO_DIE)
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _cause_of_death(self) -> str:
        process = self._process
        if process is not None:
            process.join(SECONDS_TO_DIE)
        code = None if process is None else process.exitcode
        if code is None:
            return "closed its connection"
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
