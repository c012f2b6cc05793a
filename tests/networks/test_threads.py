"""The number of threads on a pretended machine, whose time passes when something is computed."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from autoseg.core_load import CoreTimes
from autoseg.errors import UsageError
from autoseg.networks import threads
from autoseg.networks.threads import ThreadChoice, choose_threads, own_threads, sensible_numbers

CORES = 2

STEP = 0.16
"""Seconds of a step with both cores, as measured."""


@dataclass
class Machine:
    """Two cores, and other programs that want some of their time."""

    wanted: float = 0.0
    """Cores that the others take when they get them."""
    is_polite: bool = False
    """Whether the others only take what is left over (nice)."""
    now: float = 100.0
    busy: float = 0.0
    own: float = 0.0

    def read(self) -> CoreTimes:
        return CoreTimes(self.now, self.busy, self.own, CORES)

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds * self.wanted

    def seconds(self, number: int) -> float:
        """Duration of a step by figures of the real machine: two threads beside a busy program wait for each other."""
        if number == 1:
            return 0.25
        return STEP * (1 + 2.5 * self.wanted) if not self.is_polite else STEP * 1.1

    def step(self, number: int) -> None:
        seconds = self.seconds(number)
        others = min(self.wanted, CORES - 1.0) if not self.is_polite else min(self.wanted, CORES - number)
        self.now += seconds
        self.own += seconds * min(number, CORES - others)
        self.busy += seconds * min(number + self.wanted, CORES)


def _choice(machine: Machine) -> ThreadChoice:
    return ThreadChoice(CORES, read=machine.read, clock=machine.clock)


def _train(choice: ThreadChoice, machine: Machine, steps: int) -> float:
    began = machine.now
    for _ in range(steps):
        with choice.timed():
            machine.step(choice.number)
    return machine.now - began


@pytest.fixture(autouse=True)
def _torch_has_all_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


def test_a_quiet_machine_uses_all_threads_and_tries_nothing() -> None:
    machine = Machine(wanted=0.05)
    choice = _choice(machine)

    assert _train(choice, machine, 1000) == pytest.approx(1000 * machine.seconds(CORES))
    assert choice.number == CORES


def test_beside_a_busy_program_the_first_step_has_one_thread_less(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(wanted=1.0)
    choice = _choice(machine)
    machine.wait(0.5)  # while the network is built

    with caplog.at_level(logging.INFO):
        assert _train(choice, machine, 100) == pytest.approx(100 * 0.25)
    assert caplog.messages == ["other programs use 1.0 cores: beginning with 1 of 2 threads"]


def test_a_program_that_begins_meanwhile_costs_its_part_and_little_more() -> None:
    machine = Machine()
    choice = _choice(machine)
    _train(choice, machine, 100)
    machine.wanted = 1.0

    assert _train(choice, machine, 1000) < 1.02 * 1000 * 0.25
    assert choice.number == 1


def test_all_threads_compute_again_when_the_program_ends(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(wanted=1.0)
    choice = _choice(machine)
    machine.wait(0.5)
    _train(choice, machine, 100)
    machine.wanted = 0.0

    with caplog.at_level(logging.INFO):
        assert _train(choice, machine, 1000) < 1.02 * 1000 * STEP
    assert choice.number == CORES
    assert "computing with 2 of 2 threads, 1.6 times as fast as with 1" in caplog.text


def test_a_polite_program_costs_no_thread_for_long() -> None:
    machine = Machine(wanted=1.0, is_polite=True)
    choice = _choice(machine)
    machine.wait(0.5)

    assert _train(choice, machine, 5000) < 1.05 * 5000 * machine.seconds(CORES)
    assert choice.number == CORES


def test_trials_under_a_steady_load_cost_at_most_two_percent() -> None:
    machine = Machine(wanted=1.0)
    choice = _choice(machine)

    assert _train(choice, machine, 5000) < 1.02 * 5000 * 0.25


def test_a_gain_of_a_few_percent_changes_nothing() -> None:
    machine = Machine(wanted=0.27)  # 0.268 s with two threads, 0.25 with one
    choice = _choice(machine)
    _train(choice, machine, 200)

    assert choice.number == CORES


def test_a_fixed_number_never_changes_and_is_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "read_core_times", pytest.fail)
    machine = Machine(wanted=2.0)
    choice = ThreadChoice(CORES, is_fixed=True, read=pytest.fail, clock=machine.clock)
    _train(choice, machine, 50)

    assert choice.number == CORES


def test_a_system_that_does_not_show_its_load_uses_all_threads() -> None:
    machine = Machine(wanted=1.0)
    choice = ThreadChoice(CORES, read=lambda: None, clock=machine.clock)
    _train(choice, machine, 50)

    assert choice.number == CORES


def test_torch_has_its_own_number_before_and_after_a_piece_of_work() -> None:
    choice = choose_threads(1, torch.device("cpu"))

    with choice.timed():
        inside = torch.get_num_threads()

    assert (inside, torch.get_num_threads()) == (1, CORES)


def test_work_that_fails_puts_the_number_back_and_counts_for_nothing() -> None:
    choice = choose_threads(1, torch.device("cpu"))
    with pytest.raises(MemoryError), choice.timed():
        raise MemoryError

    assert torch.get_num_threads() == CORES


@pytest.mark.parametrize(
    ("most", "free", "numbers"),
    [(2, 2.0, (2,)), (2, 1.8, (2,)), (2, 1.3, (2, 1)), (2, -0.5, (2, 1)), (16, 10.8, (16, 10, 8)), (1, 1.0, (1,))],
)
def test_numbers_worth_trying(most: int, free: float, numbers: tuple[int, ...]) -> None:
    assert sensible_numbers(most, free) == numbers


def test_options_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_threads", lambda: CORES)

    assert choose_threads("all", torch.device("cpu")).number == CORES
    assert choose_threads("auto", torch.device("cpu")).number == CORES
    assert choose_threads(3, torch.device("cpu")).number == 3
    assert choose_threads(3, torch.device("meta")).number == own_threads().number
    with pytest.raises(UsageError, match="--threads 0"):
        choose_threads(0, torch.device("cpu"))


def test_a_container_with_fewer_cores_gets_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "count_threads", lambda: 1)

    assert choose_threads("all", torch.device("cpu")).number == 1
