"""Logits at another size, some slices at a time, while the slices that they are made from are pushed.

An output row needs few source slices (two, when resized linearly), so few are held, whatever the volume's depth.

    slices (K, y, x), one after the other --weighted along z, resized in their plane--> rows start..stop (n, Y, X)
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from autoseg.imaging.arrays.resampling import axis_operator, separate_axis
from autoseg.records.case import Spacing, Triple
from autoseg.records.network import ResamplingSpec

HELD_VOXELS = 2**24
"""Voxels of source slices, all heads, that rows are cut to; 64 MB in float32. A row takes the slices that it needs."""


@dataclass(frozen=True)
class Resize:
    """From which size to which, and with which spline order along each axis."""

    shape: Triple
    new_shape: Triple
    orders: Triple

    def row_groups(self, num_heads: int, voxels: int) -> Iterator[tuple[int, int]]:
        """Start and stop of output rows to make at once: at most so many voxels, and few source slices."""
        thickness = max(1, min(voxels // math.prod(self.new_shape[1:]), self._rows_of_held_slices(num_heads)))
        for start in range(0, self.new_shape[0], thickness):
            yield start, min(start + thickness, self.new_shape[0])

    def _rows_of_held_slices(self, num_heads: int) -> int:
        slices = HELD_VOXELS // (num_heads * math.prod(self.shape[1:])) - 2
        return slices * self.new_shape[0] // self.shape[0]


def make_resize(
    shape: Triple, new_shape: Triple, spacing: Spacing, target_spacing: Spacing, spec: ResamplingSpec
) -> Resize:
    """A resize of logits; spacings in mm decide about an axis that is treated apart."""
    separate = separate_axis(spacing, target_spacing, spec)
    first, second, third = (spec.through_plane_order if axis == separate else spec.logits_order for axis in range(3))
    return Resize(shape, new_shape, (first, second, third))


class LogitResampler:
    """Resizes one stream of logits; rows are asked for in order, after the slices that they need were pushed."""

    def __init__(self, resize: Resize) -> None:
        """Begin with no slices.

        Args:
            resize: From which size to which.
        """
        self._resize = resize
        self._operator = _operator(resize.shape[0], resize.new_shape[0], resize.orders[0])
        self._held: deque[Tensor] = deque()
        self._first = 0
        """Index of the first slice that is held."""
        self._needed = range(0)
        """Slices that the prepared rows are made from."""
        self._rows = self._operator[:0]

    def prepare(self, start: int, stop: int) -> int:
        """Release slices before those that rows start..stop need, and count the slices that are still to be pushed."""
        rows = self._operator[start:stop]
        (used,) = torch.nonzero(rows.any(dim=0), as_tuple=True)
        self._needed = range(int(used[0]), int(used[-1]) + 1)
        self._rows = rows[:, self._needed.start : self._needed.stop]
        while self._held and self._first < self._needed.start:
            self._release_first()
        return max(0, self._needed.stop - self._first - len(self._held))

    def push(self, logits: Tensor) -> None:
        """Add the next slice, (K, y, x), float32 or float16; it is not changed."""
        self._held.append(logits)
        if self._first < self._needed.start:
            self._release_first()

    def heads(self) -> Iterator[Tensor]:
        """The prepared rows, head by head: K times (stop - start, Y, X), float32, the caller's own; on their device."""
        rows = self._rows.to(self._held[0].device)
        for head in range(len(self._held[0])):
            source = torch.stack([logits[head] for logits in self._held]).float()
            yield self._resized(source, rows)

    def _release_first(self) -> None:
        self._held.popleft()
        self._first += 1

    def _resized(self, source: Tensor, rows: Tensor) -> Tensor:
        if self._resize.shape[0] == self._resize.new_shape[0]:
            return self._in_plane(source)
        if len(source) < len(rows):  # whichever leaves fewer slices to resize in their plane
            return _weighted_slices(rows, self._in_plane(source))
        return self._in_plane(_weighted_slices(rows, source))

    def _in_plane(self, slices: Tensor) -> Tensor:
        """(n, y, x) -> (n, Y, X)."""
        shape, orders = self._resize.new_shape, self._resize.orders
        if slices.shape[1:] == shape[1:]:
            return slices
        if orders[1:] == (1, 1):  # the same numbers as the operators give, several times faster
            return functional.interpolate(slices[:, None], size=shape[1:], mode="bilinear", align_corners=False)[:, 0]
        if slices.shape[1] != shape[1]:
            operator = _operator(slices.shape[1], shape[1], orders[1]).to(slices.device)
            slices = torch.matmul(operator, slices)
        if slices.shape[2] != shape[2]:
            operator = _operator(slices.shape[2], shape[2], orders[2]).to(slices.device)
            slices = torch.matmul(slices, operator.T)
        return slices


def _weighted_slices(rows: Tensor, slices: Tensor) -> Tensor:
    """(n, z) times (z, Y, X) -> (n, Y, X)."""
    flat = torch.mm(rows, slices.reshape(len(slices), -1))
    return flat.reshape(len(rows), *slices.shape[1:])


def _operator(size: int, new_size: int, order: int) -> Tensor:
    if size == new_size:
        return torch.eye(size)
    return torch.from_numpy(axis_operator(size, new_size, order).astype(np.float32))
