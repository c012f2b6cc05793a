"""The speed of the machine: when it is measured, kept, used and measured again."""

import json
import logging

import pytest

from autoseg.cli import speed
from autoseg.cli.planning_request import PlanningDevice
from autoseg.cli.speed import time_product
from autoseg.progress import no_bar
from autoseg.records.budget import KeptSpeed, Throughput
from autoseg.records.files import read_record

CPU = PlanningDevice(asked="cpu", kind="cpu", gpu_gigabytes=None)
GPU = PlanningDevice(asked="cuda:1", kind="cuda", gpu_gigabytes=26.0)


class Machine:
    """A machine whose speed and load a test sets."""

    def __init__(self):
        self.macs_per_second = 1e9
        self.product_seconds = 0.004
        self.gpu_busy_fraction = 0.0
        self.load: float | None = 0.0
        self.measured: list[tuple[str, ...]] = []

    def measure(self, _device, architectures, _folder, _progress):
        self.measured.append(tuple(architectures))
        return tuple(
            Throughput(architecture=name, dimensions=3, base_features=8, macs_per_second=self.macs_per_second)
            for name in architectures
        )

    def find_speed(self, *architectures, device=CPU, measure_again=False):
        return speed.find_speed(device, architectures, measure_again=measure_again, bar=no_bar)


@pytest.fixture
def machine(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    machine = Machine()
    monkeypatch.setattr(speed, "measure_throughput", machine.measure)
    monkeypatch.setattr(speed, "time_product", lambda: machine.product_seconds)
    monkeypatch.setattr(speed, "gpu_busy_fraction", lambda _index: machine.gpu_busy_fraction)
    monkeypatch.setattr(speed, "measure_others_load", lambda _seconds: machine.load)
    monkeypatch.setattr(speed, "count_cores", lambda: 2)
    monkeypatch.setattr(speed, "gpu_name", lambda index: f"GPU {index}")
    return machine


def kept_file(cache):
    (path,) = (cache / "autoseg").iterdir()
    return path


def test_a_measurement_is_kept_for_the_next_plan(machine, cache, caplog):
    first = machine.find_speed("unet")
    machine.macs_per_second = 7e12
    assert machine.find_speed("unet") == first
    assert machine.measured == [("unet",)]
    assert "using the speed measured on 20" in caplog.messages[-1]
    assert "(--measure-again measures it again)" in caplog.messages[-1]
    assert read_record(KeptSpeed, kept_file(cache)).throughput == first


def test_only_the_missing_architecture_is_measured(machine, cache):
    machine.find_speed("unet", "unext")
    points = machine.find_speed("residual_unet", "unet")
    assert machine.measured == [("unet", "unext"), ("residual_unet",)]
    assert [point.architecture for point in points] == ["unet", "residual_unet"]
    assert len(read_record(KeptSpeed, kept_file(cache)).throughput) == 3


def test_the_user_can_ask_for_a_new_measurement(machine):
    machine.find_speed("unet")
    machine.macs_per_second = 3e9
    assert machine.find_speed("unet", measure_again=True)[0].macs_per_second == 3e9
    assert machine.find_speed("unet")[0].macs_per_second == 3e9


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (2.5, "the machine is slower (a product takes 2.5 times as long) than when its speed was measured on 20"),
        (0.4, "the machine is faster (a product took 2.5 times as long) than when its speed was measured on 20"),
    ],
)
def test_another_load_is_measured_again(machine, caplog, factor, said):
    machine.find_speed("unet", "unext")
    machine.product_seconds *= factor
    machine.find_speed("unet")
    assert machine.measured == [("unet", "unext"), ("unet",)]
    assert caplog.messages[-2].startswith(said)
    assert caplog.messages[-2].endswith(": measuring again")
    machine.find_speed("unet")  # now at this load
    assert len(machine.measured) == 2


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_a_little_more_or_less_to_do_changes_nothing(machine, factor):
    machine.find_speed("unet")
    machine.product_seconds *= factor
    machine.find_speed("unet")
    assert len(machine.measured) == 1


def test_a_busy_machine_is_said_and_measured_again_when_it_is_quiet(machine, caplog):
    machine.load = 1.0
    machine.find_speed("unet")
    assert "other programs use 1.0 of 2 cores: the speed is measured beside them" in caplog.text
    machine.load = 0.9
    machine.find_speed("unet")
    assert len(machine.measured) == 1
    machine.load, machine.macs_per_second = 0.1, 3e9
    assert machine.find_speed("unet")[0].macs_per_second == 3e9
    assert "the machine is quieter (others use 0.1 of 2 cores, 1.0 then) than when its speed was" in caplog.text
    machine.load = 1.2
    machine.find_speed("unet")
    assert "the machine is busier (others use 1.2 of 2 cores, 0.1 then) than when its speed was" in caplog.text
    assert len(machine.measured) == 3


