"""Cases are read, predicted and written side by side, in order, and one that fails leaves the others alone."""

import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoseg.errors import PredictionError, WriteError
from autoseg.inference.files import case_pipeline
from autoseg.inference.files.case_pipeline import predict_cases
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.outputs import CaseOutcome, OutputFile
from autoseg.records.prediction import OutputChoices


class Record:
    """Steps that note when they begin and end, and on which thread."""

    def __init__(self, seconds=(0.0, 0.0, 0.0), failing=()):
        self.seconds = dict(zip(("prepare", "predict", "finish"), seconds, strict=True))
        self.failing = set(failing)
        self.events: list[tuple[str, str, int]] = []
        self.threads: dict[str, set[int]] = {}
        self.in_flight: set[int] = set()
        self.most = 0
        self.lock = threading.Lock()

    def work(self, step, item):
        with self.lock:
            self.events.append(("begin", step, item))
            self.threads.setdefault(step, set()).add(threading.get_ident())
            self.in_flight.add(item)
            self.most = max(self.most, len(self.in_flight))
        time.sleep(self.seconds[step])
        if (step, item) in self.failing:
            with self.lock:
                self.in_flight.discard(item)
            raise PredictionError(f"case {item} cannot {step}")
        with self.lock:
            self.events.append(("end", step, item))
            if step == "finish":
                self.in_flight.discard(item)
        return f"{step} {item}"

    def run(self, monkeypatch, count, max_memory=None):
        """Numbers of cases or messages of errors, in order, from cases that only note their steps."""
        monkeypatch.setattr(case_pipeline, "prepare_case", lambda _, file, __: self.prepare(int(file.item.case)))
        monkeypatch.setattr(case_pipeline, "finish_case", self.finish)
        files = [OutputFile(InputCase(str(number), ()), Path(f"{number}.nii.gz")) for number in range(count)]
        stub: Any = SimpleNamespace(
            max_memory=max_memory, device=torch.device("cpu"), predict=lambda prepared, *_: self.predict(prepared)
        )
        for outcome in predict_cases(stub, files, OutputChoices()):
            yield outcome.error or int(outcome.notes[0])

    def prepare(self, item):
        self.work("prepare", item)
        return item

    def predict(self, item):
        self.work("predict", item)
        return f"prediction of {item}"

    def finish(self, _predictor, file, prepared, prediction, _choices):
        assert file.item.case == str(prepared)
        assert prediction == f"prediction of {prepared}"
        try:
            self.work("finish", prepared)
        except PredictionError as error:
            return CaseOutcome(str(error))
        return CaseOutcome(notes=(str(prepared),))


@pytest.mark.parametrize("seconds", [(0.0, 0.0, 0.0), (0.03, 0.0, 0.0), (0.0, 0.03, 0.0), (0.0, 0.0, 0.03)])
def test_every_case_goes_through_all_steps_in_order(monkeypatch, seconds):
    record = Record(seconds)
    assert list(record.run(monkeypatch, 5)) == list(range(5))
    for step in ("prepare", "predict", "finish"):
        done = [item for what, name, item in record.events if (what, name) == ("end", step)]
        assert done == list(range(5))
    assert record.most <= 3
    assert record.threads["predict"] == {threading.get_ident()}
    assert threading.get_ident() not in record.threads["prepare"] | record.threads["finish"]


def test_steps_of_different_cases_overlap(monkeypatch):
    record = Record((0.05, 0.05, 0.05))
    list(record.run(monkeypatch, 4))
    begin_next = record.events.index(("begin", "prepare", 2))
    assert begin_next < record.events.index(("end", "predict", 1))
    assert record.events.index(("begin", "finish", 0)) < record.events.index(("end", "predict", 1))


@pytest.mark.parametrize("max_memory", [None, 10**9])
def test_a_failed_case_does_not_stop_the_others(monkeypatch, max_memory):
    record = Record(failing={("prepare", 0), ("predict", 2), ("finish", 3)})
    assert list(record.run(monkeypatch, 5, max_memory)) == [
        "case 0 cannot prepare", 1, "case 2 cannot predict", "case 3 cannot finish", 4,
    ]  # fmt: skip


def test_with_limited_memory_one_case_is_in_memory_at_a_time(monkeypatch):
    record = Record()
    assert list(record.run(monkeypatch, 3, max_memory=10**9)) == [0, 1, 2]
    assert record.most == 1
    assert all(threads == {threading.get_ident()} for threads in record.threads.values())


