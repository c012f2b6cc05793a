"""Processes that prepare batches: how they end, alone or with their parent, and how their failures are told.

Called by the loader, for batchgenerators' workers.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue

from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter

from autoseg.errors import TrainingError
from autoseg.training.data.batch import Batch


def follow_parent() -> None:
    """Let this worker end when its parent says so or is gone, not by the handlers that it inherited.

    A signal to the whole group of processes (a terminal's, torchrun's, a batch system's) is the parent's to answer: it
    finishes its step, for which it may need one more batch, and ends its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # a killed parent cannot say more


def deliver(augmenter: MultiThreadedAugmenter, failures: SimpleQueue[str]) -> Generator[Batch, None, None]:
    """Pass batches on; turn a worker's death into an error that says why; end the workers when closed.

    Raises:
        TrainingError: If a worker failed or was killed.
    """
    try:
        while True:
            try:
                batch: Batch = next(augmenter)
            except RuntimeError as error:
                raise TrainingError(_failure_message(failures)) from error
            yield batch
    finally:
        processes = list(augmenter._processes)
        augmenter._finish()  # batchgenerators has no public way to end its workers
        for process in processes:
            process.kill()  # one that did not end in time ignores the signal that batchgenerators then sends


def _failure_message(failures: SimpleQueue[str]) -> str:
    if failures.empty():
        return (
            "A worker that prepares batches was killed, most often because memory ran out. Use fewer --workers, "
            "or give the machine more memory; training resumes from the last checkpoint."
        )
    return failures.get()
