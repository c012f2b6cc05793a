"""Probabilities as the number of thresholds that they exceed: what a sweep over thresholds needs, in one byte a voxel.

Where a region is certainly present or absent, these numbers are equal over wide areas, so the file is hardly larger
than a label map.

Tested in tests/selection/test_thresholds.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import blosc2
import numpy as np
import torch
from torch import Tensor

from autoseg.errors import DatasetError
from autoseg.imaging.arrays.cropping import crop_shape
from autoseg.records.case import PreprocessedCase, Triple
from autoseg.records.files import replacing

RECORD = "record"
CHUNK_BYTES = 2**22
"""Size of a chunk of one head."""


class QuantizedVolume:
    """Quantised probabilities of the cropped box, filled slab by slab; a `ProbabilitySink`."""

    def __init__(self, array: blosc2.NDArray, thresholds: Sequence[float]) -> None:
        """Fill an array (K, Z, Y, X), uint8; thresholds ascend."""
        self._array = array
        self._boundaries = torch.tensor(list(thresholds), dtype=torch.float32)

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        boundaries = self._boundaries.to(probabilities.device)
        exceeded = torch.bucketize(probabilities.contiguous(), boundaries, out_int32=True)
        self._array[:, start:stop] = exceeded.to(torch.uint8).cpu().numpy()


@contextmanager
def quantized_file(
    path: Path, record: PreprocessedCase, thresholds: Sequence[float], num_heads: int
) -> Iterator[QuantizedVolume]:
    """A compressed file (.b2nd) of quantised probabilities of the cropped box, uint8 (K, Z, Y, X); see `replacing`.

    Args:
        path: The file.
        record: Place of the box in the image; kept in the file.
        thresholds: Ascending; a probability is stored as the number of them that it exceeds.
        num_heads: K.

    Yields:
        What takes the probabilities, rows in order.
    """
    depth, height, width = crop_shape(record)
    chunk: Triple = (max(1, min(depth, CHUNK_BYTES // (height * width))), height, width)
    with replacing(path) as temporary:
        array = blosc2.zeros(
            (num_heads, depth, height, width), dtype=np.uint8, urlpath=str(temporary), mode="w", chunks=(1, *chunk),
            cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1),
        )  # fmt: skip
        array.schunk.vlmeta[RECORD] = record.model_dump_json()

        yield QuantizedVolume(array, thresholds)


def open_quantized(path: Path) -> tuple[blosc2.NDArray, PreprocessedCase]:
    """Open a file that `quantized_file` wrote, without reading voxels: index the array with slices.

    Raises:
        DatasetError: If the file is missing or damaged.
    """
    try:
        array = blosc2.open(str(path), mode="r", mmap_mode="r")
        record = PreprocessedCase.model_validate_json(array.schunk.vlmeta[RECORD])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: missing or damaged ({error}); delete it and select again") from error
    return array, record