def test_no_cases(monkeypatch):
    assert list(Record().run(monkeypatch, 0)) == []


def test_a_case_is_released_when_it_is_written(monkeypatch):
    class Arrays:
        pass

    record = Record()
    kept: list[weakref.ref[Arrays]] = []
    alive: list[int] = []

    def predict(item):
        record.work("predict", item)
        deadline = time.monotonic() + 1
        while any(reference() is not None for reference in kept) and time.monotonic() < deadline:
            time.sleep(0.001)
        alive.append(sum(reference() is not None for reference in kept))
        prediction = Arrays()
        kept.append(weakref.ref(prediction))
        return prediction

    monkeypatch.setattr(record, "predict", predict)
    monkeypatch.setattr(record, "finish", lambda *_: CaseOutcome(notes=("0",)))
    assert list(record.run(monkeypatch, 4)) == [0] * 4
    assert alive == [0] * 4


@pytest.mark.parametrize("step", ["prepare", "predict", "finish"])
def test_other_errors_come_through(monkeypatch, step):
    def fail(*_):
        raise KeyError("a mistake in the program")

    record = Record()
    monkeypatch.setattr(record, step, fail)
    with pytest.raises(KeyError, match="a mistake"):
        list(record.run(monkeypatch, 3))


def test_what_is_being_written_is_written_when_the_prediction_is_interrupted(monkeypatch):
    record = Record((0.0, 0.0, 0.2))
    predict = record.predict

    def interrupted(item):
        if item == 1:
            raise KeyboardInterrupt
        return predict(item)

    monkeypatch.setattr(record, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(record.run(monkeypatch, 4))
    assert ("end", "finish", 0) in record.events
    assert ("begin", "predict", 2) not in record.events


def test_what_is_being_read_does_not_hold_an_interrupt_up(monkeypatch):
    held, prepared = threading.Event(), []

    def prepare(item):
        if item == 1:
            held.wait()
        prepared.append(item)

    def interrupted(_):
        raise KeyboardInterrupt

    record = Record()
    monkeypatch.setattr(record, "prepare", prepare)
    monkeypatch.setattr(record, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(record.run(monkeypatch, 2))
    assert prepared == [0]
    held.set()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()]
)
def test_a_case_that_is_too_large_for_the_memory_fails_with_what_to_do(monkeypatch, error):
    def predict(_prepared):
        raise error

    monkeypatch.setattr(case_pipeline, "prepare_case", lambda *_: "prepared")
    files = [OutputFile(InputCase("1", ()), Path("1.nii.gz"))]
    for max_memory in (None, 10**9):
        stub: Any = SimpleNamespace(
            max_memory=max_memory, device=torch.device("cpu"), predict=lambda prepared, *_: predict(prepared)
        )
        (outcome,) = predict_cases(stub, files, OutputChoices())
        assert outcome.error.startswith("the memory of the machine or the GPU is too small for this image")
        assert "--max-memory or --device cpu" in outcome.error


@pytest.mark.parametrize("step", ["prepare", "predict", "finish"])
@pytest.mark.parametrize("max_memory", [None, 10**9])
def test_a_full_disk_stops_the_run_at_its_first_case(monkeypatch, step, max_memory):
    record = Record()

    def fail(*_, **__):
        raise WriteError("x.nii.gz: cannot be written, because the disk is full")

    monkeypatch.setattr(case_pipeline, "prepare_case", lambda *_: "prepared")
    monkeypatch.setattr(case_pipeline, "write_side_maps", fail)
    monkeypatch.setattr(case_pipeline, "measure_labels", lambda *_: ())
    if step == "prepare":
        monkeypatch.setattr(case_pipeline, "prepare_case", fail)
    predict = fail if step == "predict" else record.predict
    prepared: Any = SimpleNamespace(volume=None, template=None, notes=(), warnings=())
    if step != "prepare":
        monkeypatch.setattr(case_pipeline, "prepare_case", lambda *_: prepared)
    stub: Any = SimpleNamespace(
        max_memory=max_memory, plan=SimpleNamespace(encoding=None, labels={}), predict=lambda _, *__: predict(0)
    )
    files = [OutputFile(InputCase(str(number), ()), Path(f"{number}.nii.gz")) for number in range(9)]
    with pytest.raises(WriteError, match="the disk is full"):
        [*predict_cases(stub, files, OutputChoices())]
    assert len([event for event in record.events if event[0] == "begin"]) <= 2
