"""`autoseg serve`: its options, and one server as a program, which is stopped and killed."""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from autoseg.cli import serve
from autoseg.cli.main import main
from autoseg.errors import UsageError
from tests.builders import make_image, make_plan, write_model, write_nifti
from tests.server.served import Client, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("hippocampus.autoseg", "hippocampus", "hippocampus.autoseg"),
        ("models/liver v2.zip", "liver_v2", "models/liver v2.zip"),
        ("liver=models/x.zip", "liver", "models/x.zip"),
        ("/a=b/model.zip", "model", "/a=b/model.zip"),
        ("x=a=b.zip", "x", "a=b.zip"),
    ],
)
def test_names_of_models(text, name, path):
    assert serve.named_model(text) == (name, Path(path))


@pytest.mark.parametrize("text", ["=x.zip", "a b=x.zip", "x=", "ü=x.zip"])
def test_names_that_are_refused(text):
    with pytest.raises(ArgumentTypeError, match="a name has letters"):
        serve.named_model(text)


def test_ports():
    assert [serve.port_number(text) for text in ("0", "65535")] == [0, 65535]
    for text in ("65536", "-1", "x", "", "99999999999999"):
        with pytest.raises(ArgumentTypeError, match="is not a port"):
            serve.port_number(text)


@pytest.mark.parametrize(
    "content", [b"short", b"", b"a token with blanks in it", b"\xff" * 20, b"two-lines-of-a\n-token-of-mine"]
)
def test_tokens_that_are_refused(tmp_path, content):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="token"):
        serve.read_token(tmp_path / "token")


def test_a_token(tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert serve.read_token(tmp_path / "token") == "0123456789abcdef"
    assert serve.read_token(None) is None
    with pytest.raises(UsageError, match="cannot be read as a token"):
        serve.read_token(tmp_path / "gone")


def test_addresses_of_this_machine():
    assert [serve.is_loopback(host) for host in ("localhost", "127.0.0.1", "::1")] == [True] * 3
    assert not any(serve.is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org", ""))


def test_others_may_not_ask_without_a_token(capsys):
    assert main(["serve", "model.zip", "--host", "0.0.0.0"]) == 2
    assert "a token is needed" in capsys.readouterr().err


def test_two_models_of_one_name(capsys):
    assert main(["serve", "a/model.zip", "b/model.zip"]) == 2
    assert "have the same name 'model'" in capsys.readouterr().err


def test_without_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "autoseg.server.http.serving", None)
    assert main(["serve", "model.zip"]) == 2
    assert "pip install 'autoseg-med[server]'" in capsys.readouterr().err


@pytest.fixture
def start(tmp_path):
    """A server as a program, in a folder for temporary files of its own."""
    for package in ("fastapi", "uvicorn", "python_multipart"):
        pytest.importorskip(package)
    model = tmp_path / "made.autoseg"
    write_model(model, make_plan({"3d_fullres": (2.5, 1.0, 0.8)}), {"3d_fullres": ("0",)})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    started = []

    def begin(*words):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            [sys.executable, "-m", "autoseg", "serve", str(model), "--port", "0", "--device", "cpu", *words],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        started.append(process)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "serving made on http" in line:
                return process, Client(line.split()[4]), temporary
        raise AssertionError("".join(lines))

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_server_is_killed_started_again_and_stopped(start, tmp_path):
    image = write_nifti(make_image(), tmp_path / "patient.nii.gz")
    process, client, temporary = start()
    assert client.predict(image)["state"] == "done"
    (folder,) = temporary.glob("autoseg-server-*")
    assert list(folder.glob("*/image_0000.nii.gz"))
    process.kill()
    process.wait()
    assert folder.exists()
    process, client, _ = start()
    assert not folder.exists()
    assert client.predict(image)["state"] == "done"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - began < 10
    wait_for(lambda: not list(temporary.iterdir()))


@pytest.mark.slow
def test_a_killed_worker_is_started_again(start, tmp_path):
    import psutil

    image = write_nifti(make_image(), tmp_path / "patient.nii.gz")
    process, client, _ = start()
    workers = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(workers) == 1
    workers[0].kill()
    answers = [client.predict(image) for _ in range(2)]
    assert [answer["state"] for answer in answers if answer["status"] == 200][-1:] == ["done"]
    assert "autoseg_process_restarts_total 1" in client.ask("/metrics").body.decode()
    assert client.ask("/ready").status == 200


@pytest.mark.slow
def test_a_port_in_use_and_a_missing_model(start, tmp_path, capsys):
    _, client, _ = start()
    port = client.url.rsplit(":", 1)[1]
    assert main(["serve", str(tmp_path / "made.autoseg"), "--port", port]) == 2
    assert "cannot be listened on" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "gone.zip"), "--port", "0"]) == 2
    assert "gone.zip: not a model" in capsys.readouterr().err
