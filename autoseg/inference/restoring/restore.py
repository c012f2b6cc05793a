"""From logits on the network's grid to labels on the image's own grid, slab by slab, while the logits stream past.

In the order of execution, for every slab of output rows:

    next(stream): networks --slices (K, y, x)--> push --resize--> rows (n, Y, X) --decide--> labels; write to sinks

The networks run while the next slices are asked for. A slab holds some rows of one head at a time (of all heads, where
probabilities are needed), so memory beyond the stream depends neither on the number of heads nor on the image's size.
Several configurations advance side by side. Labels are pasted into the uncropped box, and the plan's transpose is
undone; in a cascade, logits are resized to the next step's grid and decided there.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.cropping import crop_shape, cropped_view
from autoseg.inference.restoring.decisions import (
    DEFAULT_THRESHOLDS,
    Thresholds,
    activate,
    decide_logits,
    decide_probabilities,
    mean_probabilities,
)
from autoseg.inference.restoring.resizing import LogitResampler, Resize, make_resize
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import LabelEncoding, indices_after_painting
from autoseg.records.network import ResamplingSpec

SLAB_VOXELS = 2**22
"""Voxels of one resized slab, all its heads together where several are held; 16 MB in float32."""

LabelIndices = NDArray[np.unsignedinteger]


class ProbabilitySink(Protocol):
    """What receives mean probabilities while they stream."""

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Receive some rows of a case's cropped box.

        Args:
            record: What preprocessing did to the case; tells where the box lies in the image.
            start: First row, along the plan's first axis.
            stop: Row behind the last one.
            probabilities: (K, stop - start, Y, X), the plan's axes; not to be changed.
        """


class StepClock:
    """Seconds that the steps of one case take."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self.seconds: dict[str, float] = {"read": 0.0, "preprocess": 0.0, "network": 0.0, "export": 0.0}
        """Seconds by step."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class LogitStream:
    """Logits of one case from one configuration, slice by slice, which can be read once."""

    slices: Iterable[Tensor]
    """(K, Y, X) for every slice of the preprocessed grid, first to last; the networks run while these are asked for."""
    record: PreprocessedCase
    """What preprocessing for this configuration did to the case."""
    resampling: ResamplingSpec
    """Way back from the preprocessed grid."""
    weight: float | None = None
    """Part of the mean of probabilities that this configuration has; None: as large as that of the others."""


def restore_labels(
    streams: Sequence[LogitStream],
    encoding: LabelEncoding,
    sinks: Sequence[ProbabilitySink] = (),
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    clock: StepClock | None = None,
) -> LabelIndices:
    """Label map of a case from the logits of one configuration, or the mean probabilities of several.

    Args:
        streams: Logits of the configurations to combine; they are read slice by slice, side by side.
        encoding: Label index of each head.
        sinks: What also receives the mean probabilities, slab by slab.
        thresholds: Probability above which a voxel belongs to a region.
        clock: Measures the steps `network` and `export`.

    Returns:
        Label indices (Z, Y, X) in working orientation, before the crop and the plan's transpose, in the smallest
        unsigned type; background outside the crop. Where two heads are equal, the first wins.

    Raises:
        PredictionError: If the configurations were cropped to different boxes.

    References:
        nnU-Net v2 (Isensee et al. 2021), export: logits resized linearly, then argmax, or regions painted in order
        where the sigmoid exceeds one half; configurations are combined by their mean probabilities. Differs: slab by
        slab; a region may have another threshold.
    """
    clock = clock or StepClock()
    resizes = _common_box(streams)
    slices = [iter(stream.slices) for stream in streams]
    resamplers = [LogitResampler(resize) for resize in resizes]
    labels, cropped = _empty_volume(streams[0].record, encoding)
    needs_probabilities = len(streams) > 1 or len(sinks) > 0
    voxels = SLAB_VOXELS // len(encoding.heads) if needs_probabilities else SLAB_VOXELS
    for start, stop in _row_groups(resizes, len(encoding.heads), voxels):
        for logits, resampler in zip(slices, resamplers, strict=True):
            with clock.step("network"):
                for _ in range(resampler.prepare(start, stop)):
                    resampler.push(next(logits))  # the networks run here
        with clock.step("export"):
            if not needs_probabilities:
                cropped[start:stop] = _to_host(decide_logits(resamplers[0].heads(), encoding, thresholds), cropped)
                continue
            decided, probabilities = _decide_slab(resamplers, encoding, thresholds, _weights_of(streams))
            cropped[start:stop] = _to_host(decided, cropped)
            for sink in sinks:
                sink.write(streams[0].record, start, stop, probabilities)
    return labels


