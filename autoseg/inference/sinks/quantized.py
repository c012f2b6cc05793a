"""Probabilities as the number of thresholds below them: what a sweep over thresholds needs, in one byte a voxel.

Where a region is surely there or surely not, levels are equal over wide areas, so their file is hardly larger than a
label map's.

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
from autoseg.inference.restoring.restore import ProbabilitySink
from autoseg.records.case import PreprocessedCase, Triple
from autoseg.records.files import replacing

RECORD = "record"
CHUNK_BYTES = 2**22
"""Of one head."""


@contextmanager
def level_file(
    path: Path, record: PreprocessedCase, thresholds: Sequence[float], num_heads: int
) -> Iterator[ProbabilitySink]:
    """A compressed file (.b2nd) of levels, uint8 (K, z, y, x) of the cropped box; it appears when it is complete.

    Args:
        path: The file.
        record: Where the box lies; kept in the file.
        thresholds: Ascending; the level of a probability is how many of them it exceeds.
        num_heads: K.

    Yields:
        What takes the probabilities, rows in order.
    """
    depth, height, width = crop_shape(record)
    chunk: Triple = (max(1, min(depth, CHUNK_BYTES // (height * width))), height, width)
    boundaries = torch.tensor(list(thresholds), dtype=torch.float32)
    with replacing(path) as temporary:
        array = blosc2.zeros(
            (num_heads, depth, height, width), dtype=np.uint8, urlpath=str(temporary), mode="w", chunks=(1, *chunk),
            cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1),
        )  # fmt: skip
        array.schunk.vlmeta[RECORD] = record.model_dump_json()

        def write(_record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
            levels = torch.bucketize(probabilities.contiguous(), boundaries, out_int32=True)
            array[:, start:stop] = levels.to(torch.uint8).numpy()

        yield write


def open_levels(path: Path) -> tuple[blosc2.NDArray, PreprocessedCase]:
    """What `level_file` wrote; reads no voxels: index the array with slices.

    Raises:
        DatasetError: If the file is missing or damaged.
    """
    try:
        array = blosc2.open(str(path), mode="r", mmap_mode="r")
        record = PreprocessedCase.model_validate_json(array.schunk.vlmeta[RECORD])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: missing or damaged ({error}); delete it and select again") from error
    return array, record
