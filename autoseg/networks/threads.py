"""With how many threads networks compute on a CPU, found while they compute.

The threads of a network wait for each other many times in every layer. Beside another busy program one of them waits
for its core again and again, and all others wait for it, so that the network loses far more than the other program
takes. With one thread less it loses only that core.

    training step, network pass: set the number of threads, compute, put it back, add the seconds
    about once a second: look at the load of other programs
        none: all threads, nothing else happens
        some: try fewer threads on the next pieces of work, keep what is faster

The number of threads changes how sums are grouped, and so the last digits of float32 results.

Tested in tests/networks/test_threads.py.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from autoseg.core_load import MIN_LOAD, CoreTimes, free_cores, others_load, read_core_times
from autoseg.errors import UsageError
from autoseg.system import ThreadOption, count_threads

logger = logging.getLogger("autoseg.threads")

LOOK_SECONDS = 1.0
"""Time between two looks at the load; a look takes 0.2 ms."""

GUESS_SECONDS = 0.3
"""Time after which the load before the first piece of work is known well enough to begin with fewer threads."""

TRIAL_SECONDS = 0.3
TRIAL_PIECES = 2
"""A number of threads is tried for so long and so many pieces of work at least, after a first one that sets it up."""

HOPELESS_RATIO = 1.5
"""A number that takes so many times as long as the best one for its first piece is not tried further."""

RISKED_PIECES = 4.0
"""Pieces of work whose time a trial may cost of more threads than the cores that are free: two threads on a core take
many times as long as one, because each waits for the other to get its turn."""

MIN_GAIN = 1.1
"""Another number is taken only if it is so many times as fast, so that the number does not change for nothing."""

LOAD_CHANGE = 0.3
"""Cores by which the others' load has to change before what was decided is in doubt."""

TRIAL_FRACTION = 0.01
"""Fraction of the time computed so far that trials may have lost while the load stays as it is."""

TRIAL_FRACTION_AFTER_CHANGE = 0.05
"""The same when the load has changed."""


@dataclass
class _Phase:
    """Pieces of work that were computed with one number of threads."""

    seconds: float = 0.0
    work: float = 0.0
    pieces: int = 0

    def add(self, seconds: float, work: float) -> None:
        self.seconds += seconds
        self.work += work
        self.pieces += 1

    @property
    def rate(self) -> float:
        """Seconds for a unit of work."""
        return self.seconds / self.work


def choose_threads(option: ThreadOption, device: torch.device) -> "ThreadChoice":
    """Threads of networks on a device; on a GPU the number stays what it is.

    Args:
        option: What the user wants.
        device: Where the networks compute.

    Raises:
        UsageError: If a number of threads is below 1.
    """
    if device.type != "cpu":
        return own_threads()
    if option in ("auto", "all"):
        return ThreadChoice(min(torch.get_num_threads(), count_threads()), is_fixed=option == "all")
    if not isinstance(option, int) or option < 1:
        raise UsageError(f"--threads {option}: give a number from 1, all, or auto")
    return ThreadChoice(option, is_fixed=True)


def own_threads() -> "ThreadChoice":
    """The number of threads that torch has now, whatever others do."""
    return ThreadChoice(torch.get_num_threads(), is_fixed=True)


