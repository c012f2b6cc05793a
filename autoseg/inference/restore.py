"""From logits on the network's grid to labels on the image's own grid, slab by slab.

Logits are resized, decided (running argmax, or regions painted in order), pasted into the uncropped box, and the
plan's transpose is undone; or, in a cascade, they are resized to the next stage's grid and decided there. A slab holds
some slices of one head at a time, so memory beyond the logits depends neither on the number of heads nor on the
image's size.

    logits (K, z, y, x) --resize slab, head by head--> label slab (n, Y, X) --paste, transpose back--> (Z, Y, X)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.errors import PredictionError
from autoseg.imaging.resampling import axis_operator, separate_axis
from autoseg.records.case import PreprocessedCase, Spacing, Triple
from autoseg.records.dataset import LabelEncoding
from autoseg.records.network import ResamplingSpec

SLAB_VOXELS = 2**22
"""Voxels of one resized slab, all its heads together where several are held; 16 MB in float32."""


@dataclass(frozen=True)
class _Resize:
    """To which size, and with which spline order along each axis."""

    shape: Triple
    orders: Triple


@dataclass(frozen=True)
class CaseLogits:
    """One configuration's answer to one case."""

    logits: Tensor
    """(K, Z, Y, X) on the preprocessed grid."""
    record: PreprocessedCase
    resampling: ResamplingSpec


def restore_labels(
    logits: Tensor | NDArray[np.float32], record: PreprocessedCase, encoding: LabelEncoding, spec: ResamplingSpec
) -> NDArray[np.int16]:
    """Label map of a case from its logits.

    Args:
        logits: (K, Z, Y, X) on the preprocessed grid.
        record: What preprocessing did.
        encoding: Which label index each head stands for.
        spec: Order of the resize, and the rule for slices far apart.

    Returns:
        Label indices (Z, Y, X) in working orientation, before the crop and the plan's transpose; background outside
        the crop. Where two heads are equal, the first wins.

    References:
        nnU-Net v2 (Isensee et al. 2021), export: logits resized linearly, then argmax, or regions painted in order
        where the sigmoid exceeds one half. Differs: slab by slab.
    """
    labels, cropped = _empty_volume(record, np.dtype(np.int16))
    _decide_slabs(torch.as_tensor(logits), _to_cropped_box(record, spec), encoding, cropped)
    return labels


def restore_on_grid(case: CaseLogits, grid: PreprocessedCase, encoding: LabelEncoding) -> NDArray[np.int16]:
    """Label map on another configuration's preprocessed grid: what a cascade's next stage gets.

    Args:
        case: Logits of the previous stage.
        grid: What preprocessing for the next stage did to the same case.
        encoding: Which label index each head stands for.

    Returns:
        Label indices, shape `grid.shape`. Where two heads are equal, the first wins.

    Raises:
        PredictionError: If the two configurations were cropped to different boxes; else one resize is all that lies
            between their grids.

    References:
        nnU-Net v2 (Isensee et al. 2021), cascade: logits resized linearly to the next stage's shape, then argmax.
        Differs: slab by slab; at prediction too, where nnU-Net resamples the label map of the whole image.
    """
    _check_same_box([case.record, grid], "the label map cannot be passed on; preprocess both again")
    labels = np.empty(grid.shape, dtype=np.int16)
    resize = _Resize(grid.shape, _orders(case.record.spacing, grid.spacing, case.resampling))
    _decide_slabs(case.logits, resize, encoding, labels)
    return labels


def restore_mean_labels(members: Sequence[CaseLogits], encoding: LabelEncoding) -> NDArray[np.int16]:
    """Label map from the mean of the probabilities of several configurations; else as `restore_labels`.

    References:
        nnU-Net v2 (Isensee et al. 2021): configurations are combined by their mean probabilities.
    """
    labels, cropped = _empty_volume(members[0].record, np.dtype(np.int16))
    decide = _largest_head if encoding.activation == "softmax" else _painted_regions
    for start, stop, probabilities in mean_probability_slabs(members, encoding):
        # painting asks for values above zero, which is a probability above one half
        heads = iter(probabilities if encoding.activation == "softmax" else probabilities.sub_(0.5))
        cropped[start:stop] = decide(heads, encoding).numpy()
    return labels


def restore_probabilities(members: Sequence[CaseLogits], encoding: LabelEncoding) -> NDArray[np.float16]:
    """Mean probabilities by head.

    Returns:
        (K, Z, Y, X) in working orientation, before the crop; outside it background has 1, regions have 0.
    """
    record = members[0].record
    heads = len(encoding.heads)
    volume = np.zeros((heads, *_working_shape(record)), dtype=np.float16)
    if encoding.activation == "softmax":
        volume[0] = 1
    cropped = volume.transpose(0, *(axis + 1 for axis in record.transpose))[:, *_crop_box(record)]
    for start, stop, probabilities in mean_probability_slabs(members, encoding):
        cropped[:, start:stop] = probabilities.to(torch.float16).numpy()
    return volume


def _decide_slabs(logits: Tensor, resize: _Resize, encoding: LabelEncoding, labels: NDArray[np.int16]) -> None:
    """Fill `labels`, of shape `resize.shape`."""
    decide = _largest_head if encoding.activation == "softmax" else _painted_regions
    for start, stop in _slabs(resize.shape):
        heads = (_resized(head, resize, start, stop) for head in logits)
        labels[start:stop] = decide(heads, encoding).numpy()


def _largest_head(heads: Iterator[Tensor], encoding: LabelEncoding) -> Tensor:
    best = next(heads).clone()
    labels = torch.full(best.shape, encoding.heads[0].painted_index, dtype=torch.int16)
    for description, values in zip(encoding.heads[1:], heads, strict=True):
        labels.masked_fill_(values > best, description.painted_index)
        torch.maximum(best, values, out=best)
    return labels


