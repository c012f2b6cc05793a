import math
import os
import subprocess
import sys
import types

import numpy as np
import psutil
import pytest

from autoseg import system


@pytest.fixture
def no_control_group(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "CONTROL_GROUP", tmp_path)


@pytest.fixture
def process(monkeypatch):
    """A process of a system that answers less than Linux does; a test says what."""

    def put(**answers):
        monkeypatch.setattr(psutil, "Process", lambda: types.SimpleNamespace(**answers))

    return put


def test_cores_are_those_that_the_process_is_bound_to(process):
    process(cpu_affinity=lambda: [2, 5, 7])
    assert system.count_cores() == 3


def test_cores_are_all_of_the_machine_where_no_process_is_bound(process, monkeypatch):
    process()
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert system.count_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.count_cores() == 1


def test_a_bound_process_counts_its_cores():
    if not hasattr(psutil.Process(), "cpu_affinity"):
        pytest.skip("this system binds no process to cores")
    code = "import psutil, autoseg.system as system; psutil.Process().cpu_affinity([0]); print(system.count_cores())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "1"


@pytest.mark.usefixtures("no_control_group")
def test_available_memory_is_what_the_machine_has_without_swapping(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=123))
    assert system.measure_available_memory() == 123


@pytest.mark.parametrize(
    ("maximum", "current", "expected"), [("max", 40, 1000), ("140", 40, 100), ("5000", 40, 1000), ("30", 40, 0)]
)
def test_a_container_may_have_less_memory_than_the_machine(monkeypatch, tmp_path, maximum, current, expected):
    monkeypatch.setattr(system, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1000))
    (tmp_path / "memory.max").write_text(f"{maximum}\n")
    (tmp_path / "memory.current").write_text(f"{current}\n")
    assert system.measure_available_memory() == expected


def test_memory_that_the_system_does_not_say_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "no_proc"))
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has /proc")
    assert system.measure_available_memory() is None
    assert system.measure_resident_memory() is None
    assert system.measure_peak_memory() > 0
    assert system.count_cores() >= 1


def test_resident_memory_grows_with_what_is_held():
    code = (  # in a process of its own: one that ran other tests reuses memory that they freed
        "import numpy as np; from autoseg.system import measure_resident_memory; before = measure_resident_memory();"
        "held = np.ones(50_000_000, np.uint8); print(measure_resident_memory() - before, held[-1])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth, last = map(int, answer.stdout.split())
    assert 45_000_000 < growth < 80_000_000
    assert last == 1


def test_peak_memory_is_in_bytes_and_stays():
    held = np.ones(200_000_000, np.uint8)
    assert held[-1] == 1
    del held
    assert 200_000_000 < system.measure_peak_memory() < 20_000_000_000


def test_macos_counts_the_peak_in_bytes(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda _who: types.SimpleNamespace(ru_maxrss=700))
    monkeypatch.setattr(sys, "platform", "linux")
    assert system.measure_peak_memory() == 700 * 1024
    monkeypatch.setattr(sys, "platform", "darwin")
    assert system.measure_peak_memory() == 700


@pytest.mark.parametrize(("memory", "expected"), [({"rss": 5, "peak_wset": 9}, 9), ({"rss": 5}, 5)])
def test_windows_asks_for_the_peak_of_the_working_set(monkeypatch, process, memory, expected):
    monkeypatch.setitem(sys.modules, "resource", None)
    process(memory_info=lambda: types.SimpleNamespace(**memory))
    assert system.measure_peak_memory() == expected


def test_a_container_without_limits_has_none(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(system, "CONTROL_GROUP", tmp_path)
    assert system.container_memory_limit() is None
    assert system.container_core_limit() is None


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n", "slice/cpu.max": "100000 100000\n"}, 1.0),
        ({"slice/cpu.max": "300000 100000\n", "slice/job/cpu.max": "400000 100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_a_container_may_have_the_time_of_fewer_cores_than_it_sees(process, monkeypatch, tmp_path, files, limit):
    process(cpu_affinity=lambda: list(range(8)))
    monkeypatch.setattr(system, "CONTROL_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(system, "OWN_CONTROL_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("9:name=systemd:/\n0::/slice/job\n")
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    assert system.container_core_limit() == limit
    assert system.count_cores() == (8 if limit is None else math.ceil(limit))


@pytest.mark.usefixtures("no_control_group")
def test_without_a_control_group_there_is_no_limit():
    assert system.container_memory_limit() is None
    assert system.container_core_limit() is None


def test_free_space_is_that_of_the_disk_even_before_the_folder_exists(tmp_path):
    there, missing = system.free_disk_bytes(tmp_path), system.free_disk_bytes(tmp_path / "a" / "b")
    assert 0 < missing == pytest.approx(there, rel=0.1)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/home/anna/.cache"),
        ("linux", {"XDG_CACHE_HOME": "/fast/cache"}, "/fast/cache"),
        ("linux", {"XDG_CACHE_HOME": "relative/is/not/allowed"}, "/home/anna/.cache"),
        ("darwin", {}, "/home/anna/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/users/anna/local"}, "/users/anna/local"),
        ("win32", {}, "/home/anna/AppData/Local"),
    ],
)
def test_the_folder_of_caches_is_that_of_the_system(monkeypatch, platform, variables, expected):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/anna", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert str(system.user_cache_folder()) == expected


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("4,2", 4), ("", 6), ("0", 6), ("many", 6)])
def test_threads_are_those_that_libraries_use(monkeypatch, asked, expected):
    monkeypatch.setattr(system, "count_cores", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert system.count_threads() == expected


def test_the_processor_has_a_name():
    assert system.processor_name() not in {"", "unknown"}


def test_a_process_has_one_start_and_one_that_ended_has_none():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        own, started = system.process_start(os.getpid()), system.process_start(process.pid)
        assert own is not None
        assert started is not None
        assert own < started
        process.kill()
        while process.returncode is None and system.process_start(process.pid) is not None:
            pass  # dead, but not yet noticed by its parent, is over as well
    assert system.process_start(process.pid) is None


def test_a_machine_without_proc_is_told_by_its_name(monkeypatch, tmp_path):
    assert system.host_name() not in system.machine_id()
    monkeypatch.setattr(system, "BOOT_ID", tmp_path / "boot_id")
    assert system.machine_id() == system.host_name() != ""


def test_a_disk_and_a_worker_are_measured(tmp_path):
    assert system.measure_disk_speed(tmp_path, size=2**20) > 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="nowhere"):
        system.measure_disk_speed(tmp_path / "nowhere")
    assert system.measure_worker_start() > 0


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver's tool that answers with the GPU it is asked about."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "card ${1#--id=}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("shown", "index", "expected"),
    [
        (None, 1, "card 1"),
        ("", 0, ""),
        ("2", 0, "card 2"),
        ("2, 5", 1, "card 5"),
        ("2", 1, ""),
        ("GPU-1f2e", 0, "card GPU-1f2e"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the pretended tool is a shell script")
def test_gpus_count_as_for_cuda_which_may_be_shown_some_only(monkeypatch, driver, shown, index, expected):
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert system.gpu_name(index) == expected
