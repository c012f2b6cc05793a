"""What this machine has, found without torch, so that planning stays light."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoseg.errors import UsageError
from autoseg.records.budget import Throughput
from autoseg.records.files import Record, read_record, write_record
from autoseg.records.network import Architecture


class MeasuredThroughput(Record):
    """What `autoseg doctor --measure-speed FILE` writes."""

    throughput: tuple[Throughput, ...]


@dataclass(frozen=True)
class PlanningDevice:
    """Device that a plan is made for."""

    asked: str
    """Name that the user gave: auto, cpu, cuda, cuda:N."""
    kind: Literal["cpu", "cuda"]
    gpu_gigabytes: float | None
    """Memory of the GPU here; None: a CPU is planned for, or the GPU is elsewhere."""

    @property
    def is_here(self) -> bool:
        """Whether this machine has it, so that it can be measured."""
        return self.kind == "cpu" or self.gpu_gigabytes is not None

    @property
    def name(self) -> str:
        """Name that torch knows."""
        return self.kind if self.asked == "auto" else self.asked


def gpu_memory_gigabytes(index: int = 0) -> float | None:
    """Memory of an NVIDIA GPU by its driver's own tool; None where there is no such GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--id={index}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:  # a driver that hangs has no GPU to offer
        return None
    lines = answer.stdout.split()
    return float(lines[0]) * 2**20 / 1e9 if answer.returncode == 0 and lines and lines[0].isdigit() else None


def find_device(asked: str) -> PlanningDevice:
    """Find out what to plan for.

    Args:
        asked: auto (a GPU when there is one, else the CPU), cpu, cuda or cuda:N; the GPU may be elsewhere.

    Raises:
        UsageError: If the device's name is unknown.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]+))?", asked)
    if match is None:
        raise UsageError(f"--device {asked}: unknown; use auto, cpu, cuda or cuda:N")
    found = None if asked == "cpu" else gpu_memory_gigabytes(int(match[1] or 0))
    is_gpu = asked.startswith("cuda") or found is not None
    return PlanningDevice(asked=asked, kind="cuda" if is_gpu else "cpu", gpu_gigabytes=found)


def describe_device(device: PlanningDevice, memory_gigabytes: float | None) -> str:
    """Say in one sentence what is planned for, and with how much memory.

    Args:
        device: What was found.
        memory_gigabytes: What the user allowed; None: left to the planner.
    """
    memory = "" if memory_gigabytes is None else f", with {memory_gigabytes:g} GB as asked"
    if device.kind == "cpu":
        hint = "" if device.asked == "cpu" else " (--device cuda plans for a GPU elsewhere)"
        found = "Planning for the CPU" if device.asked == "cpu" else "No GPU was found: planning for the CPU"
        return f"{found} of this machine{memory}{hint}."
    hint = "" if memory else " (--memory says how much of it a training may use)"
    if device.gpu_gigabytes is None:
        return f"There is no such GPU here: planning for a GPU elsewhere{memory}{hint}."
    return f"A GPU with {device.gpu_gigabytes:.0f} GB was found: planning for it{memory}{hint}."


def measure_throughput(device: str, architectures: Sequence[Architecture], folder: Path) -> tuple[Throughput, ...]:
    """Measure the speed of training and prediction in a process of its own, so that planning never loads torch.

    Args:
        device: cpu, cuda or cuda:N.
        architectures: Architectures to be measured.
        folder: Where the measurement's file may lie for a moment.

    Raises:
        UsageError: If the measurement fails; the message holds its output.
    """
    result = folder / ".throughput.json"
    command = [
        sys.executable, "-m", "autoseg", "doctor",
        "--device", device, "--measure-speed", str(result), "--architectures", *architectures,
    ]  # fmt: skip
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise UsageError(f"measuring the speed of {device} failed:\n{answer.stdout}{answer.stderr}")
    try:
        return read_record(MeasuredThroughput, result).throughput
    finally:
        result.unlink(missing_ok=True)


def save_throughput(throughput: tuple[Throughput, ...], path: Path) -> None:
    """Write what `measure_throughput` reads."""
    write_record(MeasuredThroughput(throughput=throughput), path)
