"""A server in this process over real sockets, a stand-in for the process that has the models, and a client."""

import json
import queue
import secrets
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

from typing_extensions import override

from autoseg.errors import PredictionError
from autoseg.inference.models.label_colors import LabelColor
from autoseg.server.jobs import Jobs
from autoseg.server.messages import ModelFacts, ModelOptions, TaskResult
from autoseg.server.model_process import ModelProcess, ModelProcessEndedError
from autoseg.server.prediction import describe_model, run_task
from autoseg.server.settings import ServerSettings
from autoseg.server.stored_images import StoredImages
from autoseg.stages.predict import Predictor
from tests.builders import load_exactly, make_plan, write_model

LABELS = (LabelColor(3, "anterior", (230, 159, 0)), LabelColor(300, "posterior", (86, 180, 233)))
DEATH = "was ended by SIGKILL"


class StandIn(ModelProcess):
    """Answers tasks by a function in a thread; may be told to die."""

    def __init__(self, work=None, names=("made",)):
        super().__init__({}, ModelOptions())
        self.work = work or (lambda task: TaskResult())
        self.names, self.starts, self.dead = names, 0, True
        self.answers: queue.Queue[TaskResult | str] = queue.Queue()

    @override
    def start(self, seconds):
        self.starts += 1
        self.dead, self.answers = False, queue.Queue()
        return tuple(
            ModelFacts(name=name, channels=("MR",), labels=LABELS, background=0, dimensions=3, description="made")
            for name in self.names
        )

    @override
    def give(self, task):
        answers = self.answers
        threading.Thread(target=lambda: answers.put(self.work(task)), daemon=True).start()

    @override
    def receive(self, seconds):
        if self.dead:
            raise ModelProcessEndedError(DEATH)
        with suppress(queue.Empty):
            answer = self.answers.get(timeout=seconds)
            if answer == DEATH:
                self.dead = True
                raise ModelProcessEndedError(DEATH)
            return answer
        return None

    @property
    @override
    def is_running(self):
        return not self.dead

    @override
    def measure_memory(self):
        return 12345

    @override
    def kill(self):
        self.dead = True


class NeverAgain(StandIn):
    """Starts once."""

    @override
    def start(self, seconds):
        if self.starts:
            raise PredictionError("the model is gone")
        return super().start(seconds)


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        return str(self.json["detail"])

    def parts(self):
        """Parts of a form by name, with the file name of each."""
        whole = message_from_bytes(b"Content-Type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + self.body)
        parts = [part for part in whole.walk() if part is not whole]
        return {part.get_param("name", header="content-disposition"): part for part in parts}


@dataclass(frozen=True)
class Client:
    """Speaks to one server with the standard library."""

    url: str

    def ask(self, path, method="GET", body=None, headers=None) -> Answer:
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def send(self, path, files=(), fields=(), method="POST", headers=None) -> Answer:
        """Send a form: files are (field, file name, content), fields (name, text)."""
        kind, body = encode_form(files, fields)
        return self.ask(path, method, body, {"content-type": kind, **(headers or {})})

    def predict(self, path: Path, *fields, headers=None) -> dict[str, Any]:
        """Send an image as a job, and wait until it is over."""
        sent = self.send("/v1/jobs", [("image", path.name, path.read_bytes())], fields, headers=headers)
        assert sent.status == 202, sent.body
        return self.wait(sent.json["id"], headers)

    def wait(self, job: str, headers=None) -> dict[str, Any]:
        for _ in range(20):
            found = self.ask(f"/v1/jobs/{job}?wait=10", headers=headers).json
            if found["status"] != 202:
                return dict(found)
        raise TimeoutError(job)


def encode_form(files, fields):
    boundary = secrets.token_hex(8)
    body = b""
    for name, text in fields:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
    for name, file, content in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


def make_predictors(root: Path, folds: tuple[str, ...] = ("0",)) -> dict[str, Predictor]:
    """A model `made` of these folds, written to a folder and loaded."""
    write_model(root, make_plan({"3d_fullres": (2.5, 1.0, 0.8)}), {"3d_fullres": folds})
    return {"made": load_exactly(root, mirroring=False)}


@contextmanager
def serve_here(process: ModelProcess, folder: Path, **settings):
    """A client of a server in this process, and its jobs."""
    from autoseg.server.http.application import build_application
    from autoseg.server.http.serving import HttpServer, listen

    chosen = ServerSettings(**settings)
    jobs = Jobs(process, chosen, folder)
    jobs.start()
    images = StoredImages(folder, chosen.keep_seconds)
    with listen("127.0.0.1", 0) as listener:
        server = HttpServer(build_application(jobs, images, chosen), listener)
        server.start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        wait_for(lambda: client.ask("/health").status == 200)
        try:
            yield client, jobs
        finally:
            jobs.stop(0.1)
            server.stop()


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError


@contextmanager
def serve_predictors(predictors: dict[str, Predictor], uploads: Path, **settings):
    """A server that predicts in this process; gives its client."""
    with serve_here(StandIn(lambda task: run_task(predictors, task)), uploads, **settings) as (client, jobs):
        jobs.facts = {name: describe_model(name, Path("model.zip"), made) for name, made in predictors.items()}
        yield client
