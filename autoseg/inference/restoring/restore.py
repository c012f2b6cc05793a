"""From logits on the network's grid to labels on the image's own grid, slab by slab, while the logits stream past.

Logits are resized, decided (running argmax, or regions painted in order), pasted into the uncropped box, and the
plan's transpose is undone; or, in a cascade, they are resized to the next stage's grid and decided there. Several
configurations stream side by side. A slab holds some rows of one head at a time, so memory beyond the stream depends
neither on the number of heads nor on the image's size.

    slices (K, y, x) --resize some rows, head by head--> label slab (n, Y, X) --paste, transpose back--> (Z, Y, X)
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.cropping import crop_shape, cropped_view
from autoseg.inference.restoring.decisions import (
    ONE_HALF,
    Thresholds,
    activate,
    decide_logits,
    decide_probabilities,
    mean_probabilities,
)
from autoseg.inference.restoring.resizing import Resize, ResizedLogits, make_resize
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import LabelEncoding
from autoseg.records.network import ResamplingSpec

SLAB_VOXELS = 2**22
"""Voxels of one resized slab, all its heads together where several are held; 16 MB in float32."""

LabelIndices = NDArray[np.unsignedinteger]

ProbabilitySink = Callable[[PreprocessedCase, int, int, Tensor], None]
"""Takes mean probabilities (K, n, Y, X) of some rows of the cropped box: record, first row, behind the last one."""


@dataclass(frozen=True)
class CaseLogits:
    """One configuration's answer to one case, which can be read once."""

    slices: Iterable[Tensor]
    """(K, Y, X) for every slice of the preprocessed grid, first to last."""
    record: PreprocessedCase
    resampling: ResamplingSpec


def restore_labels(
    answers: Sequence[CaseLogits],
    encoding: LabelEncoding,
    sinks: Sequence[ProbabilitySink] = (),
    thresholds: Thresholds = ONE_HALF,
) -> LabelIndices:
    """Label map of a case from the logits of one configuration, or the mean probabilities of several.

    Args:
        answers: Of the configurations to combine; streams are read slice by slice, side by side.
        encoding: Which label index each head stands for.
        sinks: Also get the mean probabilities, slab by slab.
        thresholds: Of regions.

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
    labels, cropped = _empty_volume(answers[0].record, encoding)
    for _ in _fill_box(answers, encoding, cropped, sinks, thresholds):
        pass
    return labels


def restore_combinations(
    answers: Sequence[CaseLogits], combinations: Sequence[tuple[int, ...]], encoding: LabelEncoding
) -> tuple[LabelIndices, ...]:
    """Label maps of several combinations of configurations, each stream read once.

    Args:
        answers: Of every configuration that is in a combination.
        combinations: Positions in `answers`, in the order in which probabilities are summed.
        encoding: Which label index each head stands for.

    Returns:
        One for each combination, as `restore_labels` gives it.

    Raises:
        PredictionError: If the configurations were cropped to different boxes.
    """
    resizes = _common_box(answers)
    members = _resized(answers, resizes)
    restored = [_empty_volume(answers[0].record, encoding) for _ in combinations]
    for start, stop in _row_groups(resizes, len(encoding.heads) * len(members)):
        probabilities = [activate(torch.stack(list(member.heads(start, stop))), encoding) for member in members]
        for combination, (_, cropped) in zip(combinations, restored, strict=True):
            mean = mean_probabilities([probabilities[position] for position in combination])
            cropped[start:stop] = decide_probabilities(mean, encoding).numpy()
    return tuple(labels for labels, _ in restored)


def restore_on_grid(answer: CaseLogits, grid: PreprocessedCase, encoding: LabelEncoding) -> LabelIndices:
    """Label map on another configuration's preprocessed grid: what a cascade's next stage gets.

    Args:
        answer: Logits of the previous stage.
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
    labels = np.empty(grid.shape, dtype=_index_type(encoding))
    for _ in _fill_grid(answer, grid, encoding, labels):
        pass
    return labels


def restore_with_grids(
    answer: CaseLogits,
    grids: Sequence[PreprocessedCase],
    encoding: LabelEncoding,
    sinks: Sequence[ProbabilitySink] = (),
) -> tuple[LabelIndices, tuple[LabelIndices, ...]]:
    """Both of the above from one stream: the label map of the case, with its probabilities for sinks, and one per grid.

    All advance at the same pace, so that few slices wait for the slowest.
    """
    labels, cropped = _empty_volume(answer.record, encoding)
    on_grids = tuple(np.empty(grid.shape, dtype=_index_type(encoding)) for grid in grids)
    own, *copies = (
        CaseLogits(slices, answer.record, answer.resampling) for slices in _share(answer.slices, 1 + len(grids))
    )
    fillings = [_fill_box([own], encoding, cropped, sinks, ONE_HALF)]
    fillings += [
        _fill_grid(copy, grid, encoding, target) for copy, grid, target in zip(copies, grids, on_grids, strict=True)
    ]
    _advance_together(fillings)
    return labels, on_grids


