"""Masks of instances on the grid of the image: averaged, resized, painted with the best score first.

The masks of an instance are averaged on a grid of the instance's own, about twice as fine as they are, and the mean is
resized to voxels: memory is that of one instance's box.

Tested in tests/inference/instances/test_pasting.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoseg.inference.instances.clustering import Cluster
from autoseg.inference.instances.found import FoundInstances

MIN_FREE = 0.5
"""Fraction of an instance's voxels that no better one has: what keeps less is taken for the same instance, as in
panoptic segmentation from masks (Kirillov et al. 2019)."""

FINENESS = 2
"""Points along an axis for each part of a mask."""

CHUNK_VOXELS = 2**22
"""Voxels of a mean that are resized at a time."""


@dataclass(frozen=True)
class PaintedInstance:
    """An instance in a map of instances; its number is its position in the list + 1."""

    label: int
    """Label index."""
    score: float
    mean_probability: float
    """Mean of its averaged masks over its voxels, [0, 1]."""


def paint_instances(
    clusters: Sequence[Cluster], found: FoundInstances, ids: NDArray[np.unsignedinteger], threshold: float
) -> list[PaintedInstance]:
    """Paint instances into an empty map, the best score first; no voxel belongs to two.

    Args:
        clusters: Instances.
        found: What they are made of, on the grid of the map.
        ids: (Z, Y, X), zeros; filled with numbers from 1 on.
        threshold: Probability from which a voxel belongs to an instance.

    Returns:
        The instances that were painted, by number.
    """
    painted: list[PaintedInstance] = []
    for cluster in sorted(clusters, key=lambda cluster: -cluster.score):
        start, stop = _voxel_bounds(found.boxes[cluster.pieces], ids.shape)
        inside = ids[tuple(map(slice, start, stop))]
        mean = _average(cluster, found, start, stop)
        mask, total = np.zeros(inside.shape, dtype=np.bool_), 0.0
        rows = max(1, CHUNK_VOXELS // max(1, math.prod(inside.shape[1:])))
        for first in range(0, len(mask), rows):
            chunk = mask[first : first + rows]
            probabilities = _resize(mean, inside.shape, first, first + len(chunk))
            chunk[:] = probabilities >= threshold
            total += float(probabilities[chunk].sum())
        voxels = int(mask.sum())
        free = mask & (inside == 0)
        if voxels == 0 or free.sum() < MIN_FREE * voxels:
            continue
        painted.append(PaintedInstance(cluster.label, cluster.score, total / voxels))
        inside[free] = len(painted)
    return painted


def _voxel_bounds(boxes: NDArray[np.float32], shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The whole voxels around boxes, within an array."""
    start = np.floor(boxes[:, 0].min(axis=0)).astype(np.int64).clip(0)
    stop = np.ceil(boxes[:, 1].max(axis=0)).astype(np.int64)
    return start, np.minimum(stop, shape)


def _average(
    cluster: Cluster, found: FoundInstances, start: NDArray[np.int64], stop: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Weighted mean of the masks at evenly spread points of a box; at each, of the windows that show it."""
    points = [_spread(cluster, found, axis, int(start[axis]), int(stop[axis])) for axis in range(3)]
    total = np.zeros([len(positions) for positions in points], dtype=np.float32)
    weights = np.zeros_like(total)
    for piece, weight in zip(cluster.pieces, cluster.weights, strict=True):
        shown = [_within(points[axis], found.windows[piece, :, axis]) for axis in range(3)]
        weights[tuple(shown)] += weight
        covered = [_within(points[axis], found.boxes[piece, :, axis]) for axis in range(3)]
        inner = [positions[part] for positions, part in zip(points, covered, strict=True)]
        if all(map(len, inner)):
            total[tuple(covered)] += weight * _sample(found.masks[piece], found.boxes[piece], inner)
    mean: NDArray[np.float32] = np.divide(total, weights, out=total, where=weights > 0)
    return mean


def _spread(cluster: Cluster, found: FoundInstances, axis: int, start: int, stop: int) -> NDArray[np.float64]:
    """Points along an axis of a box: voxels, or fewer where the masks are coarser; every slice of a 2D network."""
    boxes = found.boxes[cluster.pieces, :, axis]
    parts = found.masks[cluster.pieces[0]].shape[axis]
    count = stop - start
    if parts > 1:
        largest = float((boxes[:, 1] - boxes[:, 0]).max())
        count = min(count, math.ceil(FINENESS * parts * (stop - start) / largest))
    return start + (np.arange(count) + 0.5) * (stop - start) / count


def _within(points: NDArray[np.float64], bounds: NDArray[np.float32]) -> slice:
    first, last = np.searchsorted(points, bounds)
    return slice(int(first), int(last))


def _sample(
    mask: NDArray[np.uint8], box: NDArray[np.float32], points: Sequence[NDArray[np.float64]]
) -> NDArray[np.float32]:
    """Values of a mask at points within its box, linear between the centres of its parts, [0, 1]."""
    values: NDArray[np.float32] = mask.astype(np.float32) / np.float32(255)
    for axis, positions in enumerate(points):
        edge = max(float(box[1, axis] - box[0, axis]), 1e-6)
        values = _interpolate(values, (positions - box[0, axis]) / edge * mask.shape[axis] - 0.5, axis)
    return values


def _resize(mean: NDArray[np.float32], shape: Sequence[int], first: int, last: int) -> NDArray[np.float32]:
    """Rows `first` to `last` of the mean at the centres of voxels."""
    values = mean
    for axis, size in enumerate(shape):
        voxels = np.arange(first, last) if axis == 0 else np.arange(size)
        positions: NDArray[np.float64] = (voxels + 0.5) * mean.shape[axis] / size - 0.5
        if mean.shape[axis] != size or axis == 0:
            values = _interpolate(values, positions, axis)
    return values


def _interpolate(values: NDArray[np.float32], positions: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Values at positions along an axis, linear; those beyond the first and last value are as these."""
    last = values.shape[axis] - 1
    positions = positions.clip(0, last)
    lower = np.minimum(positions.astype(np.int64), max(last - 1, 0))
    upper = np.minimum(lower + 1, last)
    shape = [1] * values.ndim
    shape[axis] = len(positions)
    part = (positions - lower).astype(np.float32).reshape(shape)
    between: NDArray[np.float32] = values.take(lower, axis) * (1 - part) + values.take(upper, axis) * part
    return between
