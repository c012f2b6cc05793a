"""Probabilities by head on the image's own grid, filled slab by slab: in memory, or in a compressed file.

Example: 105 heads of 512 x 512 x 600 voxels are 33 GB; in a file, no more than one slab of them is in memory.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoseg.records.case import Orientation, PreprocessedCase, Triple
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import replacing

if TYPE_CHECKING:
    import blosc2

CHUNK_BYTES = 2**22
"""Size of a chunk of one head. A chunk is compressed whole, and again for each further slab that reaches into it."""


class ProbabilityVolume:
    """Probabilities (K, Z, Y, X), float16, axes in stored order; outside the crop background has 1, regions have 0."""

    def __init__(
        self, array: "NDArray[np.float16] | blosc2.NDArray", encoding: LabelEncoding, orientation: Orientation
    ) -> None:
        """Fill an array of zeros.

        Args:
            array: Zeros (K, Z, Y, X).
            encoding: Label encoding of the heads.
            orientation: Way from stored to working axes.
        """
        self._array = array
        self._orientation = orientation
        if encoding.activation == "softmax":
            step = array.shape[1] if isinstance(array, np.ndarray) else array.chunks[1]
            for first in range(0, array.shape[1], step):
                last = min(first + step, array.shape[1])
                array[0, first:last] = np.ones((last - first, *array.shape[2:]), dtype=np.float16)

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        stored_axes = [self._orientation.axes[working] for working in record.transpose]
        starts = (record.crop_start[0] + start, *record.crop_start[1:])
        stops = (record.crop_start[0] + stop, *record.crop_stop[1:])
        box = [slice(0)] * 3
        flipped = [axis for axis in range(3) if self._orientation.flips[record.transpose[axis]]]
        for axis, (first, last, size) in enumerate(zip(starts, stops, record.original_shape, strict=True)):
            box[stored_axes[axis]] = slice(size - last, size - first) if axis in flipped else slice(first, last)
        values = np.flip(probabilities.cpu().numpy(), tuple(1 + axis for axis in flipped))
        values = values.transpose(0, *(1 + stored_axes.index(stored) for stored in range(3)))
        self._array[:, *box] = np.ascontiguousarray(values, dtype=np.float16)


@contextmanager
def probability_file(path: Path, shape: tuple[int, ...], slab_axis: int) -> "Iterator[blosc2.NDArray]":
    """A chunked, compressed blosc2 array (.b2nd) of zeros to fill, float16; it appears when it is complete.

    Args:
        path: The file.
        shape: (K, Z, Y, X).
        slab_axis: The spatial axis, 0 to 2, along which it is filled.

    Yields:
        The array, open for writing.
    """
    import blosc2  # slow to import, and most predictions do without

    with replacing(path) as temporary:
        yield blosc2.zeros(
            shape, dtype=np.float16, urlpath=str(temporary), mode="w", chunks=(1, *_chunk(shape[1:], slab_axis)),
            cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1),
        )  # fmt: skip


def _chunk(shape: tuple[int, ...], slab_axis: int) -> Triple:
    plane = math.prod(size for axis, size in enumerate(shape) if axis != slab_axis)
    thickness = max(1, min(shape[slab_axis], CHUNK_BYTES // (2 * plane)))
    z, y, x = (thickness if axis == slab_axis else size for axis, size in enumerate(shape))
    return z, y, x
