"""Rotation, scaling and mirroring.

Rotation and scaling are one affine map, drawn before anything is read: the loader reads no more than the patch when
neither is due, and otherwise the box of source voxels that the map reaches. The image is sampled linearly; a voxel gets
the label with the largest linear weight among its neighbours, at a cost that does not depend on the number of labels.

Worked example: the factor 1.25 on a patch of 41 voxels reads source voxels from 25 before the centre to 25 after it,
so an object of 10 voxels becomes one of 8.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray

from autoseg.records.case import Triple
from autoseg.records.sides import SideSwap
from autoseg.training.data.augmentation.parameters import AugmentationRules, rotation_range_degrees, spatial_dimensions
from autoseg.training.data.batch import DrawnBatch
from autoseg.training.data.sampling import OUTSIDE_LABEL, SliceableArray, SliceableLabels, cut_box, cut_label_box

Matrix = NDArray[np.float64]
"""(D, D), offset from the patch's centre in the output -> in the source, voxels; D = 2 maps within slices."""

Coordinates = list[NDArray[np.float32]]
"""One array per mapped axis: where in the source every output voxel lies, voxels."""

BORDER_VOXELS = 1
"""Read around the source box: the upper neighbour in linear interpolation, and room for rounding."""


def draw_affine(patch_size: Sequence[int], rules: AugmentationRules, generator: np.random.Generator) -> Matrix | None:
    """The map from output to source for one sample.

    Args:
        patch_size: Voxels, (z, y, x) or (y, x); decides about axes and angles.
        rules: Probabilities and ranges.
        generator: Source of randomness.

    Returns:
        Rotation times scaling factor; None when neither is due.

    References:
        nnU-Net v2, as published.
    """
    dimensions = spatial_dimensions(patch_size)
    is_rotated = generator.random() < rules.rotation_probability
    is_scaled = generator.random() < rules.scaling_probability
    if not (is_rotated or is_scaled):
        return None
    matrix = np.eye(dimensions)
    if is_rotated:
        limit = math.radians(rotation_range_degrees(patch_size))
        matrix = rotation_matrix(generator.uniform(-limit, limit, size=1 if dimensions == 2 else 3))
    if is_scaled:
        matrix = matrix * generator.uniform(*rules.scaling_range)
    return matrix


def rotation_matrix(angles: Sequence[float] | NDArray[np.float64]) -> Matrix:
    """Product of rotations, about the z, y and x axis in 3D, within the slice in 2D.

    Args:
        angles: Radians; one for 2D, three for 3D. A positive angle in 2D turns the source offset (y, x) = (0, 1)
            towards negative y.

    Returns:
        (2, 2) or (3, 3), determinant 1.
    """
    if len(angles) == 1:
        return _plane_rotation(2, (0, 1), angles[0])
    planes = ((1, 2), (0, 2), (0, 1))
    first, second, third = (_plane_rotation(3, plane, angle) for plane, angle in zip(planes, angles, strict=True))
    return first @ second @ third


def _plane_rotation(dimensions: int, plane: tuple[int, int], angle: float) -> Matrix:
    matrix = np.eye(dimensions)
    matrix[plane[0], plane[0]] = matrix[plane[1], plane[1]] = math.cos(angle)
    matrix[plane[0], plane[1]] = -math.sin(angle)
    matrix[plane[1], plane[0]] = math.sin(angle)
    return matrix


def read_patch(
    array: SliceableArray,
    corner: Triple,
    matrix: Matrix | None,
    *,
    image: NDArray[np.float32],
    labels: NDArray[np.int16],
    neighbor_slices: int = 0,
) -> None:
    """Fill one sample of a batch from a case.

    Args:
        array: (C + 1, Z, Y, X), labels last.
        corner: Lower corner of the patch in the array, may be negative.
        matrix: Applied about the patch's centre; None: the patch is only cut out.
        image: Overwritten, (C, *P), or (C * (2 N + 1), *P) with N neighbouring slices on each side, slice by slice; 0
            outside the volume, but neighbours beyond its first or last slice are that slice again.
        labels: Overwritten, (*P); -1 outside the volume.
        neighbor_slices: N; the patch has one slice where it is not 0.
    """
    last, num_channels = array.shape[1] - 1, array.shape[0] - 1
    aside = np.empty_like(labels)
    for position, offset in enumerate(range(-neighbor_slices, neighbor_slices + 1)):
        depth = corner[0] + offset if offset == 0 else min(max(corner[0] + offset, 0), last)
        channels = image[position * num_channels : (position + 1) * num_channels]
        _read_box(array, (depth, *corner[1:]), matrix, channels, labels if offset == 0 else aside)


