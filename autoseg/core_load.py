"""How much of the cores other programs use: all that the cores did, less what this process did itself.

Tested in tests/test_core_load.py.
"""

import time
from dataclasses import dataclass

import psutil

from autoseg.system import container_core_limit

WORKING = ("user", "system", "irq", "softirq", "steal")
"""Times of a core in which it worked, here or for another guest of the same hardware; guests' own are among `user`."""

POLITE = "nice"
"""Time of a core that went to programs which give way to others; they count for programs that give way as well."""

MIN_LOAD = 0.25
"""Cores that other programs use from which on they count: less is what a desktop does all the time."""


@dataclass(frozen=True)
class CoreTimes:
    """What the clocks showed at one moment; only differences of two moments mean something."""

    wall_seconds: float
    busy_seconds: float
    """Time that the cores which this process may use have worked for programs that give way to no other, summed over
    cores; for a process that gives way itself (nice), for all programs."""
    own_seconds: float
    """Time that they have worked for this process, its worker processes not included."""
    cores: int
    """Number of these cores."""


def read_core_times() -> CoreTimes | None:
    """Read the clocks of all cores that this process may use; None where the system does not show them."""
    try:
        cores, process = psutil.cpu_times(percpu=True), psutil.Process()
        usable = _usable_cores(process, len(cores))
        names = (*WORKING, POLITE) if process.nice() > 0 else WORKING
    except (AttributeError, OSError, psutil.Error):  # a sandbox without /proc
        return None
    busy = sum(getattr(cores[number], name, 0.0) for number in usable for name in names)
    return CoreTimes(time.perf_counter(), busy, time.process_time(), len(usable))


def others_load(earlier: CoreTimes, later: CoreTimes) -> float:
    """Cores that other programs used between two moments, such as 0.7; 0 when no time has passed."""
    seconds = later.wall_seconds - earlier.wall_seconds
    others = (later.busy_seconds - earlier.busy_seconds) - (later.own_seconds - earlier.own_seconds)
    return max(others / seconds, 0.0) if seconds > 0 else 0.0


def measure_others_load(seconds: float) -> float | None:
    """Cores that other programs use while this one waits for some seconds; None where the system does not show it."""
    before = read_core_times()
    if before is None:
        return None
    time.sleep(seconds)
    after = read_core_times()
    return None if after is None else others_load(before, after)


def free_cores(load: float, cores: int) -> float:
    """Cores that other programs leave, in a container with a limit at most that many; may be below 0."""
    limit = container_core_limit()
    return cores - load if limit is None else min(cores - load, limit)


def _usable_cores(process: psutil.Process, count: int) -> list[int]:
    """Numbers of the cores that this process may use; all, where the container numbers its own."""
    bound = process.cpu_affinity() if hasattr(process, "cpu_affinity") else None  # macOS binds no process to cores
    return list(bound) if bound and max(bound) < count else list(range(count))
