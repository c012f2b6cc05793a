"""Cores and memory that this process has, on Linux, macOS and Windows, and memory of a GPU; none of it needs torch.

They decide how many workers preprocessing, training and evaluation start, and how much memory prediction plans with.
Tested in tests/test_system.py and tests/cli/test_planning_device.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Linux: limits of the container that this process runs in (control groups, version 2)."""


def count_cores() -> int:
    """Number of cores that this process may use, at least 1."""
    try:
        return len(psutil.Process().cpu_affinity())
    except (AttributeError, OSError, psutil.Error):  # macOS binds no process to cores; a sandbox without /proc
        return os.cpu_count() or 1


def measure_available_memory() -> int | None:
    """Memory in bytes that can be taken without swapping, in the machine and in the container; None where not known."""
    try:
        available = int(psutil.virtual_memory().available)
    except (OSError, psutil.Error):  # a sandbox without /proc
        return None
    container = _container_memory()
    return available if container is None else min(available, container)


def measure_total_memory() -> int:
    """Memory in bytes that the machine has, used or not."""
    return int(psutil.virtual_memory().total)


def measure_resident_memory() -> int | None:
    """Memory in bytes that this process holds now; None where the system does not say it."""
    try:
        return int(psutil.Process().memory_info().rss)
    except (OSError, psutil.Error):
        return None


def measure_peak_memory() -> int:
    """Largest memory in bytes that this process has held since it started."""
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB, macOS in bytes


def container_memory_limit() -> int | None:
    """Memory in bytes that the container may use; None without a limit, or outside of Linux."""
    try:
        maximum = (CONTROL_GROUP / "memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if maximum == "max" else int(maximum)


def container_core_limit() -> float | None:
    """Cores whose time the container may use, such as 1.5; None without a limit, or outside of Linux."""
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text(encoding="ascii").split()
    except OSError:
        return None
    return None if quota == "max" else int(quota) / int(period)


def free_disk_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is on; the folder need not exist yet."""
    existing = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(existing).free


def _container_memory() -> int | None:
    """Memory in bytes that the control group has left; None without a limit. File caches count as taken."""
    maximum = container_memory_limit()
    try:
        current = int((CONTROL_GROUP / "memory.current").read_text(encoding="ascii"))
    except OSError:
        return None
    return None if maximum is None else max(0, maximum - current)


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
