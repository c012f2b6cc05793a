"""The checks of a GPU: on a CPU, on the pretended GPU, and what becomes of a check that fails."""

import json
import subprocess
from pathlib import Path
from unittest import mock

import pytest
import torch
from gpu_checks import __main__ as checks
from gpu_checks import memory, results, steps, waits
from gpu_checks.machine import Machine
from gpu_checks.nnunet import check_against_nnunet
from gpu_checks.results import Finding, Outcome, SkippedError, at_least, at_most

from autoseg.costs.memory import estimate_gpu_bytes
from autoseg.networks.devices import choose_device
from tests.gpu.pretended_gpu import PretendedGpu

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_gpu"
NEEDING_A_GPU = {"waits", "memory of plans", "memory over epochs", "too little memory", "compiled"}


@pytest.fixture
def cpu(tmp_path):
    return Machine(torch.device("cpu"), tmp_path, is_tiny=True)


@pytest.fixture
def pretended_gpu(tmp_path):
    """A tiny check's machine with a GPU that is pretended; its allocator has no limits to set."""
    names = ("set_sync_debug_mode", "set_per_process_memory_fraction")
    patches = [mock.patch(f"torch.cuda.{name}", return_value=None) for name in names]
    with PretendedGpu() as gpu, patches[0], patches[1]:
        yield gpu, Machine(choose_device("auto"), tmp_path, is_tiny=True)


@pytest.mark.slow
def test_all_checks_run_on_a_cpu(tmp_path):
    command = [str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / results.RESULTS_NAME).read_text())
    assert [check["check"] for check in found["checks"]] == [check.name for check in checks.CHECKS]
    skipped = {check["check"] for check in found["checks"] if check["skipped"]}
    assert NEEDING_A_GPU <= skipped <= NEEDING_A_GPU | {"against nnU-Net", "Hippocampus"}
    assert not any(check["error"] for check in found["checks"])
    assert all(check["findings"] for check in found["checks"] if not check["skipped"])
    for check in checks.CHECKS:  # a line for each, as soon as it is done
        assert f"\n{check.name}" in f"\n{run.stdout}"


def test_a_check_that_fails_does_not_stop_the_others(cpu):
    def fail(_machine):
        raise ValueError("a reason")

    outcome = checks._make(checks.Check("x", fail, 1.0), cpu, 10.0)
    assert outcome.error.startswith("ValueError: a reason\n")
    assert outcome.has_failed()
    assert "FAILED" in outcome.describe()


def test_a_check_that_cannot_be_made_says_why(cpu):
    def skip(machine):
        machine.need_cuda()

    outcome = checks._make(checks.Check("x", skip, 1.0), cpu, 10.0)
    assert outcome.skipped == "this is measured on a CUDA device only, not on cpu"
    assert not outcome.has_failed()


def test_no_check_begins_that_needs_more_time_than_is_left(tmp_path):
    machine = Machine(torch.device("cpu"), tmp_path)
    make = mock.Mock(return_value=[], __doc__="")
    check = checks.Check("x", make, 20.0)
    assert checks._make(check, machine, 5.0).skipped == "it takes about 20 s; --only makes it alone"
    assert not checks._make(check, machine, 50.0).skipped
    make.assert_called_once()


@pytest.mark.parametrize(
    ("finding", "is_reached"),
    [(at_most("a", 2.0, 2.0), True), (at_most("a", 2.1, 2.0), False), (at_least("a", 1.9, 2.0), False)],
)
def test_aims_are_reached_or_missed(finding, is_reached, cpu):
    assert finding.is_reached is is_reached
    assert Outcome("x", "", findings=[finding]).has_failed() is not is_reached
    assert cpu.judge(finding).is_reached is None


def test_results_are_complete_json_after_every_check(tmp_path):
    first = Outcome("a", "Is it so?", 1.0, [Finding("loss", float("nan")), Finding("speed", 2.0, "TMAC/s")])
    results.write_results([first], {"device": "cpu"}, tmp_path)
    results.write_results([first, Outcome("b", "", skipped="no GPU")], {"device": "cpu"}, tmp_path)
    found = json.loads((tmp_path / results.RESULTS_NAME).read_text())
    assert [check["check"] for check in found["checks"]] == ["a", "b"]
    assert found["checks"][0]["findings"][0]["value"] == "nan"
    assert [path.name for path in tmp_path.iterdir()] == [results.RESULTS_NAME]


def test_memory_and_waits_are_measured_on_a_gpu(pretended_gpu, monkeypatch):
    monkeypatch.setattr(memory, "EPOCHS", 3)
    _, machine = pretended_gpu
    names = {finding.name: finding for finding in waits.check_waits(machine)}
    assert names["waits in 8 training steps"].value == 0
    assert memory.check_epochs(machine)[-1].is_reached
    assert "fitted" in memory.check_too_little_memory(machine)[0].value_text()
    found = {finding.name for finding in steps.check_layouts(machine)}
    assert {"as trained", "contiguous", "channels last, peak of tensors"} <= found


def test_memory_of_plans_is_compared_with_what_was_measured(pretended_gpu):
    _, machine = pretended_gpu
    used = 2.0e9
    with (
        mock.patch.object(memory, "bare_step"),
        mock.patch("torch.cuda.mem_get_info", return_value=(80e9 - used, 80e9)),
    ):
        found = {finding.name: finding for finding in memory.check_estimates(machine)}
    assert len(found) == 6 * len(memory.PLANNED)
    for planned in memory.PLANNED:
        estimated = float(found[f"{planned.name}, estimated"].value)
        of_tensors = abs(estimated / (2**30 / 1e9) - 1)  # what the pretended GPU says of its peak
        assert found[f"{planned.name}, error of the estimate"].value == pytest.approx(of_tensors)
        of_gpu = abs((estimated + estimate_gpu_bytes(0) / 1e9) / (used / 1e9) - 1)
        assert found[f"{planned.name}, of the GPU, error"].value == pytest.approx(of_gpu)


def test_plans_that_do_not_fit_are_not_measured(pretended_gpu):
    _, machine = pretended_gpu
    with (
        mock.patch.object(memory, "bare_step"),
        mock.patch("torch.cuda.mem_get_info", return_value=(10e9, 12e9)),
    ):
        names = {finding.name for finding in memory.check_estimates(machine)}
    assert {"unet 3D, measured", "resenc-l 3D, estimated"} <= names
    assert "resenc-l 3D, measured" not in names


def test_an_error_of_memory_is_recognised(pretended_gpu):
    _, machine = pretended_gpu
    error = torch.OutOfMemoryError("CUDA out of memory.")
    with mock.patch.object(memory, "train_epoch", side_effect=error):
        ends, works = memory.check_too_little_memory(machine)
    assert ends.is_reached
    assert works.is_reached


def test_nnunet_is_skipped_where_it_is_not_installed(cpu):
    with mock.patch.dict("sys.modules", {"dynamic_network_architectures": None}), pytest.raises(SkippedError):
        check_against_nnunet(cpu)