def _read_box(
    array: SliceableArray,
    corner: Triple,
    matrix: Matrix | None,
    image: NDArray[np.float32],
    labels: NDArray[np.int16],
) -> None:
    """`read_patch` without neighbouring slices."""
    if matrix is None:
        box = cut_box(array, corner, labels.shape)
        image[...] = box[:-1]
        labels[...] = box[-1]
        return
    start, size, coordinates = _source_box(corner, labels.shape, matrix)
    box = cut_box(array, start, size)
    mapped = size[-len(matrix) :]
    image[...] = sample_image(box[:-1].reshape(-1, *mapped), coordinates).reshape(image.shape)
    labels[...] = sample_labels(box[-1].astype(np.int16).reshape(-1, *mapped), coordinates).reshape(labels.shape)


def read_label_patch(
    labels: SliceableLabels, corner: Triple, matrix: Matrix | None, patch_size: Triple
) -> NDArray[np.int16]:
    """Read the patch of a label map that `read_patch` reads of its case.

    Args:
        labels: On the case's grid, (Z, Y, X).
        corner: Corner of the patch, like that of `read_patch`.
        matrix: Matrix like that of `read_patch`.
        patch_size: Voxels.

    Returns:
        Of shape `patch_size`, background outside the volume; do not write to it.
    """
    if matrix is None:
        return cut_label_box(labels, corner, patch_size)
    start, size, coordinates = _source_box(corner, patch_size, matrix)
    box = cut_label_box(labels, start, size)
    return sample_labels(box.reshape(-1, *size[-len(matrix) :]), coordinates).reshape(patch_size)


def _source_box(corner: Triple, patch_size: Triple, matrix: Matrix) -> tuple[Triple, Triple, Coordinates]:
    """Lower corner and size of the voxels that the map needs, and the output voxels' coordinates in that box."""
    dimensions = len(matrix)
    patch = np.asarray(patch_size[-dimensions:])
    centre = np.asarray(corner[-dimensions:]) + (patch - 1) / 2
    reach = np.abs(matrix) @ ((patch - 1) / 2)
    start = np.floor(centre - reach).astype(int) - BORDER_VOXELS
    size = np.ceil(centre + reach).astype(int) + BORDER_VOXELS + 1 - start
    coordinates = [
        _coordinate(row, origin, patch.tolist()) for row, origin in zip(matrix, (centre - start).tolist(), strict=True)
    ]
    return _with_slices(corner, start), _with_slices(patch_size, size), coordinates


def _coordinate(row: NDArray[np.float64], origin: float, patch_size: Sequence[int]) -> NDArray[np.float32]:
    """One source coordinate of every voxel of a patch that is centred at `origin`."""
    coordinate = np.full(patch_size, origin, dtype=np.float32)
    for axis, edge in enumerate(patch_size):
        part = row[axis] * (np.arange(edge) - (edge - 1) / 2)
        coordinate += part.astype(np.float32).reshape(-1, *(1,) * (len(patch_size) - 1 - axis))
    return coordinate


def _with_slices(original: Triple, mapped: NDArray[np.intp]) -> Triple:
    """The mapped axes' values; a map within slices leaves the first axis as it was."""
    values: list[int] = [*original[: 3 - len(mapped)], *mapped.tolist()]
    return values[0], values[1], values[2]


