"""Cores, memory and parent of this process, on Linux, macOS and Windows, and memory of a GPU; none of it needs torch.

They decide how many workers preprocessing, training and evaluation start, and how much memory prediction plans with.
Tested in tests/test_system.py, tests/cli/test_planning_device.py and tests/test_processes.py.
"""

import math
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import psutil

from autoseg.records.encoders import ENCODER_WEIGHTS, EncoderName

ThreadOption = int | Literal["auto", "all"]
"""A number of threads that networks compute with on a CPU, `all` that the machine gives, or `auto`: the fastest."""

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Linux: limits of the container that this process runs in (control groups, version 2)."""

OWN_CONTROL_GROUPS = Path("/proc/self/cgroup")
"""Linux: names of the control groups that this process is in."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (looked at, not written to)
"""Linux: file system in memory, through which processes hand each other arrays."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Linux: random text of each start of the system."""

PID_NAMESPACE = Path("/proc/self/ns/pid")
"""Linux: link whose target names the name space of process numbers; containers have their own."""


def count_cores() -> int:
    """Number of cores that this process may use, at least 1; in a container with a limit, at most that many."""
    try:
        cores = len(psutil.Process().cpu_affinity())
    except (AttributeError, OSError, psutil.Error):  # macOS binds no process to cores; a sandbox without /proc
        cores = os.cpu_count() or 1
    limit = container_core_limit()
    return cores if limit is None else min(cores, math.ceil(limit))


def count_threads() -> int:
    """Threads that numerical libraries use: OMP_NUM_THREADS, which they obey, else one for each core."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) > 0 else count_cores()


def processor_name() -> str:
    """Name of the processor, such as `Intel(R) Xeon(R) CPU @ 2.20GHz`; its architecture where no more is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def user_cache_folder() -> Path | None:
    """Folder of files that this user's programs can make again; None where the user has no home.

    It is `XDG_CACHE_HOME` where that is set (XDG Base Directory Specification); else `~/Library/Caches` on macOS,
    `%LOCALAPPDATA%` on Windows, `~/.cache` on other systems.
    """
    asked = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if asked.is_absolute():
        return asked
    folders = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    try:
        return Path(folders.get(sys.platform, "~/.cache")).expanduser()
    except RuntimeError:
        return None


def find_encoder_weights(name: EncoderName) -> Path | None:
    """File of an encoder's published weights, in the installed package that has it; None: it is not installed."""
    weights = ENCODER_WEIGHTS[name]
    try:
        path = Path(str(distribution(weights.package).locate_file(weights.file)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def is_installed(name: str) -> bool:
    """Whether a distribution is installed, by the name that pip knows."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def find_installed_weights() -> tuple[EncoderName, ...]:
    """Encoders whose published weights are installed here."""
    return tuple(name for name in ENCODER_WEIGHTS if find_encoder_weights(name) is not None)


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
    """Cores whose time the container may use, such as 1.5; None without a limit, or outside of Linux.

    Limits of the groups around the container's own count too, as far as they are seen; so does one of version 1.
    """
    limits = [_core_limit(folder / "cpu.max") for folder in _control_groups()]
    limits.append(_core_limit(CONTROL_GROUP / "cpu" / "cpu.cfs_quota_us", CONTROL_GROUP / "cpu" / "cpu.cfs_period_us"))
    return min((limit for limit in limits if limit is not None), default=None)


def _control_groups() -> list[Path]:
    """Folders of the control group of this process and of those around it (version 2)."""
    try:
        lines = OWN_CONTROL_GROUPS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")]
    folder = CONTROL_GROUP.joinpath(*names)
    return [place for place in (folder, *folder.parents) if place.is_relative_to(CONTROL_GROUP)]


def _core_limit(*files: Path) -> float | None:
    """Time in microseconds that a group may use in each period, divided by the period, from a file or a file each."""
    try:
        quota, period = " ".join(file.read_text(encoding="ascii") for file in files).split()
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def process_start(pid: int) -> float | None:
    """Start of a process, seconds after that of the system; None if it does not run, or waits for its parent to notice.

    Together with the number it names one process: numbers are given again.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time()) - float(psutil.boot_time())
    except psutil.NoSuchProcess:
        return None


def host_name() -> str:
    """Name of this machine in its network."""
    return platform.node() or "unknown"


def machine_id() -> str:
    """Text that two processes share if they see each other's process numbers: one start of one machine or container.

    Linux knows its start and the name space of process numbers; elsewhere the machine's name has to do.
    """
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
        return f"{boot} {PID_NAMESPACE.readlink()}"
    except OSError:
        return host_name()


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


def measure_disk_speed(folder: Path, size: int = 64 * 2**20) -> float:
    """Bytes a second that a folder's disk takes; writes a temporary file of `size` bytes. The folder must exist.

    Raises:
        OSError: If it cannot be written to.
    """
    block = os.urandom(2**20)
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(0, size, len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return size / (time.monotonic() - began)


def measure_worker_start() -> float:
    """Seconds that a new Python process takes until it could read images."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import autoseg.imaging.datasets.cases"], check=False)
    return time.monotonic() - began


def gpu_memory_gigabytes(index: int = 0) -> float | None:
    """Memory of an NVIDIA GPU by its driver's own tool; None where there is no such GPU."""
    answer = _ask_driver(index, "memory.total")
    return float(answer) * 2**20 / 1e9 if answer.isdecimal() else None


def gpu_name(index: int = 0) -> str:
    """Name of an NVIDIA GPU by its driver's own tool; empty where there is no such GPU."""
    return _ask_driver(index, "name")


def gpu_driver(index: int = 0) -> str:
    """Version of the driver of an NVIDIA GPU; empty where there is no such GPU."""
    return _ask_driver(index, "driver_version")


def gpu_busy_fraction(index: int = 0) -> float | None:
    """Fraction of the last moments in which an NVIDIA GPU was working, in [0, 1]; None where it is not known."""
    answer = _ask_driver(index, "utilization.gpu")
    return min(1.0, float(answer) / 100) if answer.isdecimal() else None


def _ask_driver(index: int, question: str) -> str:
    """The driver's answer about one GPU, without unit; empty where there is none.

    GPUs count as for CUDA, which may be shown some of them only.
    """
    tool, shown = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if shown is None else [name.strip() for name in shown.split(",") if name.strip()]
    if tool is None or (names is not None and index >= len(names)):
        return ""
    query = [
        tool,
        f"--id={index if names is None else names[index]}",
        f"--query-gpu={question}",
        "--format=csv,noheader,nounits",
    ]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:  # a driver that hangs has no GPU to offer
        return ""
    lines = answer.stdout.strip().splitlines()
    return lines[0].strip() if answer.returncode == 0 and lines else ""


def leave_signals_to_parent(names: Sequence[str], when_it_is_gone: Callable[[], None]) -> None:
    """Ignore signals in a worker process, not by the handlers that it inherited, and watch the parent.

    A signal to the whole group of processes (a terminal's, torchrun's, a batch system's) is the parent's to answer: it
    ends its workers when it is ready.

    Args:
        names: Signals to ignore; those that the system does not have are left out.
        when_it_is_gone: Called in a thread when the parent has ended; nobody is left to speak to.
    """
    for name in names:
        if hasattr(signal, name):  # Windows has only some of them
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_await_end, args=(parent, when_it_is_gone), daemon=True).start()


def _await_end(parent: BaseProcess, when_it_is_gone: Callable[[], None]) -> None:
    parent.join()
    when_it_is_gone()
