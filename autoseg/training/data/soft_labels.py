"""Patches of unlabelled images with the labels of a teacher, drawn for each patch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.arrays.soft_codes import draw_labels
from autoseg.training.data.sampling import SliceableArray


@dataclass(frozen=True)
class SoftLabels:
    """The labels that a teacher has given an image."""

    codes: SliceableArray
    """(1, Z, Y, X), see `imaging.arrays.soft_codes`; -1 outside the nonzero mask."""
    num_labels: int
    """Number of labels, background included; also the index of voxels that do not count."""
    min_confidence: float
    """Probability below which a voxel does not count, [0, 1]."""


@dataclass(frozen=True)
class DrawnArray:
    """An image with labels that are drawn whenever a box is read; a `SliceableArray`."""

    image: SliceableArray
    """(C + 1, Z, Y, X); its own labels, the last channel, are replaced."""
    soft: SoftLabels
    generator: np.random.Generator
    """Source of randomness of one patch."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, then voxels."""
        return self.image.shape

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[np.float32]:
        """Read a box, all channels of it."""
        values = np.array(self.image[box])
        codes = self.soft.codes[box][0]
        values[-1] = draw_labels(codes, self.soft.num_labels, self.soft.min_confidence, self.generator)
        return values
