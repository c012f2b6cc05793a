import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autoseg import DISTRIBUTION
from autoseg.cli import doctor
from autoseg.cli.main import main


def test_no_command_prints_help(capsys):
    assert main([]) == 2
    assert "plan" in capsys.readouterr().out


def test_an_unknown_command_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["segment"])
    assert stop.value.code == 2
    assert "segment" in capsys.readouterr().err


def test_a_missing_dataset_is_one_line_without_traceback(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "nowhere"), "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert "nowhere: there is no such dataset" in error
    assert "Traceback" not in error


def test_planning_refuses_without_torch(tmp_path):
    code = (
        "import sys; from autoseg.cli.main import main; "
        f"assert main(['plan', {str(tmp_path / 'nowhere')!r}, '--device', 'cuda']) == 2; "
        "assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("there is no such dataset") == 1


def test_verbose_shows_the_traceback(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "nowhere"), "--device", "cuda", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            RuntimeError("CUDA error: device-side assert triggered\nCompile with ..."),
            "RuntimeError: CUDA error: device",
        ),
        (RecursionError(), "RecursionError."),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero."),
    ],
)
def test_an_unexpected_error_is_one_sentence_and_the_traceback_on_request(monkeypatch, capsys, error, sentence):
    def fail(_):
        raise error

    monkeypatch.setattr(doctor, "run", fail)
    assert main(["doctor"]) == 3
    output = capsys.readouterr().err
    assert sentence in output
    assert "autoseg doctor: stopped by an error" in output
    assert "-v" in output
    assert len(output.splitlines()) == 1
    assert main(["doctor", "-v"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_device_is_wrong_usage(phantom_dataset, capsys):
    assert main(["plan", str(phantom_dataset), "--device", "tpu", "--dry-run"]) == 2
    assert "--device tpu: unknown" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == f"autoseg {pyproject['project']['version']}\n"
    assert pyproject["project"]["name"] == DISTRIBUTION
