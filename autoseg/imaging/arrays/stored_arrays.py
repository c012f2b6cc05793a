"""Arrays on disk, chunked and compressed, read box by box.

An array is opened for each reading (`StoredArray`): a training with thousands of cases would need more open files than
systems allow. `keep_open` saves the opening for the arrays that were read last.

Tested in tests/imaging/arrays/test_storage.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from autoseg.errors import DatasetError
from autoseg.records.case import Triple

if TYPE_CHECKING:
    import blosc2

MAX_BLOCK_BYTES = 128 * 1024
"""Largest block in bytes: fits the second-level cache of a core."""
MAX_CHUNK_BYTES = 6 * 1024 * 1024
"""Largest chunk in bytes: fits a core's part of the third-level cache."""
COMPRESSION_LEVEL = 5
"""Level of LZ4: writes about 30 times faster than LZ4HC at level 8 and reads as fast; files are about 30 % larger."""
VOXEL_BYTES = 4
Opener: TypeAlias = "Callable[[Path], blosc2.NDArray]"
"""Function that opens an array on disk: `open_array`, or what `keep_open` gives."""

MAX_OPEN_ARRAYS = 64
"""Number of arrays that stay open for one loader; systems allow a process 256 to 1,024 open files."""

MAX_ROUNDING_NS = 2_000_000_000
"""Largest difference between two times of one file, ns: file systems round, and network drives do so later."""


@dataclass(frozen=True)
class StoredArray:
    """An array on disk, read box by box."""

    path: Path
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    opener: Opener
    """Function that opens the file whenever it is read."""
    written_ns: int
    """Time at which the file was written, ns: another time means another file."""

    def __getitem__(self, box: int | slice | tuple[slice | int, ...], /) -> NDArray[Any]:
        """Read a box.

        Raises:
            DatasetError: If the file has been replaced since.
            OSError: If the file is missing.
            RuntimeError: If it is damaged.
        """
        array = self.opener(self.path)
        if array.shape != self.shape:
            raise DatasetError(
                f"{self.path}: has the shape {array.shape}, and {self.shape} when it was opened first: it was replaced "
                "while it was in use. Run the same command again."
            )
        if abs(self.path.stat().st_mtime_ns - self.written_ns) > MAX_ROUNDING_NS:
            raise DatasetError(
                f"{self.path}: was written again while it was in use, as planning again does. Run the same command "
                "again."
            )
        values: NDArray[Any] = array[box]
        return values


def open_array(path: Path) -> "blosc2.NDArray":
    """Open an array, mapped into memory; its file stays open as long as the result is kept."""
    import blosc2  # slow to import, and prediction does not need it

    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))


class _KeptOpen:
    """Opens arrays as `open_array` does and keeps the MAX_OPEN_ARRAYS that were used last; in each process its own."""

    def __init__(self) -> None:
        self._open = lru_cache(MAX_OPEN_ARRAYS)(open_array)

    def __call__(self, path: Path) -> "blosc2.NDArray":
        return self._open(path)

    @override
    def __reduce__(self) -> tuple[type["_KeptOpen"], tuple[()]]:
        return _KeptOpen, ()


def keep_open() -> Opener:
    """A function that opens arrays as `open_array` does and keeps the MAX_OPEN_ARRAYS that were used last."""
    return _KeptOpen()


def describe_array(path: Path, array: "blosc2.NDArray", opener: Opener) -> StoredArray:
    """An array that was opened, to be opened again for each reading."""
    return StoredArray(path, array.shape, array.dtype, opener, path.stat().st_mtime_ns)


def chunk_layout(shape: tuple[int, ...], patch_size: tuple[int, ...]) -> tuple[Triple, Triple]:
    """Chunk and block shape that suit reading patches of one size.

    A block is decompressed at once: it is the power of two above the patch, limited to the array, then halved along
    the axis that covers most of the patch until it is small enough. A chunk is written at once: it grows from one
    block along the axis that covers least of the array.

    Args:
        shape: Shape of the array, (z, y, x).
        patch_size: Patch size, (z, y, x) or (y, x), voxels; with a pair, single planes are read.

    Returns:
        Shapes of chunks and of blocks, (z, y, x), voxels.

    References:
        nnU-Net v2 (Isensee et al. 2021), layout of preprocessed arrays. Differs: chunks may be much larger than a
        patch, as single blocks are read out of them; many small chunks take ten times as long to write.
    """
    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    block = [min(size, 1 << (extent - 1).bit_length()) for size, extent in zip(shape, patch, strict=True)]
    while math.prod(block) * VOXEL_BYTES > MAX_BLOCK_BYTES:
        axis = max(range(3), key=lambda axis: block[axis] / patch[axis] if block[axis] > 1 else 0)
        block[axis] = (block[axis] + 1) // 2
    chunk = block
    while True:
        grown = [
            [*chunk[:axis], min(shape[axis], chunk[axis] + block[axis]), *chunk[axis + 1 :]]
            for axis in sorted(range(3), key=lambda axis: chunk[axis] / shape[axis])
            if chunk[axis] < shape[axis]
        ]
        fitting = [larger for larger in grown if math.prod(larger) * VOXEL_BYTES <= MAX_CHUNK_BYTES]
        if not fitting:
            return (chunk[0], chunk[1], chunk[2]), (block[0], block[1], block[2])
        chunk = fitting[0]


def write_array(
    values: NDArray[np.generic], chunks: tuple[int, ...], blocks: tuple[int, ...], path: Path
) -> "blosc2.NDArray":
    """Compress an array into a file."""
    import blosc2  # slow to import, and prediction does not need it

    return blosc2.asarray(
        values,
        chunks=chunks,
        blocks=blocks,
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=COMPRESSION_LEVEL, nthreads=1),
        dparams=blosc2.DParams(nthreads=1),
        urlpath=str(path),
        mode="w",
    )
