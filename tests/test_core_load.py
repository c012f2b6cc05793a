"""How much of the cores other programs use."""

import multiprocessing
import time

import psutil
import pytest

from autoseg import core_load
from autoseg.core_load import CoreTimes, free_cores, measure_others_load, others_load, read_core_times


def test_load_is_what_the_cores_did_and_this_process_did_not() -> None:
    earlier = CoreTimes(wall_seconds=100.0, busy_seconds=50.0, own_seconds=7.0, cores=4)
    later = CoreTimes(wall_seconds=102.0, busy_seconds=55.0, own_seconds=8.0, cores=4)

    assert others_load(earlier, later) == 2.0  # 5 seconds less 1 of its own, in 2


def test_clocks_that_disagree_show_no_load() -> None:
    moment = CoreTimes(wall_seconds=1.0, busy_seconds=1.0, own_seconds=1.0, cores=1)

    assert others_load(moment, moment) == 0.0
    assert others_load(moment, CoreTimes(2.0, 1.5, 2.0, 1)) == 0.0  # ticks of 10 ms may lag behind


def test_a_limit_of_the_container_leaves_no_more_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_load, "container_core_limit", lambda: 2.0)

    assert free_cores(30.0, 64) == 2.0
    assert free_cores(63.5, 64) == 0.5


def test_cores_that_this_process_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [psutil.cpu_times()._replace(user=number, nice=0, system=0, idle=50) for number in (10.0, 200.0, 3000.0)]
    for name in ("irq", "softirq", "steal"):
        times = [core._replace(**{name: 0.0}) if hasattr(core, name) else core for core in times]
    monkeypatch.setattr(psutil, "cpu_times", lambda *, percpu: times)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: [0, 2], raising=False)

    read = read_core_times()

    assert read is not None
    assert (read.busy_seconds, read.cores) == (3010.0, 2)


def test_a_system_that_shows_nothing_has_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", refuse)

    assert read_core_times() is None
    assert measure_others_load(0.0) is None


def _keep_busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.slow
def test_a_busy_process_is_seen_and_this_one_is_not() -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_keep_busy, args=(6.0,))
    worker.start()
    earlier = read_core_times()
    _keep_busy(4.0)
    later = read_core_times()
    worker.join()

    assert earlier is not None
    assert later is not None
    assert later.own_seconds - earlier.own_seconds > 0.5
    assert 0.3 < others_load(earlier, later) <= later.cores + 0.1
