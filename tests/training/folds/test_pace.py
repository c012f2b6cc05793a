"""A training that is faster or slower than its plan says so once, with the next command."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from autoseg.records.budget import Throughput
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.files import write_record
from autoseg.records.provenance import Provenance
from autoseg.records.training import TrainingSpec
from autoseg.records.workspace import Workspace
from autoseg.training.folds.pace import Pace, describe_pace

PLANNED = TrainingSpec(
    optimizer="adamw",
    epochs=30,
    steps_per_epoch=27,
    validation_steps=4,
    time_per_fold_seconds=600.0,
    mirror_axes=(),
    batch_dice=False,
)
"""480 s for 30 epochs: 16 s each, as far as they are whole 15.48."""


def _epoch(number: int, seconds: float) -> EpochHistory:
    return EpochHistory(
        epoch=number,
        step=27 * (number + 1),
        seconds=seconds,
        data_wait_fraction=0.0,
        train_loss=1.0,
        validation_loss=1.0,
        pseudo_dice={},
        learning_rate=1e-3,
    )


def _fold(workspace: Workspace, **changes: object) -> Any:
    """What `Pace` looks at."""
    throughput = (Throughput(dimensions=3, base_features=8, macs_per_second=1e10),)
    fold = {
        "workspace": workspace,
        "plan": SimpleNamespace(
            configurations={"2d": SimpleNamespace(training=PLANNED)},
            budget=SimpleNamespace(throughput=throughput, device="cpu", devices=1),
        ),
        "configuration_name": "2d",
        "device": SimpleNamespace(type="cpu"),
        "ranks": SimpleNamespace(count=1),
        "spec": PLANNED,
    }
    return SimpleNamespace(**fold | changes)


def _tell(pace: Pace, seconds: list[float]) -> None:
    history: list[EpochHistory] = []
    for number, each in enumerate(seconds):
        history.append(_epoch(number, each))
        pace.tell(history, load=1.0)


@pytest.mark.parametrize("seconds", [10.4, 15.48, 16.0, 23.9])
def test_speeds_within_half_of_the_planned_one_are_as_planned(seconds: float) -> None:
    assert describe_pace(PLANNED, seconds, load=1.0) == ""


def test_a_slow_training_says_how_many_steps_fit_and_who_is_busy() -> None:
    assert describe_pace(PLANNED, 40.0, load=1.04) == (
        "an epoch takes 40 s, 2.5 times as long as planned (other programs use 1.0 cores): about 324 of 810 steps fit "
        "the time. End other programs, or plan again for this speed"
    )
    assert "(the machine was faster when measured)" in describe_pace(PLANNED, 40.0, load=0.0)


def test_a_fast_training_says_that_a_larger_network_fits() -> None:
    assert describe_pace(PLANNED, 1.548, load=0.0) == (
        "an epoch takes 1.55 s, the plan expects 10.0 times as much (the machine was busy when its speed was "
        "measured): a larger network fits the time. Plan again"
    )


def test_a_plan_that_speed_did_not_size_is_not_compared() -> None:
    full = PLANNED.model_copy(update={"epochs": 1000, "steps_per_epoch": 250})

    assert describe_pace(PLANNED.model_copy(update={"time_per_fold_seconds": None}), 1.0, load=0.0) == ""
    assert describe_pace(full, 0.001, load=0.0) == ""


def test_it_is_said_once_and_not_for_the_first_epoch(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    workspace = Workspace(tmp_path)
    command = "autoseg-plan data -w w --time-per-fold 10min"
    record = Provenance(
        command=command,
        autoseg_version="1",
        python="3",
        libraries={},
        device="",
        seed=None,
        plan_hash="",
        data_hash="",
    )
    write_record(record, workspace.provenance("plan"))

    _tell(Pace(_fold(workspace), earlier=0), [90.0, 16.0, 16.0, 16.0])
    assert caplog.text == ""
    _tell(Pace(_fold(workspace), earlier=2), [90.0, 90.0, 90.0, 40.0])
    assert caplog.text == ""  # the third is the first one of this process
    with caplog.at_level(logging.WARNING):
        _tell(Pace(_fold(workspace), earlier=0), [90.0, 40.0, 40.0, 40.0, 40.0])
    (told,) = caplog.messages
    assert told.endswith(f"plan again for this speed: {command} --measure-again, and train with --restart")


def test_without_a_record_of_the_command_its_beginning_is_named(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    _tell(Pace(_fold(Workspace(tmp_path)), earlier=0), [90.0, 1.0, 1.0])

    assert f"autoseg-plan DATASET -w {tmp_path} --measure-again" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"device": SimpleNamespace(type="cuda")},
        {"ranks": SimpleNamespace(count=2)},
        {"spec": PLANNED.model_copy(update={"loss": "cldice"})},
        {"spec": PLANNED.model_copy(update={"time_per_fold_seconds": None})},
        {"spec": PLANNED.model_copy(update={"steps_per_epoch": 100})},
    ],
)
def test_another_training_than_the_planned_one_is_not_compared(tmp_path, caplog, changes: dict[str, object]) -> None:
    _tell(Pace(_fold(Workspace(tmp_path), **changes), earlier=0), [90.0, 90.0, 90.0, 90.0])

    assert caplog.text == ""


def test_epochs_of_smaller_patches_are_not_compared(tmp_path, caplog) -> None:
    """Their cost is estimated; the own patch's, which follow at the planned 16 s, count alone."""
    small = [_epoch(number, 90.0).model_copy(update={"patch_size": (8, 16, 8)}) for number in range(5)]
    own = [_epoch(number, 16.0) for number in range(5, 8)]
    pace = Pace(_fold(Workspace(tmp_path)), earlier=0)
    for number in range(1, 9):
        pace.tell([*small, *own][:number], load=1.0)
    assert caplog.text == ""
