"""The HTTP server in its thread: an interruption of who waits for it does not end it, and it sends its answers."""

import os
import signal
import threading

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from fastapi import FastAPI

from autoseg.errors import UsageError
from autoseg.server.http.serving import HttpServer, listen
from tests.server.served import Client, wait_for


def interrupt(_number, _frame):
    raise KeyboardInterrupt


def test_a_signal_leaves_answers_that_are_on_their_way(monkeypatch):
    app, may_answer = FastAPI(), threading.Event()

    def answer_late() -> str:
        may_answer.wait(30)
        return "late"

    app.add_api_route("/late", answer_late)
    app.add_api_route("/", lambda: "here")
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with listen("127.0.0.1", 0) as listener:
            server = HttpServer(app, listener)
            server.start()
            client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
            wait_for(lambda: client.ask("/").status == 200)
            answers: list[str] = []
            asking = threading.Thread(target=lambda: answers.append(client.ask("/late").json))
            asking.start()
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
            with pytest.raises(KeyboardInterrupt):
                server.is_running(30.0)
            assert server.is_running(0.1)
            threading.Timer(0.2, may_answer.set).start()
            server.stop()
            assert not server.is_running(0.1)
            asking.join(10)
            assert answers == ["late"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_address_that_is_taken_or_of_nobody():
    with listen("127.0.0.1", 0) as listener, pytest.raises(UsageError, match="cannot be listened on"):
        listen("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(UsageError, match="cannot be listened on"):
        listen("192.0.2.1", 0)
