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
from autoseg.training.batch import Batch


def follow_parent() -> None:
    """Let this worker end when it is told to or when its parent is gone, not by the handlers that it inherited."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
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
        # batchgenerators has no public way to end its workers
        augmenter._finish()


def _failure_message(failures: SimpleQueue[str]) -> str:
    if failures.empty():
        return (
            "A worker that prepares batches was killed, most often because memory ran out. Use fewer --workers, "
            "or give the machine more memory; training resumes from the last checkpoint."
        )
    return failures.get()
