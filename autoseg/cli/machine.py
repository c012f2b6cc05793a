"""What this machine has, found without torch, so that planning stays light."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.files import Record, read_record, write_record

REFERENCE_MEMORY_GIGABYTES = 8.0
"""nnU-Net's reference: its plans are proven at this size, so a larger GPU gets the same plan unless asked."""


class MeasuredThroughput(Record):
    """What `autoseg doctor --measure-speed FILE` writes."""

    throughput: tuple[Throughput, ...]


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_memory_gigabytes() -> float | None:
    """Memory of the first NVIDIA GPU by its driver's own tool; None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:  # a driver that hangs has no GPU to offer
        return None
    lines = answer.stdout.split()
    return float(lines[0]) * 2**20 / 1e9 if answer.returncode == 0 and lines and lines[0].isdigit() else None


def planning_budget(
    device: str, memory_gigabytes: float | None, time_per_fold_seconds: float | None, configurations: tuple[str, ...]
) -> tuple[Budget, str]:
    """Turn options into a budget, and say in one sentence what it was taken from.

    Raises:
        UsageError: If the device's name is unknown.
    """
    kind = device.partition(":")[0]
    if kind not in {"auto", "cpu", "cuda"}:
        raise UsageError(f"--device {device}: unknown; use auto, cpu, cuda or cuda:N")
    found = gpu_memory_gigabytes() if kind == "auto" else None
    if kind == "auto":
        kind = "cpu" if found is None else "cuda"
    memory = memory_gigabytes or min(found or REFERENCE_MEMORY_GIGABYTES, REFERENCE_MEMORY_GIGABYTES)
    budget = Budget(
        device="cuda" if kind == "cuda" else "cpu",
        memory_gigabytes=memory,
        time_per_fold_seconds=time_per_fold_seconds,
        configurations=configurations,
    )
    return budget, _explain(device, kind, found, memory)


def _explain(asked: str, kind: str, found: float | None, memory: float) -> str:
    if asked != "auto":
        return f"Planning for {kind} with {memory:g} GB, as asked."
    if kind == "cuda":
        return f"A GPU with {found:.0f} GB was found: planning for {memory:g} GB of it (--memory changes that)."
    return "No GPU was found: planning for the CPU of this machine (--device cuda plans for a GPU elsewhere)."


def measure_throughput(device: str, folder: Path) -> tuple[Throughput, ...]:
    """Measure training speed in a process of its own, so that planning never loads torch.

    Args:
        device: cpu, cuda or cuda:N.
        folder: Where the measurement's file may lie for a moment.

    Raises:
        UsageError: If the measurement fails; the message holds its output.
    """
    result = folder / ".throughput.json"
    command = [sys.executable, "-m", "autoseg", "doctor", "--device", device, "--measure-speed", str(result)]
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
