"""Sums of blended windows for the slices that windows still reach: a slab that moves along the first axis.

Windows come in the order of the first axis, so slices before the next window are final and leave the slab. It is as
deep as the windows of one network pass reach, whatever the depth of the volume; slice z lies at z modulo its depth.
"""

import logging
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from autoseg.errors import PredictionError
from autoseg.networks.devices import is_out_of_memory, release_cached_memory

logger = logging.getLogger("autoseg.predict")

Place = Literal["device", "ram", "file"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class SlabStorage:
    """Where sums of windows are kept, and in which type."""

    place: Place = "ram"
    """`device`: beside the network; `file`: a temporary file, mapped into memory."""
    dtype: torch.dtype = torch.float32
    """Type of the values: float32 holds sums, float16 the mean so far, because a Gaussian's tails underflow in float16
    and logits do not."""
    device: torch.device = CPU
    """Device of the networks, to which windows go; the sums are kept there in the place `device`."""

    def describe(self) -> str:
        """Place and type in words, for the log."""
        where = {"device": "on the device", "ram": "in RAM", "file": f"in a file in {tempfile.gettempdir()}"}
        return f"{where[self.place]}, {str(self.dtype).removeprefix('torch.')}"


class LogitSlab:
    """Weighted mean of windows, slice by slice.

    Float32 sums are added in the order of the windows and divided once, as in a volume of full size: the numbers are
    the same to the bit. In a file, memory holds no more than one slice of what was last touched.
    """

    def __init__(self, num_heads: int, depth: int, plane: tuple[int, int], storage: SlabStorage) -> None:
        """Allocate the memory.

        Args:
            num_heads: K.
            depth: Slices; at least as many as are open at a time.
            plane: (Y, X) of the image, voxels.
            storage: Place and type of the sums.

        Raises:
            PredictionError: If the temporary file cannot be that large.
        """
        self.device = storage.device if storage.place == "device" else CPU
        self._depth = depth
        self._is_mean = storage.dtype != torch.float32
        self._mapping: mmap.mmap | None = None
        shape = (depth, num_heads, *plane)
        if storage.place == "file":
            self._mapping = _map_temporary_file(torch.Size(shape).numel() * storage.dtype.itemsize)
            self._values = torch.frombuffer(self._mapping, dtype=storage.dtype).reshape(shape)
        else:
            self._values = torch.zeros(shape, dtype=storage.dtype, device=self.device)
        self._weights = torch.zeros((depth, *plane), device=self.device)

    def move_to_ram(self) -> None:
        """Give the memory of the device back; the sums stay as they are."""
        self.device = CPU
        self._values, self._weights = self._values.cpu(), self._weights.cpu()

    def add(self, logits: Tensor, weights: Tensor, start: int, rows: slice, columns: slice) -> None:
        """Blend one window in.

        Args:
            logits: (K, z, y, x), float32, on `self.device`; overwritten.
            weights: Weights of the window's voxels, (z, y, x).
            start: First slice of the window in the image.
            rows: Range of y in the image.
            columns: Range of x in the image.
        """
        if not self._is_mean:
            logits.mul_(weights)
        for first, last in self._runs(start, start + logits.shape[1]):
            position = slice(first % self._depth, first % self._depth + last - first)
            values, total = self._values[position, :, rows, columns], self._weights[position, rows, columns]
            own, own_weights = (
                logits[:, first - start : last - start].movedim(1, 0),
                weights[first - start : last - start],
            )
            total += own_weights
            if self._is_mean:
                values.copy_(torch.lerp(values.float(), own, (own_weights / total)[:, None]))
            else:
                values += own
            self._release_pages()

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Slices to add at once: one by one on a CPU, for memory's sake; on a GPU all that lie side by side."""
        while start < stop:
            end = start + 1 if self.device.type == "cpu" else min(stop, start - start % self._depth + self._depth)
            yield start, end
            start = end

    def is_finite(self, indices: Iterable[int]) -> bool:
        """Whether the sums of these slices have no undefined or infinite value; waits for the device."""
        positions = [index % self._depth for index in indices]
        return bool(torch.stack([torch.isfinite(self._values[position]).all() for position in positions]).all())

    def pop(self, index: int) -> Tensor:
        """The mean (K, Y, X) of a slice that no later window reaches, float32, where the sums are; makes room."""
        values, total = self._values[index % self._depth], self._weights[index % self._depth]
        mean = values.to(torch.float32, copy=True) if self._is_mean else values / total
        values.zero_()
        total.zero_()
        self._release_pages()
        return mean

    def _release_pages(self) -> None:
        """Release the memory pages of the file; the system keeps their content on disk."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


def open_slab(num_heads: int, depth: int, plane: tuple[int, int], storage: SlabStorage) -> LogitSlab:
    """A slab in its place, or in RAM where the memory of the device is too small for it; see `LogitSlab`."""
    try:
        return LogitSlab(num_heads, depth, plane, storage)
    except (RuntimeError, MemoryError) as error:
        if storage.place != "device" or not is_out_of_memory(error):
            raise
    release_cached_memory(storage.device)
    logger.warning("the memory of %s is too small for the sums of windows; they are kept in RAM", storage.device)
    return LogitSlab(num_heads, depth, plane, replace(storage, place="ram"))


def _map_temporary_file(size: int) -> mmap.mmap:
    """A file of zeros without a name: it vanishes with the mapping, even if the process is killed."""
    with tempfile.TemporaryFile(prefix="autoseg-") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is noticed here, not by a signal later
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise PredictionError(
                f"{tempfile.gettempdir()}: no temporary file of {size / 1e9:.2f} GB for logits ({error}). Free disk "
                "space there, name another folder in TMPDIR, or allow more memory."
            ) from error
