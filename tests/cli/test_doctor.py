"""The doctor command."""

import json
import re
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from autoseg import system
from autoseg.cli import doctor
from autoseg.cli.main import UNUSABLE, main
from autoseg.cli.speed import measure_throughput
from autoseg.errors import UsageError
from autoseg.records.budget import MeasuredThroughput, Throughput
from autoseg.records.files import read_record
from autoseg.training import probe


@pytest.fixture
def asked(monkeypatch):
    """What is measured, without measuring."""
    calls = []

    def measure(device, architectures):
        calls.append((device, architectures))
        return tuple(
            Throughput(
                architecture=name, dimensions=3, base_features=8, macs_per_second=2e10, prediction_macs_per_second=5e10
            )
            for name in architectures
        )

    monkeypatch.setattr(probe, "measure_training_speed", measure)
    return calls


@pytest.mark.parametrize(
    ("words", "architectures"),
    [
        ([], ("unet", "residual_unet", "unext", "efficientnet_unet", "hrnet", "mednext", "external")),
        (["--architectures", "unext"], ("unext",)),
        (["--architectures", "unext", "unet"], ("unet", "unext")),
    ],
)
def test_speed_is_measured_and_written(asked, tmp_path, capsys, words, architectures):
    assert main(["doctor", "--device", "cpu", "--measure-speed", str(tmp_path / "speed.json"), *words]) == 0
    assert asked == [("cpu", architectures)]
    written = read_record(MeasuredThroughput, tmp_path / "speed.json").throughput
    assert tuple(point.architecture for point in written) == architectures
    assert "3D UNeXt of 8 features: 20.0 GMAC/s in training, 50.0 in prediction" in capsys.readouterr().out


def test_the_json_of_a_measurement_is_its_file(asked, tmp_path, capsys):
    path = tmp_path / "speed.json"
    assert main(["doctor", "--device", "cpu", "--measure-speed", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())


def test_unknown_networks_are_wrong_usage(asked, tmp_path, capsys):
    words = ["doctor", "--measure-speed", str(tmp_path / "speed.json"), "--architectures", "unet", "vnet"]
    assert main(words) == UNUSABLE
    assert (
        "--architectures vnet: unknown; there are unet, residual_unet, unext, efficientnet_unet, hrnet, mednext, "
        in capsys.readouterr().err
    )
    assert asked == []


@pytest.mark.parametrize("name", ["unext", "vnet"])
def test_networks_without_a_measurement_are_wrong_usage(capsys, name):
    assert main(["doctor", "--device", "cpu", "--architectures", name]) == UNUSABLE
    shown = capsys.readouterr()
    assert "--architectures says what --measure-speed measures; add --measure-speed FILE" in shown.err
    assert shown.out == ""


def test_a_speed_that_was_not_measured_is_not_shown(tmp_path, capsys, monkeypatch):
    training_only = (Throughput(dimensions=2, base_features=32, macs_per_second=3e9),)
    monkeypatch.setattr(probe, "measure_training_speed", lambda *_: training_only)
    assert main(["doctor", "--device", "cpu", "--measure-speed", str(tmp_path / "speed.json")]) == 0
    assert capsys.readouterr().out == "2D plain U-Net of 32 features: 3.0 GMAC/s in training\n"


def test_a_measurement_that_fails_says_why(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)measuring the speed of cuda:77 failed.*device 'cuda:77' was requested"):
        measure_throughput("cuda:77", ["unet"], tmp_path)


@pytest.mark.slow
def test_a_measurement_in_a_process_of_its_own(tmp_path):
    measured = measure_throughput("cpu", ["unext"], tmp_path)
    assert [(point.dimensions, point.base_features) for point in measured] == [(3, 8), (3, 32), (2, 8), (2, 32)]
    assert list(tmp_path.iterdir()) == []


def test_the_speed_of_gzip_is_measured(monkeypatch):
    monkeypatch.setattr(doctor, "GZIP_SECONDS", 0.01)
    assert re.fullmatch(r"label maps are written with \d+ MB/s \((zlib|ISA-L)\)", doctor._describe_gzip())


def test_the_machine_is_described(capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    assert "device used  cpu" in capsys.readouterr().out


def test_the_json_has_what_the_table_has(capsys):
    assert main(["doctor", "--device", "cpu", "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["machine"]["device used"] == "cpu"
    assert found["workspace"] is None
    rows = [line.strip().split("  ", maxsplit=1) for line in shown.err.splitlines() if not line[:1].isdigit()]
    assert dict(rows) == found["machine"]


def test_cores_memory_disk_and_extras_are_printed(monkeypatch, tmp_path, capsys):
    (tmp_path / "memory.max").write_text("6000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(system, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(doctor, "requires", lambda _name: [
        "numpy>=2", 'connected-components-3d>=3.20; extra == "fast"', 'no-such-package>=1; extra == "fast"',
        "numpy>=2; extra == 'full'", 'pytest>=8.3; extra == "test"',
    ])  # fmt: skip

    def find_version(name):
        if name == "no-such-package":
            raise PackageNotFoundError(name)
        return "3.99"

    monkeypatch.setattr(doctor, "version", find_version)
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = dict(line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["cores"].endswith("; the container has the time of 1.5")
    assert lines["memory"].endswith("; the container may use 6.0 GB")
    assert lines["free disk here"].endswith(" GB")
    assert lines["extra fast"] == (
        "connected-components-3d 3.99; missing: no-such-package (pip install '.[fast]' in the clone)"
    )
    assert lines["extra full"] == "numpy 3.99"
    assert "extra test" not in lines


def test_what_slows_training_down_or_stops_it_is_explained(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(system, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(system, "free_disk_bytes", lambda _folder: 64 * 2**20)
    monkeypatch.setattr(system, "measure_disk_speed", lambda _folder: 9e6)
    monkeypatch.setattr(system, "measure_worker_start", lambda: 41.0)
    monkeypatch.setattr(system, "gpu_memory_gigabytes", lambda _index: 25.8)
    monkeypatch.setattr(system, "gpu_name", lambda _index: "NVIDIA A5000")
    monkeypatch.setattr(system, "gpu_driver", lambda _index: "535.1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = dict(line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["shared memory"] == (
        f"0.1 GB free in {tmp_path}; too small for training on several GPUs at once: start the container with "
        "--shm-size 8g"
    )
    assert lines["disk speed here"].startswith("writes 9 MB/s; slow: ")
    assert lines["worker start"].startswith("41.0 s; slow: ")
    assert lines["GPU"] == (
        f"25.8 GB, NVIDIA A5000, driver 535.1; torch cannot use it: torch {torch.__version__} is built without "
        "CUDA. Install the torch that fits this driver (pytorch.org)"
    )


def test_versions_that_do_not_go_together_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda _name: [
        "numpy>=99", "no-such-package>=1", 'no-such-extra>=1; extra == "fast"', "pytest",
    ])  # fmt: skip

    def refuse(_array):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr("torch.from_numpy", refuse)
    numpy, package, own_torch = doctor._find_version_faults()
    assert numpy.startswith("numpy ")
    assert numpy.endswith(" is installed, numpy>=99 is needed")
    assert package == "no-such-package is missing, no-such-package>=1 is needed"
    assert "(Numpy is not available); install a newer torch" in own_torch