def sample_image(image: NDArray[np.float32], coordinates: Coordinates) -> NDArray[np.float32]:
    """Linear interpolation, 0 outside.

    Args:
        image: (N, *S), S having D axes.
        coordinates: D arrays of the output's shape, voxels of `image`.

    Returns:
        (N, *output shape).
    """
    grid = np.empty((*coordinates[0].shape, len(coordinates)), dtype=np.float32)
    for axis, (coordinate, size) in enumerate(zip(coordinates, image.shape[1:], strict=True)):
        # torch counts axes from the last one, and puts the outer faces of the volume at -1 and 1
        scaled = grid[..., len(coordinates) - 1 - axis]
        np.multiply(coordinate, np.float32(2 / size), out=scaled)
        scaled += np.float32(1 / size - 1)
    sampled = F.grid_sample(
        torch.from_numpy(image)[None],
        torch.from_numpy(grid)[None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    result: NDArray[np.float32] = sampled[0].numpy()
    return result


def sample_labels(labels: NDArray[np.int16], coordinates: Coordinates) -> NDArray[np.int16]:
    """The label with the largest linear weight: equal to interpolating a mask per label and taking the largest.

    Args:
        labels: (N, *S), S having D axes.
        coordinates: D arrays of the output's shape; at least 0 and at most size - 2 along each axis.

    Returns:
        (N, *output shape); only labels of the input. Equal weights: the label of the neighbour that comes first.
    """
    shape = labels.shape[1:]
    flat = labels.reshape(len(labels), -1)
    lower = [np.floor(coordinate) for coordinate in coordinates]
    index = np.ravel_multi_index([low.astype(np.intp) for low in lower], shape)
    result = flat[:, index]
    is_mixed = _mixed_neighbourhoods(labels).reshape(flat.shape)[:, index]
    layer, place = np.nonzero(is_mixed.reshape(len(labels), -1))
    fractions = [(coordinate - low).reshape(-1)[place] for coordinate, low in zip(coordinates, lower, strict=True)]
    neighbours = flat[layer, index.reshape(-1)[place] + _corner_offsets(shape)]
    result.reshape(-1)[layer * index.size + place] = _heaviest(neighbours, _corner_weights(fractions))
    return result


def _mixed_neighbourhoods(labels: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Whether a voxel and its upper neighbours, (2, ..., 2) voxels in all, carry more than one label."""
    lowest, highest = labels.copy(), labels.copy()
    for axis in range(1, labels.ndim):
        here = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        np.minimum(lowest[here], lowest[after], out=lowest[here])
        np.maximum(highest[here], highest[after], out=highest[here])
    mixed: NDArray[np.bool_] = lowest != highest
    return mixed


def _corner_offsets(shape: Sequence[int]) -> NDArray[np.intp]:
    """Flat index distance from a voxel to its (2, ..., 2) upper neighbours, itself first; (2 ** D, 1)."""
    corners = np.array(list(itertools.product((0, 1), repeat=len(shape))))
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    offsets: NDArray[np.intp] = (corners @ strides)[:, None]
    return offsets


def _corner_weights(fractions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Linear weight of each of the (2, ..., 2) neighbours, in the order of `_corner_offsets`; (2 ** D, N)."""
    pairs = [(1 - fraction, fraction) for fraction in fractions]
    return np.stack([math.prod(factors[1:], start=factors[0]) for factors in itertools.product(*pairs)])


def _heaviest(labels: NDArray[np.int16], weights: NDArray[np.float32]) -> NDArray[np.int16]:
    """Per column the label whose weights have the largest sum; both (neighbours, N)."""
    votes = np.stack([np.sum(weights * (labels == label), axis=0) for label in labels])
    winner = votes.argmax(axis=0)
    heaviest: NDArray[np.int16] = np.take_along_axis(labels, winner[None], axis=0)[0]
    return heaviest


class Mirror(AbstractTransform):  # type: ignore[misc]  # batchgenerators has no type hints
    """Mirror image and labels of each sample, every allowed axis for itself; labels with a side change places."""

    def __init__(self, axes: Sequence[int], *, probability: float, swap: SideSwap | None = None) -> None:
        self.axes = tuple(axes)
        self.probability = probability
        self.swap = swap

    def __call__(self, **batch: Unpack[DrawnBatch]) -> DrawnBatch:
        """Mirror in place; axis 0 is the first spatial axis."""
        label_maps = [batch["target"], batch["previous"]] if "previous" in batch else [batch["target"]]
        for sample, generator in enumerate(batch["generators"]):
            chosen = tuple(axis for axis in self.axes if generator.random() < self.probability)
            if chosen:
                image = batch["image"][sample]
                image[...] = np.flip(image, tuple(axis + 1 for axis in chosen))
                for labels in label_maps:
                    labels[sample] = mirror_labels(labels[sample], chosen, self.swap)
        return batch


def mirror_labels(
    labels: NDArray[np.integer], axes: tuple[int, ...], swap: SideSwap | None = None
) -> NDArray[np.integer]:
    """A label map mirrored along some axes.

    Args:
        labels: Label indices, (*S); -1 outside the nonzero mask.
        axes: Spatial axes; 0 is the first of S.
        swap: Labels that change places where its axis is mirrored; None: none do.
    """
    mirrored = np.flip(labels, axes)
    if swap is None or swap.axis not in axes:
        return mirrored
    after = np.array([*swap.labels, OUTSIDE_LABEL], dtype=labels.dtype)  # the index -1 is that of the last one
    return after[mirrored]