def _painted_regions(heads: Iterator[Tensor], encoding: LabelEncoding) -> Tensor:
    labels: Tensor | None = None
    for description, values in zip(encoding.heads, heads, strict=True):
        labels = torch.zeros(values.shape, dtype=torch.int16) if labels is None else labels
        labels.masked_fill_(values > 0, description.painted_index)  # sigmoid above one half
    if labels is None:
        raise ValueError("the label encoding has no heads")
    return labels


def mean_probability_slabs(members: Sequence[CaseLogits], encoding: LabelEncoding) -> Iterator[tuple[int, int, Tensor]]:
    """Start and stop within the cropped box, and the mean probabilities (K, n, Y, X) between them."""
    consequence = "their probabilities cannot be averaged; predict with one configuration"
    _check_same_box([member.record for member in members], consequence)
    for start, stop in _slabs(_cropped_shape(members[0].record), heads=len(encoding.heads)):
        slabs = (_probabilities(member, encoding, start, stop) for member in members)
        total = next(slabs)
        for slab in slabs:
            total += slab
        yield start, stop, total.div_(len(members))


def _probabilities(member: CaseLogits, encoding: LabelEncoding, start: int, stop: int) -> Tensor:
    resize = _to_cropped_box(member.record, member.resampling)
    heads = torch.stack([_resized(head, resize, start, stop) for head in member.logits])
    return heads.softmax(dim=0) if encoding.activation == "softmax" else heads.sigmoid_()


def _resized(head: Tensor, resize: _Resize, start: int, stop: int) -> Tensor:
    """Slices start..stop of one head (z, y, x) at its new size (Z, Y, X): (stop - start, Y, X), float32."""
    shape, orders = resize.shape, resize.orders
    if head.shape[0] == shape[0]:
        return _resized_in_plane(head[start:stop].float(), shape, orders)
    rows = _operator(head.shape[0], shape[0], orders[0])[start:stop]
    (used,) = torch.nonzero(rows.any(dim=0), as_tuple=True)
    first, last = int(used[0]), int(used[-1]) + 1
    rows, source = rows[:, first:last], head[first:last].float()
    if len(source) < stop - start:  # whichever leaves fewer slices to resize in their plane
        return _weighted_slices(rows, _resized_in_plane(source, shape, orders))
    return _resized_in_plane(_weighted_slices(rows, source), shape, orders)


def _weighted_slices(rows: Tensor, slices: Tensor) -> Tensor:
    """(n, z) times (z, Y, X) -> (n, Y, X)."""
    flat = torch.mm(rows, slices.reshape(len(slices), -1))
    return flat.reshape(len(rows), *slices.shape[1:])


def _resized_in_plane(slices: Tensor, shape: Triple, orders: Triple) -> Tensor:
    """(n, y, x) -> (n, Y, X)."""
    if slices.shape[1:] == shape[1:]:
        return slices
    if orders[1:] == (1, 1):  # the same numbers as the operators give, several times sooner
        return functional.interpolate(slices[:, None], size=shape[1:], mode="bilinear", align_corners=False)[:, 0]
    if slices.shape[1] != shape[1]:
        slices = torch.matmul(_operator(slices.shape[1], shape[1], orders[1]), slices)
    if slices.shape[2] != shape[2]:
        slices = torch.matmul(slices, _operator(slices.shape[2], shape[2], orders[2]).T)
    return slices


def _operator(size: int, new_size: int, order: int) -> Tensor:
    return torch.from_numpy(axis_operator(size, new_size, order).astype(np.float32))


def _to_cropped_box(record: PreprocessedCase, spec: ResamplingSpec) -> _Resize:
    return _Resize(_cropped_shape(record), _orders(record.spacing, record.original_spacing, spec))


def _orders(spacing: Spacing, target_spacing: Spacing, spec: ResamplingSpec) -> Triple:
    """Spline order by axis."""
    separate = separate_axis(spacing, target_spacing, spec)
    first, second, third = (spec.through_plane_order if axis == separate else spec.logits_order for axis in range(3))
    return first, second, third


def _empty_volume(record: PreprocessedCase, dtype: np.dtype[np.int16]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Background in working orientation, and a view of the cropped box with transposed axes."""
    volume = np.zeros(_working_shape(record), dtype=dtype)
    return volume, volume.transpose(record.transpose)[_crop_box(record)]


def _working_shape(record: PreprocessedCase) -> tuple[int, ...]:
    return tuple(record.original_shape[position] for position in np.argsort(record.transpose))


def _crop_box(record: PreprocessedCase) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in zip(record.crop_start, record.crop_stop, strict=True))


def _cropped_shape(record: PreprocessedCase) -> Triple:
    depth, height, width = (stop - start for start, stop in zip(record.crop_start, record.crop_stop, strict=True))
    return depth, height, width


def _slabs(shape: Triple, heads: int = 1) -> Iterator[tuple[int, int]]:
    thickness = max(1, SLAB_VOXELS // (heads * math.prod(shape[1:])))
    for start in range(0, shape[0], thickness):
        yield start, min(start + thickness, shape[0])


def _check_same_box(records: Sequence[PreprocessedCase], consequence: str) -> None:
    boxes = {(record.original_shape, record.crop_start, record.crop_stop, record.transpose) for record in records}
    if len(boxes) != 1:
        raise PredictionError(
            f"case {records[0].case}: its configurations were cropped to different boxes ({sorted(boxes)}), "
            f"so {consequence}"
        )
