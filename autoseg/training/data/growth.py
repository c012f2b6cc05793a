"""Patches that grow while training goes on: which one a batch has, and batches of all of them in one stream.

    8 x 16 x 8, batch 16 -> 16 x 24 x 16, batch 8 -> ... -> the configuration's own patch and batch

A patch is decided by the progress at which its batch is trained on. Where steps decide how long a training is, that
is the batch's number, so a resumed training takes the same patches; where a clock does, it is the clock.
"""

from collections.abc import Callable, Generator
from contextlib import closing

from autoseg.records.training import GrowingPatch, TrainingSpec
from autoseg.training.data.batch import Batch


def find_growing_patch(training: TrainingSpec, progress: float) -> GrowingPatch | None:
    """The smaller patch that is trained on at a progress in [0, 1]; None: the configuration's own."""
    return next((growing for growing in training.growing_patches if progress < growing.until), None)


def own_patch_fraction(training: TrainingSpec) -> float:
    """Fraction of the training that takes the configuration's own patch."""
    return 1.0 - training.growing_patches[-1].until if training.growing_patches else 1.0


def join_batches(
    choose: Callable[[int], GrowingPatch | None],
    open_batches: Callable[[GrowingPatch | None, int], Generator[Batch, None, None]],
    first_batch: int,
) -> Generator[Batch, None, None]:
    """Batches without end; where the patch changes, one loader is closed and the next one opened.

    Args:
        choose: Patch of a batch by its number; asked when the batch is wanted.
        open_batches: Gives batches of one patch from a number on.
        first_batch: Number of the first batch.
    """
    number = first_batch
    while True:
        growing = choose(number)
        with closing(open_batches(growing, number)) as batches:
            while choose(number) == growing:
                yield next(batches)
                number += 1
