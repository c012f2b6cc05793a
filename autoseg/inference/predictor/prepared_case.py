"""An image on its way through the networks, and what each step takes.

Tested in tests/stages/test_predictor.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.records.case import Grid, Orientation, PreprocessedCase


@dataclass(frozen=True)
class PreparedCase:
    """An image, preprocessed for all networks; predicted once."""

    grid: Grid
    """Stored order."""
    orientation: Orientation
    """From stored to working axes."""
    storage: SlabStorage
    inputs: dict[str, tuple[NDArray[np.float32], PreprocessedCase]]
    """By configuration, the earlier stages of cascades too."""
    image: NDArray[np.float32] | None
    """The normalised crop at the image's own resolution, for refiners; None without any."""
    warnings: tuple[str, ...]
    """How the image departs from the training images."""
    is_flat: bool
    """Two-dimensional, and so without volumes."""
    seconds: dict[str, float]
    """By step, so far."""


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add what the block takes to its step, but for what other steps take within it."""
    start, before = time.perf_counter(), sum(seconds.values())
    try:
        yield
    finally:
        others = sum(seconds.values()) - before
        seconds[step] += time.perf_counter() - start - others


def timed_slices(slices: Iterator[Tensor], seconds: dict[str, float]) -> Iterator[Tensor]:
    """The same slices; what it takes to make them is added to the network's time."""
    while True:
        with timed(seconds, "network"):
            logits = next(slices, None)
        if logits is None:
            return
        yield logits
