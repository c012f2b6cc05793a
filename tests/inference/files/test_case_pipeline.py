"""Cases on a conveyor."""

import threading
import time

import pytest

from autoseg.errors import PredictionError
from autoseg.inference.files.case_pipeline import CaseSteps, run_cases


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

    def steps(self):
        def predict(item, prepared):
            assert prepared == f"prepare {item}"
            return self.work("predict", item)

        def finish(item, answer):
            assert answer == f"predict {item}"
            self.work("finish", item)

        return CaseSteps(lambda item: self.work("prepare", item), predict, finish)


@pytest.mark.parametrize("seconds", [(0.0, 0.0, 0.0), (0.03, 0.0, 0.0), (0.0, 0.03, 0.0), (0.0, 0.0, 0.03)])
def test_every_case_goes_through_all_steps_in_order(seconds):
    record = Record(seconds)
    assert list(run_cases(range(5), record.steps())) == [None] * 5
    for step in ("prepare", "predict", "finish"):
        done = [item for what, name, item in record.events if (what, name) == ("end", step)]
        assert done == list(range(5))
    assert record.most <= 3
    assert record.threads["predict"] == {threading.get_ident()}
    assert threading.get_ident() not in record.threads["prepare"] | record.threads["finish"]


def test_steps_of_different_cases_overlap():
    record = Record((0.05, 0.05, 0.05))
    list(run_cases(range(4), record.steps()))
    begin_next = record.events.index(("begin", "prepare", 2))
    assert begin_next < record.events.index(("end", "predict", 1))
    assert record.events.index(("begin", "finish", 0)) < record.events.index(("end", "predict", 1))


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_failed_case_does_not_stop_the_others(side_by_side):
    record = Record(failing={("prepare", 0), ("predict", 2), ("finish", 3)})
    assert list(run_cases(range(5), record.steps(), side_by_side=side_by_side)) == [
        "case 0 cannot prepare", None, "case 2 cannot predict", "case 3 cannot finish", None,
    ]  # fmt: skip


def test_one_case_after_the_other_is_one_in_memory_at_a_time():
    record = Record()
    assert list(run_cases(range(3), record.steps(), side_by_side=False)) == [None] * 3
    assert record.most == 1
    assert all(threads == {threading.get_ident()} for threads in record.threads.values())


def test_no_cases():
    assert list(run_cases([], Record().steps())) == []


@pytest.mark.parametrize("step", ["prepare", "predict", "finish"])
def test_other_errors_come_through(step):
    def fail(*_):
        raise KeyError("a mistake in the program")

    ready = {name: (lambda *_: None) for name in ("prepare", "predict", "finish")}
    with pytest.raises(KeyError, match="a mistake"):
        list(run_cases(range(3), CaseSteps(**{**ready, step: fail})))


def test_what_is_being_finished_is_finished_when_the_prediction_is_interrupted():
    record = Record((0.0, 0.0, 0.2))
    steps = record.steps()

    def interrupted(item, prepared):
        if item == 1:
            raise KeyboardInterrupt
        return steps.predict(item, prepared)

    with pytest.raises(KeyboardInterrupt):
        list(run_cases(range(4), CaseSteps(steps.prepare, interrupted, steps.finish)))
    assert ("end", "finish", 0) in record.events
    assert ("begin", "predict", 2) not in record.events


def test_what_is_being_prepared_does_not_hold_an_interrupt_up():
    held, prepared = threading.Event(), []

    def prepare(item):
        if item == 1:
            held.wait()
        prepared.append(item)

    def interrupted(_item, _prepared):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_cases(range(2), CaseSteps(prepare, interrupted, lambda *_: None)))
    assert prepared == [0]
    held.set()
