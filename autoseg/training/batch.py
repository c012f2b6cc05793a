"""What the loader hands to the training loop, and what its transforms hand to each other."""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Batch(TypedDict):
    """One batch, as the training loop gets it."""

    image: NDArray[np.float32]
    """(B, C, Z, Y, X), or (B, C, Y, X) for a 2D configuration; contiguous."""
    target: NDArray[np.int16]
    """Label indices, (B, Z, Y, X) or (B, Y, X); background where the case has no voxel, the ignore index kept."""
    cases: list[str]
    """Case id by sample."""


class DrawnBatch(Batch):
    """A batch on its way through the transforms; here `target` still is -1 outside the nonzero mask."""

    generator: np.random.Generator
    """The only source of randomness: every transform draws from it, in order, sample by sample."""
