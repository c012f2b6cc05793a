"""Batch size and precision of network passes, found while the first windows are predicted.

Tested in tests/inference/windows/test_network_pass.py.
"""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

logger = logging.getLogger("autoseg.predict")

TIMED_CALLS = 2
"""Calls that are timed for each batch size, after a first one that selects kernels."""

KNEE = 0.97
"""A batch size is chosen if its speed is at least this fraction of the best speed: smaller ones need less memory."""

MIN_DICE = 0.9995
"""Dice of every label between 16 bits and float32. Label maps must agree with 0.999, and windows are only a sample."""

ENOUGH_VOXELS = 20_000
"""Foreground voxels after which the comparison is decided."""

MAX_COMPARISONS = 12
"""Calls with foreground after which the comparison is decided in any case."""


@dataclass
class BatchTrial:
    """Finds the batch size while windows are predicted: from the largest down, until it gets slower."""

    chosen: int | None = None
    limit: int | None = None
    """Windows that fit into the device's memory at a time; None: it has not run out yet."""
    _seconds: dict[int, list[float]] = field(default_factory=dict)

    def next_size(self, num_windows: int) -> int:
        """The size to use for a call of this many windows."""
        largest = 1 << (num_windows.bit_length() - 1)
        if self.limit is not None:
            largest = min(largest, self.limit)
        if self.chosen is not None:
            if largest <= max(self._seconds):
                return self.chosen
            self.chosen = None  # calls were smaller so far
        size = largest
        while size > 1 and len(self._seconds.get(size, ())) > TIMED_CALLS:
            size //= 2
        return size

    def shrink(self, size: int) -> int:
        """The next smaller size, and the largest from now on, because `size` windows did not fit into memory."""
        self.limit = size // 2
        self.chosen = None
        self._seconds = {tried: values for tried, values in self._seconds.items() if tried <= self.limit}
        return self.limit

    def record(self, size: int, num_windows: int, seconds: float) -> None:
        """Add the seconds of a call; decide once smaller sizes were tried or are slower."""
        if num_windows < 2 or num_windows % size:
            return
        times = self._seconds.setdefault(size, [])
        times.append(seconds / num_windows)
        best = {tried: min(values[1:]) for tried, values in self._seconds.items() if len(values) > TIMED_CALLS}
        if size not in best:
            return
        fastest = min(best.values())
        if size == 1 or size // 2 in best or best[size] * KNEE > fastest:
            self.chosen = min(tried for tried, value in best.items() if value * KNEE <= fastest)


@dataclass
class PrecisionTrial:
    """Compares a 16-bit type with float32 on the first windows that show foreground."""

    candidate: torch.dtype
    is_softmax: bool
    """Whether the largest head decides, head 0 for background; else every positive head is a region."""
    accepted: bool | None = None
    """None: not decided yet."""
    _seconds: list[tuple[float, float]] = field(default_factory=list)
    _common: Tensor | None = None
    _sizes: Tensor | None = None

    def compare(self, exact: Tensor, coarse: Tensor, seconds: tuple[float, float]) -> None:
        """Compare the logits of one call, float32 first; decide after enough voxels, and log the reason."""
        common, sizes = self._overlap(exact, coarse)
        self._common = common if self._common is None else self._common + common
        self._sizes = sizes if self._sizes is None else self._sizes + sizes
        self._seconds.append(seconds)
        enough = int(self._sizes.sum()) >= 2 * ENOUGH_VOXELS and len(self._seconds) > TIMED_CALLS
        if enough or len(self._seconds) >= MAX_COMPARISONS:
            seen = self._sizes > 0
            self._decide(float((self._common[seen] / self._sizes[seen]).min()))

    def shows_foreground(self, logits: Tensor) -> bool:
        """Whether these logits have foreground, which the comparison needs."""
        if self.is_softmax:
            return bool((logits[:, 1:].amax(1) > logits[:, 0]).any())
        return bool((logits > 0).any())

    def _decide(self, lowest: float) -> None:
        exact, coarse = (min(values) for values in zip(*self._seconds[1:], strict=True))
        self.accepted = lowest >= MIN_DICE and coarse < exact
        name = str(self.candidate).removeprefix("torch.")
        logger.info(
            "precision %s: %s agrees with float32 on the first windows with Dice %.4f (%s needed), %.1f times as fast",
            name if self.accepted else "float32", name, lowest, MIN_DICE, exact / coarse,
        )  # fmt: skip

    def _overlap(self, exact: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """For each foreground head, twice the number of common voxels, and the sum of both numbers of voxels."""
        heads = exact.shape[1]
        if self.is_softmax:
            first, second = (logits.argmax(1).flatten() for logits in (exact, coarse))
            common, *sizes = (
                torch.bincount(labels, minlength=heads)[1:] for labels in (first[first == second], first, second)
            )
        else:
            masks = [logits.movedim(1, 0).flatten(1) > 0 for logits in (exact, coarse)]
            common, *sizes = (mask.sum(1) for mask in (masks[0] & masks[1], *masks))
        return 2 * common, sizes[0] + sizes[1]
