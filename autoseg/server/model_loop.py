"""The process that has the models: they are loaded once, then it predicts one task after the other.

Tested in tests/server/test_model_process.py.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from autoseg.errors import AutosegError
from autoseg.server.messages import ModelOptions
from autoseg.system import leave_signals_to_parent

PARENT_IS_GONE = 1
"""Exit code; nobody reads it."""


def work_on_tasks(connection: Connection, models: Mapping[str, Path], options: ModelOptions) -> None:
    """Send what the models are, or the sentence why they cannot be loaded; then answer tasks until there are no more.

    Args:
        connection: End of a pipe: `PredictionTask`s in, `TaskResult`s out.
        models: Workspaces or exported models by name.
        options: How all of them predict.
    """
    # Imported here, in the process that has the models: the server itself does without torch.
    from autoseg.server.prediction import describe_model, run_task
    from autoseg.stages.predict import SPEEDS, Predictor

    leave_signals_to_parent(("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"), _leave)
    try:
        chosen = replace(
            SPEEDS[options.speed],
            device=options.device, precision=options.precision, max_memory=options.max_memory,
        )  # fmt: skip
        predictors = {name: Predictor(path, chosen) for name, path in models.items()}
    except AutosegError as error:
        connection.send(str(error))
        return
    connection.send(tuple(describe_model(name, models[name], predictor) for name, predictor in predictors.items()))
    try:
        while True:
            connection.send(run_task(predictors, connection.recv()))
    except (EOFError, ConnectionError):  # the server has closed its end
        return


def _leave() -> None:
    os._exit(PARENT_IS_GONE)
