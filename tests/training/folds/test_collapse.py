import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.checkpoint import EpochHistory, Restart
from autoseg.stages.train import train_fold
from autoseg.training.folds import collapse, training
from autoseg.training.folds.collapse import (
    begin_again_if_marked,
    follow_last_restart,
    follow_restart,
    judge_collapse,
)
from autoseg.training.invented_data import NOISE_ENCODING, measured_configuration
from autoseg.training.steps.foreground import ForegroundWatch
from tests.builders import make_epoch
from tests.training.small_folds import NAME, equal, short, shrink_plan, weights
from tests.training.small_runs import start_on_cpu


def history_of(findings, steps=50, restarts=()):
    return [
        make_epoch(
            number,
            step=steps * (number + 1),
            found_foreground=found,
            restart=Restart(learning_rate=0.001, progress=0.1) if number in restarts else None,
        )
        for number, found in enumerate(findings)
    ]


def judge(findings, progress=0.5, **changes):
    return judge_collapse(history_of(findings, **changes), progress, 0.01)


NONE, SOME = "none", "some"


def test_a_collapse_begins_again_at_a_lower_rate():
    assert judge([NONE] * 5) == Restart(learning_rate=0.003, progress=0.5)
    assert judge([SOME] * 5 + [NONE] * 5) == Restart(learning_rate=0.003, progress=0.5)
    second = judge([NONE] * 20, restarts=(9,))
    assert second is not None
    assert second.learning_rate == pytest.approx(0.0009)


@pytest.mark.parametrize(
    ("findings", "changes"),
    [
        ([NONE] * 4, {}),  # 200 steps
        ([NONE] * 2, {"steps": 500}),
        ([NONE] * 9 + [SOME], {}),
        ([None] * 10, {}),
        ([SOME] * 15 + [NONE] * 5, {}),  # a quarter of half of the training
        ([NONE] * 10, {"progress": 0.9}),
        ([NONE] * 14, {"restarts": (9,)}),  # 200 steps since then
        ([NONE] * 30, {"restarts": (9, 19)}),
    ],
)
def test_otherwise_it_goes_on(findings, changes):
    assert judge(findings, **changes) is None


def test_epochs_without_foreground_say_nothing():
    assert judge([SOME, NONE, None, NONE, None, NONE, NONE, NONE]) is not None
    assert judge([NONE, NONE, NONE, SOME, None, None, None, None]) is None


@given(st.lists(st.sampled_from([NONE, SOME, None]), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_what_found_foreground_last_is_never_begun_again(findings, progress):
    assert judge([*findings, SOME], progress) is None


def test_the_schedule_of_a_restart_covers_the_rest():
    run = start_on_cpu(measured_configuration(2, 4), NOISE_ENCODING, precision=torch.float32)
    run.spec = run.spec.model_copy(update={"schedule": "poly", "learning_rate": 0.01, "warmup_fraction": 0.0})
    assert run.learning_rate(0.25) == pytest.approx(0.01 * 0.75**0.9)
    follow_restart(run, Restart(learning_rate=0.003, progress=0.25))
    assert run.learning_rate(0.25) == pytest.approx(0.003)
    assert run.learning_rate(0.625) == pytest.approx(0.003 * 0.5**0.9)
    assert run.learning_rate(1.0) == 0.0
    other = start_on_cpu(measured_configuration(2, 4), NOISE_ENCODING, precision=torch.float32)
    follow_last_restart(other, history_of([NONE] * 5, restarts=(1,)))
    assert (other.schedule_start, other.rate_factor) == (0.1, pytest.approx(0.001 / other.spec.learning_rate))
    follow_last_restart(other, history_of([NONE]))
    assert other.schedule_start == 0.1


def test_a_line_of_history_keeps_the_restart():
    (line,) = history_of([NONE], restarts=(0,))
    assert EpochHistory.model_validate_json(line.model_dump_json()) == line
    assert json.loads(make_epoch().model_dump_json()).keys().isdisjoint({"restart", "found_foreground"})


@pytest.fixture
def collapsing(workspace, monkeypatch):
    """Epochs of three steps, of which every one seems to find nothing; two of them are a collapse."""
    shrink_plan(workspace)
    monkeypatch.setattr(collapse, "MIN_EPOCHS", 2)
    monkeypatch.setattr(collapse, "MIN_STEPS", 1)
    monkeypatch.setattr(ForegroundWatch, "take", lambda _watch, _ranks: "none")
    return workspace


def read_history(workspace):
    return [json.loads(line) for line in (workspace.fold(NAME, "0") / "history.jsonl").read_text().splitlines()]


def test_a_collapsed_fold_begins_again_and_resumes_as_it_would_have_gone_on(collapsing, caplog, monkeypatch):
    checkpoint = train_fold(collapsing, NAME, "0", short(epochs=6))
    rate = checkpoint.training.learning_rate
    restarts = {line["epoch"]: line["restart"] for line in read_history(collapsing) if "restart" in line}
    factors = {epoch: round(restart["learning_rate"] / rate, 6) for epoch, restart in restarts.items()}
    assert factors == {1: 0.3, 3: 0.09}
    assert [restart["progress"] for restart in restarts.values()] == pytest.approx([1 / 3, 2 / 3])
    (first, _) = (message for message in caplog.messages if "begins again" in message)
    assert first.startswith("step 6: nothing but background is predicted")
    straight, lines = weights(collapsing), read_history(collapsing)

    def begin_again_and_stop(fold, run, history):
        begin_again_if_marked(fold, run, history)
        if history[-1].restart is not None:
            run.stop.set()

    monkeypatch.setattr(training, "begin_again_if_marked", begin_again_and_stop)
    assert train_fold(collapsing, NAME, "0", short(epochs=6, restart=True)).step == 6
    assert train_fold(collapsing, NAME, "0", short(epochs=6)).step == 12
    assert train_fold(collapsing, NAME, "0", short(epochs=6)).finished
    assert equal(weights(collapsing), straight)
    assert [line.get("restart") for line in read_history(collapsing)] == [line.get("restart") for line in lines]