def test_a_load_that_the_system_does_not_show_is_none(machine, caplog):
    machine.load = None
    machine.find_speed("unet")
    machine.find_speed("unet")
    assert len(machine.measured) == 1
    assert "other programs" not in caplog.text


def test_the_processor_may_be_busy_while_a_gpu_is_measured(machine, caplog):
    machine.find_speed("unet", device=GPU)
    machine.load = 2.0
    machine.find_speed("unet", device=GPU)
    assert len(machine.measured) == 1
    assert "other programs" not in caplog.text


def test_a_gpu_that_works_for_others_is_measured_again(machine, caplog):
    machine.find_speed("unet", device=GPU)
    machine.gpu_busy_fraction = 0.2
    machine.find_speed("unet", device=GPU)
    assert len(machine.measured) == 1
    machine.gpu_busy_fraction = 0.9
    machine.find_speed("unet", device=GPU)
    assert len(machine.measured) == 2
    assert "the GPU is busier (90% of the time, 0% then) than when" in caplog.messages[-2]


def test_a_gpu_measured_on_small_patches_alone_is_measured_again(machine, cache, caplog):
    """Files of older versions do not say that large ones were measured."""
    machine.find_speed("unet", device=GPU)
    machine.find_speed("unet", device=CPU)
    for path in (cache / "autoseg").iterdir():
        fields = json.loads(path.read_text())
        assert fields.pop("has_large_patches") is True
        path.write_text(json.dumps(fields))
    machine.find_speed("unet", device=GPU)
    assert len(machine.measured) == 3
    assert "of small patches alone, of an older version, and is measured again" in caplog.messages[-2]
    machine.find_speed("unet", device=CPU)  # a processor needs no large ones
    assert len(machine.measured) == 3


def test_processor_and_gpu_have_files_of_their_own(machine, cache):
    machine.find_speed("unet")
    machine.find_speed("unet", device=GPU)
    assert machine.measured == [("unet",), ("unet",)]
    devices = {read_record(KeptSpeed, path).machine.device for path in (cache / "autoseg").iterdir()}
    assert devices == {"cpu", "GPU 1, cuda:1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("version", lambda _name: "99.9"), ("processor_name", lambda: "another"), ("count_threads", lambda: 77)],
)
def test_another_version_processor_or_number_of_threads_is_another_machine(machine, monkeypatch, name, value):
    machine.find_speed("unet")
    monkeypatch.setattr(speed, name, value)
    machine.find_speed("unet")
    assert machine.measured == [("unet",), ("unet",)]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"throughput": []}', "\x00\xff"])
def test_a_damaged_file_is_measured_again(machine, cache, caplog, content):
    machine.find_speed("unet")
    kept_file(cache).write_text(content)
    machine.find_speed("unet")
    assert len(machine.measured) == 2
    assert f"the kept speed is damaged and is measured again: {kept_file(cache)}" in caplog.messages[-2]
    machine.find_speed("unet")
    assert len(machine.measured) == 2


def test_a_file_of_another_machine_is_measured_again(machine, cache, caplog):
    machine.find_speed("unet")
    content = json.loads(kept_file(cache).read_text())
    content["machine"]["processor"] = "copied from elsewhere"
    kept_file(cache).write_text(json.dumps(content))
    machine.find_speed("unet")
    assert len(machine.measured) == 2
    assert "is the speed of another machine or version and is measured again" in caplog.messages[-2]


def test_a_folder_that_cannot_be_written_is_said(machine, cache, caplog):
    cache.write_text("a file where the folder should be")
    assert machine.find_speed("unet")[0].macs_per_second == 1e9
    assert "the measured speed is not kept: " in caplog.messages[-1]
    machine.find_speed("unet")
    assert len(machine.measured) == 2


def test_a_user_without_a_home_measures_each_time(machine, monkeypatch, caplog):
    monkeypatch.setattr(speed, "user_cache_folder", lambda: None)
    machine.find_speed("unet")
    assert caplog.messages[-1] == "the measured speed is not kept: this user has no home"


def test_the_product_takes_time():
    assert 0 < time_product() < 60