def sensible_numbers(most: int, free: float) -> tuple[int, ...]:
    """Numbers of threads that are worth trying, the largest first: one alone where the cores are free for it.

    Args:
        most: Largest number.
        free: Cores that other programs and the container leave.

    Examples:
        >>> sensible_numbers(2, 1.9)
        (2,)
        >>> sensible_numbers(16, 10.8)
        (16, 10, 8)
    """
    if free > most - MIN_LOAD:
        return (most,)
    return tuple(sorted({most, max(math.floor(free), 1), max(most // 2, 1)}, reverse=True))


class ThreadChoice:
    """The number of threads for pieces of work that are alike, such as the steps of a training.

    Several threads of a program may share it.
    """

    def __init__(
        self,
        most: int,
        *,
        is_fixed: bool = False,
        read: Callable[[], CoreTimes | None] = read_core_times,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin with all threads; other programs are watched from now on.

        Args:
            most: Largest number of threads.
            is_fixed: Whether it stays at that.
            read: Reads the clocks of the cores.
            clock: Seconds, the same as in what is read.
        """
        self.number = most
        """Threads of the next piece of work."""
        self._most = most
        self._is_fixed = is_fixed or most == 1
        self._lock = threading.Lock()
        self._read = read
        self._clock = clock
        self._looked = None if self._is_fixed else read()
        self._is_first = True
        """Whether the next piece of work sets up a number of threads."""
        self._is_guessed = self._is_fixed
        self._phase = _Phase()
        self._rates: dict[int, float] = {}
        """Seconds for a unit of work by number of threads, in a trial."""
        self._left: list[int] = []
        """Numbers that are still to be tried; empty: there is no trial."""
        self._before = most
        """Number before the trial."""
        self._load = 0.0
        """Cores that other programs used between the last two looks."""
        self._free = float(most)
        """Cores that they left."""
        self._decided_load: float | None = 0.0
        """The others' load for which the number was found; None: it has just been found."""
        self._computed = 0.0
        self._lost = 0.0
        """Seconds that trials of slower numbers have cost."""

    @property
    def load(self) -> float:
        """Cores that other programs used between the last two looks; 0 if nobody looks."""
        return self._load

    @property
    def is_trying(self) -> bool:
        """Whether a trial is under way, so that times of the pieces of work mean little to others."""
        return bool(self._left)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with the chosen number of threads; torch's own number is put back."""
        before = torch.get_num_threads()
        if before == self.number:
            yield
            return
        torch.set_num_threads(self.number)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def timed(self, work: float = 1.0) -> Iterator[None]:
        """Compute a piece of work with the chosen number of threads, and learn from its time.

        Args:
            work: Its size, in any unit that is the same for all pieces.
        """
        with self._lock:
            self._guess()
        began = self._clock()
        with self.applied():
            yield
        with self._lock:
            self._record(self._clock() - began, work)

    def _record(self, seconds: float, work: float) -> None:
        """Add the time of a piece of work that was computed with `number` threads; may change the number."""
        if self._is_fixed:
            return
        self._computed += seconds
        if self._left and self._rates:
            self._lost += max(seconds - work * min(self._rates.values()), 0.0)
        if self._is_first:
            self._is_first = False
            if self._left and seconds > HOPELESS_RATIO**2 * work * min(self._rates.values()):
                self._phase.add(seconds, work)
                self._go_on_trying()
            return
        self._phase.add(seconds, work)
        if self._left:
            self._go_on_trying()
        else:
            self._look()

    def _guess(self) -> None:
        """Choose a number by the load before the first piece of work, or before the second one, if it is known then."""
        looked = self._looked
        if self._is_guessed or looked is None or self._clock() - looked.wall_seconds < GUESS_SECONDS:
            return
        self._is_guessed, self._looked = True, self._read()
        if self._looked is None:
            return
        self._see(looked, self._looked)
        if len(sensible_numbers(self._most, self._free)) > 1:
            self._take(min(max(round(self._free), 1), self._most))
            self._decided_load = None
            logger.info(
                "other programs use %.1f cores: beginning with %d of %d threads", self._load, self.number, self._most
            )

    def _look(self) -> None:
        """About once a second, begin a trial if other programs' load asks for one."""
        before = self._looked
        if before is None or self._clock() - before.wall_seconds < LOOK_SECONDS:
            return
        times, phase = self._read(), self._phase
        self._looked, self._phase = times, _Phase()
        if times is None:
            return
        self._see(before, times)
        if self._decided_load is None:
            self._decided_load = self._load
            return
        numbers = sensible_numbers(self._most, self._free)
        others = [number for number in numbers if number != self.number and self._may_try(number, phase)]
        if others:
            self._rates, self._left, self._before = {self.number: phase.rate}, others, self.number
            self._take(others[0])

    def _see(self, earlier: CoreTimes, later: CoreTimes) -> None:
        self._load = others_load(earlier, later)
        self._free = free_cores(self._load, later.cores)

    def _may_try(self, number: int, phase: _Phase) -> bool:
        """Whether earlier trials have cost so little that one more pays."""
        is_new = self._decided_load is None or abs(self._load - self._decided_load) > LOAD_CHANGE
        is_safe = number < self.number or number < self._free + 0.5
        risked = 0.0 if is_safe else RISKED_PIECES * phase.seconds / phase.pieces
        fraction = TRIAL_FRACTION_AFTER_CHANGE if is_new else TRIAL_FRACTION
        return self._lost + risked <= fraction * self._computed

    def _go_on_trying(self) -> None:
        phase, best = self._phase, min(self._rates.values())
        is_known = phase.pieces >= TRIAL_PIECES and phase.seconds >= TRIAL_SECONDS
        if not is_known and phase.rate < HOPELESS_RATIO * best:
            return
        self._rates[self._left.pop(0)] = phase.rate
        if self._left:
            self._take(self._left[0])
        else:
            self._decide()

    def _decide(self) -> None:
        before, best = self._before, min(self._rates, key=lambda number: self._rates[number])
        gain = self._rates[before] / self._rates[best]
        if gain >= MIN_GAIN:
            logger.info(
                "other programs use %.1f cores: computing with %d of %d threads, %.1f times as fast as with %d",
                self._load, best, self._most, gain, before,
            )  # fmt: skip
        self._take(best if gain >= MIN_GAIN else before)
        self._decided_load = None
        self._looked = self._read()

    def _take(self, number: int) -> None:
        self._is_first = number != self.number
        self.number, self._phase = number, _Phase()
