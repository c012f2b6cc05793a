"""Wall time and peak memory of a command, its child processes included; Linux."""

import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 0.2


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    cpu_seconds: float
    """Processor time of all its processes, user and system."""
    peak_bytes: int
    """Largest sample of the proportional set sizes (shared pages divided among those who share them), summed."""
    output: str
    """Standard output and error."""


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command to its end.

    Raises:
        SystemExit: If it fails; shows its output.
    """
    peak = 0
    began, cpu_before = time.perf_counter(), _cpu_seconds_of_children()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        seconds = time.perf_counter() - began
        reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(lines[-40:])}")
    return Usage(seconds, _cpu_seconds_of_children() - cpu_before, peak, "".join(lines))


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree_bytes(root: int) -> int:
    """Memory of a process and all that descend from it, as of now."""
    total = 0
    for folder in process_folders(root):
        with suppress(OSError):  # processes end at any time
            for line in (folder / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def process_folders(root: int) -> Iterator[Path]:
    """Folders in /proc of a process and all that descend from it, as of now."""
    waiting = [root]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        yield folder
        with suppress(OSError):  # processes end at any time
            for children in folder.glob("task/*/children"):
                waiting += [int(number) for number in children.read_text().split()]
