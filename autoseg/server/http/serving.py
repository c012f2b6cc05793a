"""Run the server until it is interrupted, then stop it gracefully: within the ten seconds that service managers give.

Tested in tests/cli/test_serve.py.
"""

import logging
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from autoseg.errors import UsageError
from autoseg.server.folders import open_server_folder, sweep_server_folders
from autoseg.server.http.application import build_application
from autoseg.server.jobs import Jobs
from autoseg.server.messages import ModelOptions
from autoseg.server.model_process import ModelProcess
from autoseg.server.settings import ServerSettings
from autoseg.server.stored_images import StoredImages

logger = logging.getLogger("autoseg.server")

SECONDS_FOR_RUNNING_JOB = 4.0
"""Time that the job which runs gets when the server stops."""

SECONDS_FOR_ANSWERS = 2
"""Time that answers which are being sent get then."""

SECONDS_BETWEEN_SWEEPS = 60.0
"""How often folders of other servers that are gone are looked for: a lock of another machine says so only later."""


def serve(models: Mapping[str, Path], options: ModelOptions, settings: ServerSettings, *, host: str, port: int) -> None:
    """Load the models and answer requests until KeyboardInterrupt, which is raised in the main thread by signals.

    Args:
        models: Workspaces or exported models by name.
        options: How all of them predict.
        settings: Limits.
        host: Address to listen on.
        port: Its port; 0: a free one, which the log line names.

    Raises:
        UsageError: If the address cannot be listened on.
        PredictionError: If a model cannot be loaded.
    """
    with listen(host, port) as listener, open_server_folder() as folder:
        process = ModelProcess(models, options)
        jobs = Jobs(process, settings, folder)
        images = StoredImages(folder, settings.keep_seconds)
        try:
            jobs.start()
            server = HttpServer(build_application(jobs, images, settings), listener)
            logger.info("serving %s on %s (Ctrl-C stops)", ", ".join(models), _describe_address(listener))
            _run_until_interrupted(server, jobs, folder)
        finally:
            process.kill()


class HttpServer:
    """uvicorn in a thread: signals stay with the command line."""

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=SECONDS_FOR_ANSWERS,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._ended = (
            threading.Event()
        )  # Thread.join that a signal interrupted takes the thread for ended (Python 3.11)
        self._thread = threading.Thread(target=self._run, daemon=True, name="http")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def is_running(self, seconds: float) -> bool:
        """Whether it still runs after so many seconds."""
        return not self._ended.wait(seconds)

    def stop(self) -> None:
        """Take no more connections, and end when answers were sent, or after some seconds."""
        self._server.should_exit = True
        self._ended.wait(SECONDS_FOR_ANSWERS + 1)

    def _run(self) -> None:
        try:
            self._server.run([self._listener])
        finally:
            self._ended.set()


def _run_until_interrupted(server: HttpServer, jobs: Jobs, folder: Path) -> None:
    server.start()
    try:
        while server.is_running(SECONDS_BETWEEN_SWEEPS):
            sweep_server_folders(folder.parent)
        raise RuntimeError("the HTTP server ended by itself; run it with -v for the reason")
    except KeyboardInterrupt:
        logger.info("stopping: the running job gets %.0f s, no more are accepted", SECONDS_FOR_RUNNING_JOB)
        jobs.stop(SECONDS_FOR_RUNNING_JOB)
        server.stop()
        logger.info("stopped")


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on, so that a port in use is noticed before models are loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on ({error}); give another --port, or another --host"
        ) from error


def _describe_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
