"""How much of the cores other programs use."""

import multiprocessing
import time
from types import SimpleNamespace

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


@pytest.mark.parametrize(("own_nice", "busy"), [(0, 3016.0), (-5, 3016.0), (10, 3096.0)])
def test_cores_that_this_process_may_not_use_and_polite_programs_do_not_count(
    monkeypatch: pytest.MonkeyPatch, own_nice: int, busy: float
) -> None:
    times = [
        SimpleNamespace(user=user, nice=40.0, system=1.0, idle=50.0, iowait=7.0, irq=0.5, softirq=0.5, steal=1.0)
        for user in (10.0, 200.0, 3000.0)
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda *, percpu: times)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _: [0, 2], raising=False)
    monkeypatch.setattr(psutil.Process, "nice", lambda _: own_nice)

    read = read_core_times()

    assert read is not None
    assert (read.busy_seconds, read.cores) == (busy, 2)


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
