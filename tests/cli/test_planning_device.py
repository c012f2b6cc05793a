"""What is planned for, on machines with and without a GPU; the driver's tool is a script that answers as it does."""

import stat

import pytest

from autoseg.cli.planning_request import describe_device, find_device
from autoseg.errors import UsageError
from autoseg.system import gpu_busy_fraction, gpu_memory_gigabytes, gpu_name


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """A tool that knows a GPU of 24,576 MiB and one of 81,920 MiB."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\ncase "$1" in --id=0) echo 24576;; --id=1) echo 81920;; *) echo "No devices"; exit 6;; esac\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_memory_is_that_of_the_gpu_asked_for(two_gpus):
    assert gpu_memory_gigabytes() == pytest.approx(25.77, abs=0.01)
    assert gpu_memory_gigabytes(1) == pytest.approx(85.90, abs=0.01)
    assert gpu_memory_gigabytes(2) is None


def test_name_and_load_of_a_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$2" in *=name) echo "NVIDIA H200";; *=utilization.gpu) echo 37;; esac\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (gpu_name(), gpu_busy_fraction()) == ("NVIDIA H200", 0.37)
    tool.write_text('#!/bin/sh\necho "[N/A]"\n')
    assert gpu_busy_fraction() is None


def test_without_a_gpu_there_is_no_name(no_gpu):
    assert (gpu_name(), gpu_busy_fraction()) == ("", None)


@pytest.mark.parametrize(("asked", "name"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1")])
def test_a_gpu_that_is_here(two_gpus, asked, name):
    device = find_device(asked)
    assert (device.kind, device.is_here, device.name) == ("cuda", True, name)
    assert device.gpu_gigabytes == pytest.approx(85.90 if asked == "cuda:1" else 25.77, abs=0.01)


def test_a_cpu_has_no_gpu_memory(two_gpus, monkeypatch):
    device = find_device("cpu")
    assert (device.kind, device.is_here, device.name, device.gpu_gigabytes) == ("cpu", True, "cpu", None)


@pytest.mark.parametrize("asked", ["cuda", "cuda:1"])
def test_a_gpu_elsewhere_cannot_be_measured(no_gpu, asked):
    device = find_device(asked)
    assert (device.kind, device.is_here, device.gpu_gigabytes) == ("cuda", False, None)


def test_without_a_gpu_auto_is_the_cpu(no_gpu):
    device = find_device("auto")
    assert (device.kind, device.is_here, device.name) == ("cpu", True, "cpu")


@pytest.mark.parametrize(
    "asked", ["tpu", "cpu:1", "cuda:x", "cuda:", "cuda:²", "cuda:١", "cuda:1\n", "auto:0", "auto:", "", "mps:0", "xpu:"]
)
def test_an_unknown_device(no_gpu, asked):
    with pytest.raises(UsageError, match=f"--device {asked}: unknown; use auto, cpu, cuda or cuda:N"):
        find_device(asked)


@pytest.mark.parametrize(("asked", "kind"), [("mps", "mps"), ("xpu", "xpu"), ("xpu:1", "xpu")])
def test_gpus_of_other_makers_are_planned_for_by_name(two_gpus, asked, kind):
    device = find_device(asked)
    assert (device.kind, device.name, device.gpu_gigabytes, device.is_here) == (kind, asked, None, False)
    assert describe_device(device, 16.0) == (
        f"Planning for a GPU of the type {kind}, whose memory is not asked for, with 16 GB as asked."
    )


def test_the_sentence_names_what_was_found(two_gpus):
    assert describe_device(find_device("auto"), None).startswith(
        "A GPU with 26 GB was found: planning for it (--memory"
    )
    assert (
        describe_device(find_device("auto"), 11.0)
        == "A GPU with 26 GB was found: planning for it, with 11 GB as asked."
    )
    assert describe_device(find_device("cpu"), None) == "Planning for the CPU of this machine."


def test_the_sentence_says_when_nothing_was_found(no_gpu):
    assert describe_device(find_device("auto"), None) == (
        "No GPU was found: planning for the CPU of this machine (--device cuda plans for a GPU elsewhere)."
    )
    assert describe_device(find_device("cuda"), 24.0) == (
        "There is no such GPU here: planning for a GPU elsewhere, with 24 GB as asked."
    )