def _share(slices: Iterable[Tensor], count: int) -> list[Iterator[Tensor]]:
    """One stream for several readers; a slice is let go when all have it (itertools.tee lets go 57 at a time)."""
    source = iter(slices)
    waiting: list[deque[Tensor]] = [deque() for _ in range(count)]

    def read(own: deque[Tensor]) -> Iterator[Tensor]:
        while True:
            if not own:
                for values in islice(source, 1):
                    for queue in waiting:
                        queue.append(values)
                    del values
            if not own:
                return
            yield own.popleft()

    return [read(queue) for queue in waiting]


def _advance_together(fillings: Sequence[Iterator[float]]) -> None:
    """Run to the end; the one that is least far goes next."""
    shares = dict.fromkeys(fillings, 0.0)
    while shares:
        slowest = min(shares, key=shares.__getitem__)
        share = next(slowest, None)
        if share is None:
            del shares[slowest]
        else:
            shares[slowest] = share


def _fill_grid(
    answer: CaseLogits, grid: PreprocessedCase, encoding: LabelEncoding, labels: LabelIndices
) -> Iterator[float]:
    """Fill `labels`, of shape `grid.shape`; gives the share that is filled, after every slab."""
    _check_same_box([answer.record, grid], "the label map cannot be passed on; preprocess both again")
    record = answer.record
    resize = make_resize(record.shape, grid.shape, record.spacing, grid.spacing, answer.resampling)
    return _fill_by_head(answer, resize, encoding, labels, ONE_HALF)


def _fill_box(
    answers: Sequence[CaseLogits],
    encoding: LabelEncoding,
    labels: LabelIndices,
    sinks: Sequence[ProbabilitySink],
    thresholds: Thresholds,
) -> Iterator[float]:
    """Fill `labels`, the cropped box with the plan's axes; gives the share that is filled, after every slab."""
    resizes = _common_box(answers)
    if len(answers) == 1 and not sinks:
        return _fill_by_head(answers[0], resizes[0], encoding, labels, thresholds)
    return _fill_by_probability(answers, resizes, encoding, labels, sinks, thresholds)


def _fill_by_head(
    answer: CaseLogits, resize: Resize, encoding: LabelEncoding, labels: LabelIndices, thresholds: Thresholds
) -> Iterator[float]:
    resized = ResizedLogits(iter(answer.slices), resize)
    for start, stop in resize.row_groups(len(encoding.heads), SLAB_VOXELS):
        labels[start:stop] = decide_logits(resized.heads(start, stop), encoding, thresholds).numpy()
        yield stop / len(labels)


def _fill_by_probability(
    answers: Sequence[CaseLogits],
    resizes: Sequence[Resize],
    encoding: LabelEncoding,
    labels: LabelIndices,
    sinks: Sequence[ProbabilitySink],
    thresholds: Thresholds,
) -> Iterator[float]:
    """Holds all heads of a slab; one configuration alone decides by its logits."""
    members = _resized(answers, resizes)
    for start, stop in _row_groups(resizes, len(encoding.heads)):
        logits = torch.stack(list(members[0].heads(start, stop)))
        if len(members) == 1:
            labels[start:stop] = decide_logits(iter(logits), encoding, thresholds).numpy()
        mean = activate(logits, encoding)
        for member in members[1:]:
            mean += activate(torch.stack(list(member.heads(start, stop))), encoding)
        mean /= len(members)
        if len(members) > 1:
            labels[start:stop] = decide_probabilities(mean, encoding, thresholds).numpy()
        for sink in sinks:
            sink(answers[0].record, start, stop, mean)
        yield stop / len(labels)


def _row_groups(resizes: Sequence[Resize], num_heads: int) -> list[tuple[int, int]]:
    """The thinnest of all groups of rows, so that `num_heads` heads of a slab, and all that is held, stay small."""
    groups = (list(resize.row_groups(num_heads, SLAB_VOXELS // num_heads)) for resize in resizes)
    return min(groups, key=lambda group: group[0][1])


def _resized(answers: Sequence[CaseLogits], resizes: Sequence[Resize]) -> list[ResizedLogits]:
    return [ResizedLogits(iter(answer.slices), resize) for answer, resize in zip(answers, resizes, strict=True)]


def _common_box(answers: Sequence[CaseLogits]) -> list[Resize]:
    """From each configuration's grid to the cropped box that they share."""
    consequence = "their probabilities cannot be averaged; predict with one configuration"
    _check_same_box([answer.record for answer in answers], consequence)
    return [_to_cropped_box(answer) for answer in answers]


def _to_cropped_box(answer: CaseLogits) -> Resize:
    record = answer.record
    return make_resize(record.shape, crop_shape(record), record.spacing, record.original_spacing, answer.resampling)


def _index_type(encoding: LabelEncoding) -> np.dtype[np.unsignedinteger]:
    return np.min_scalar_type(max(head.painted_index for head in encoding.heads))


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