def _weights_of(streams: Sequence[LogitStream]) -> tuple[float, ...]:
    """Parts of the mean by configuration; empty: equal ones."""
    return tuple(stream.weight for stream in streams if stream.weight is not None)


def _decide_slab(
    resamplers: Sequence[LogitResampler], encoding: LabelEncoding, thresholds: Thresholds, weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Label indices (n, Y, X) and mean probabilities (K, n, Y, X); one configuration alone decides by its logits."""
    logits = torch.stack(list(resamplers[0].heads()))
    if len(resamplers) == 1:
        return decide_logits(iter(logits), encoding, thresholds), activate(logits, encoding)
    mean = activate(logits, encoding)
    if weights:
        mean *= weights[0]
    for number, resampler in enumerate(resamplers[1:], start=1):
        share = activate(torch.stack(list(resampler.heads())), encoding)
        mean += share.mul_(weights[number]) if weights else share
    if not weights:
        mean /= len(resamplers)
    return decide_probabilities(mean, encoding, thresholds), mean


def restore_combinations(
    streams: Sequence[LogitStream],
    combinations: Sequence[tuple[int, ...]],
    encoding: LabelEncoding,
    weights: Sequence[tuple[float, ...]] = (),
) -> tuple[LabelIndices, ...]:
    """Label maps of several combinations of configurations, each stream read once.

    Args:
        streams: Logits of every configuration that is in a combination.
        combinations: Positions in `streams`, in the order in which probabilities are summed.
        encoding: Label index of each head.
        weights: Parts of the mean that the configurations of each combination have; empty: equal ones.

    Returns:
        One for each combination, as `restore_labels` gives it.

    Raises:
        PredictionError: If the configurations were cropped to different boxes.
    """
    resizes = _common_box(streams)
    slices = [iter(stream.slices) for stream in streams]
    resamplers = [LogitResampler(resize) for resize in resizes]
    restored = [_empty_volume(streams[0].record, encoding) for _ in combinations]
    num_heads = len(encoding.heads) * len(streams)
    for start, stop in _row_groups(resizes, num_heads, SLAB_VOXELS // num_heads):
        probabilities = []
        for logits, resampler in zip(slices, resamplers, strict=True):
            for _ in range(resampler.prepare(start, stop)):
                resampler.push(next(logits))  # the networks run here
            probabilities.append(activate(torch.stack(list(resampler.heads())), encoding))
        for number, (combination, (_, cropped)) in enumerate(zip(combinations, restored, strict=True)):
            own = [probabilities[position] for position in combination]
            mean = mean_probabilities(own, weights[number] if weights else ())
            cropped[start:stop] = _to_host(decide_probabilities(mean, encoding), cropped)
    return tuple(labels for labels, _ in restored)


def restore_on_grid(
    stream: LogitStream, grid: PreprocessedCase, encoding: LabelEncoding, clock: StepClock | None = None
) -> LabelIndices:
    """Label map on another configuration's preprocessed grid: what a cascade's next step gets.

    Args:
        stream: Logits of the previous step.
        grid: What preprocessing for the next step did to the same case.
        encoding: Label index of each head.
        clock: Measures the steps `network` and `export`.

    Returns:
        Label indices, shape `grid.shape`. Where two heads are equal, the first wins.

    Raises:
        PredictionError: If the two configurations were cropped to different boxes; else one resize is all that lies
            between their grids.

    References:
        nnU-Net v2 (Isensee et al. 2021), cascade: logits resized linearly to the next step's shape, then argmax.
        Differs: slab by slab; at prediction too, where nnU-Net resamples the label map of the whole image.
    """
    clock = clock or StepClock()
    slices, filled = iter(stream.slices), _GridLabels(stream, grid, encoding)
    while not filled.is_complete:
        with clock.step("network"):
            logits = next(slices)  # the networks run here
        with clock.step("export"):
            filled.push(logits)
    return filled.labels


def restore_with_grids(
    stream: LogitStream,
    grids: Sequence[PreprocessedCase],
    encoding: LabelEncoding,
    sinks: Sequence[ProbabilitySink] = (),
) -> tuple[LabelIndices, tuple[LabelIndices, ...]]:
    """Both of the above from one stream: the label map of the case, with its probabilities for sinks, and one per grid.

    Every slice is pushed to all of them when it comes, so that few slices are held.
    """
    filled = [_GridLabels(stream, grid, encoding) for grid in grids]
    slices = _pushed_on_the_way(stream.slices, filled)
    labels = restore_labels([replace(stream, slices=slices)], encoding, sinks)
    for _ in slices:  # the last slices, where only a grid needs them
        pass
    return labels, tuple(grid.labels for grid in filled)


def _pushed_on_the_way(slices: Iterable[Tensor], filled: Sequence["_GridLabels"]) -> Iterator[Tensor]:
    for logits in slices:
        for grid in filled:
            grid.push(logits)
        yield logits


class _GridLabels:
    """Label map on a grid, of shape `grid.shape`, which is filled while slices are pushed."""

    def __init__(self, stream: LogitStream, grid: PreprocessedCase, encoding: LabelEncoding) -> None:
        record = stream.record
        _check_same_box([record, grid], "the label map cannot be passed on; preprocess both again")
        resize = make_resize(record.shape, grid.shape, record.spacing, grid.spacing, stream.resampling)
        self.labels: LabelIndices = np.empty(grid.shape, dtype=_index_type(encoding))
        self.is_complete = False
        self._encoding = encoding
        self._resampler = LogitResampler(resize)
        self._groups = resize.row_groups(len(encoding.heads), SLAB_VOXELS)
        self._prepare()

    def push(self, logits: Tensor) -> None:
        """Take the next slice, and fill all rows that can be made now."""
        if self.is_complete:
            return
        self._resampler.push(logits)
        self._missing -= 1
        while self._missing == 0 and not self.is_complete:
            decided = decide_logits(self._resampler.heads(), self._encoding)
            self.labels[slice(*self._rows)] = _to_host(decided, self.labels)
            self._prepare()

    def _prepare(self) -> None:
        """Turn to the next rows, if there are any."""
        rows = next(self._groups, None)
        self.is_complete = rows is None
        if rows is not None:
            self._rows, self._missing = rows, self._resampler.prepare(*rows)


def _to_host(decided: Tensor, labels: LabelIndices) -> NDArray[np.integer]:
    """Label indices (n, Y, X) as an array; over the bus they go in one byte where the label map has bytes."""
    narrow = decided.to(torch.uint8) if labels.itemsize == 1 else decided
    array: NDArray[np.integer] = narrow.cpu().numpy()
    return array


def _row_groups(resizes: Sequence[Resize], num_heads: int, voxels: int) -> list[tuple[int, int]]:
    """The thinnest of all groups of rows, so that slabs have at most `voxels` voxels and few slices are held."""
    groups = (list(resize.row_groups(num_heads, voxels)) for resize in resizes)
    return min(groups, key=lambda group: group[0][1])


def _common_box(streams: Sequence[LogitStream]) -> list[Resize]:
    """From each configuration's grid to the cropped box that they share."""
    consequence = "their probabilities cannot be averaged; predict with one configuration"
    _check_same_box([stream.record for stream in streams], consequence)
    return [_to_cropped_box(stream) for stream in streams]


def _to_cropped_box(stream: LogitStream) -> Resize:
    record = stream.record
    return make_resize(record.shape, crop_shape(record), record.spacing, record.original_spacing, stream.resampling)


def _index_type(encoding: LabelEncoding) -> np.dtype[np.unsignedinteger]:
    return np.min_scalar_type(max(map(max, indices_after_painting(encoding))))


def _empty_volume(record: PreprocessedCase, encoding: LabelEncoding) -> tuple[LabelIndices, LabelIndices]:
    """Background in working orientation, and a view of the cropped box with transposed axes."""
    working = [record.original_shape[position] for position in np.argsort(record.transpose)]
    volume = np.zeros(working, dtype=_index_type(encoding))
    return volume, cropped_view(volume, record)


def _check_same_box(records: Sequence[PreprocessedCase], consequence: str) -> None:
    boxes = {(record.original_shape, record.crop_start, record.crop_stop, record.transpose) for record in records}
    if len(boxes) != 1:
        raise PredictionError(
            f"case {records[0].case}: its configurations were cropped to different boxes ({sorted(boxes)}), "
            f"so {consequence}"
        )
