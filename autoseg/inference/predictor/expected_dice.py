"""Label map of a case with the largest expected Dice of each label, in two passes over its probabilities.

    logits --restore_labels--> mean probabilities, in bins --file, and a histogram for each label (first pass)
    histograms --choose_dice_cut--> a threshold for each label, this case's own
    file --slab by slab--> labels above their thresholds (second pass)

The networks run once. What is in memory at a time is a slab of all heads, as for every sink.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.inference.restoring.decisions import decide_probabilities
from autoseg.inference.restoring.dice_cuts import NUM_BINS, DiceCut, choose_dice_cut
from autoseg.inference.restoring.restore import (
    SLAB_VOXELS,
    LabelIndices,
    LogitStream,
    ProbabilitySink,
    StepClock,
    restore_labels,
)
from autoseg.inference.sinks.binned import BinnedProbabilities, binned_file, find_label_bins
from autoseg.inference.sinks.winning_probability import WinningProbability
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import BACKGROUND, LabelEncoding, indices_by_label

if TYPE_CHECKING:
    import blosc2


def restore_by_expected_dice(
    streams: Sequence[LogitStream],
    encoding: LabelEncoding,
    sinks: Sequence[ProbabilitySink] = (),
    winning: WinningProbability | None = None,
    clock: StepClock | None = None,
) -> LabelIndices:
    """Label map of a case as `restore_labels` gives it, but for the decision; see `decide_by_expected_dice`.

    Args:
        streams: Logits of the configurations to combine.
        encoding: Label index of each head.
        sinks: What also receives the mean probabilities, slab by slab.
        winning: Receives the probabilities of the decided labels; None: nobody asks.
        clock: Measures the steps `network` and `export`.
    """
    clock, record = clock or StepClock(), streams[0].record
    with binned_file(record, encoding) as binned:
        labels = restore_labels(streams, encoding, [*sinks, binned], clock=clock)
        with clock.step("export"):
            decide_by_expected_dice(labels, record, binned, encoding, winning)
    return labels


def decide_stored(
    volume: LabelIndices,
    record: PreprocessedCase,
    probabilities: "NDArray[np.float16] | blosc2.NDArray",
    encoding: LabelEncoding,
    winning: WinningProbability | None = None,
) -> None:
    """Decide a case whose probabilities (K, Z, Y, X) of the cropped box are stored; see `decide_by_expected_dice`."""
    step = max(1, SLAB_VOXELS // int(np.prod(probabilities.shape[2:]) * len(encoding.heads)))
    with binned_file(record, encoding) as binned:
        for start in range(0, binned.num_rows, step):
            stop = min(start + step, binned.num_rows)
            rows = np.asarray(probabilities[:, start:stop], dtype=np.float32)
            binned.write(record, start, stop, torch.from_numpy(rows).clamp_(0, 1))
        decide_by_expected_dice(volume, record, binned, encoding, winning)


def decide_by_expected_dice(
    volume: LabelIndices,
    record: PreprocessedCase,
    binned: BinnedProbabilities,
    encoding: LabelEncoding,
    winning: WinningProbability | None = None,
) -> None:
    """Write the labels with the largest expected Dice over those of a case.

    Every label takes its most probable voxels, as many as maximise its own expected Dice in this case. Regions are
    written in their order where their probability exceeds their threshold; nothing is in conflict. Of several labels
    that want a voxel, the one whose expected Dice gains most from it gets it: (probability - threshold) / (voxels taken
    + voxels expected); the first of equals. A voxel that none wants is background.

    A label that is probably absent, so that none of its cuts has a larger expected Dice than no voxel at all, is
    decided by argmax instead: it keeps the voxels where its head is the largest, and no other label takes these; a
    region is written above one half.

    Args:
        volume: Label indices of the whole image by argmax, working orientation; overwritten where the networks
            predicted.
        record: Place of what they predicted in the image.
        binned: Probabilities of the case.
        encoding: Label index of each head.
        winning: Receives the probabilities of the decided labels.

    References:
        Dai and Li 2023 (RankSEG, JMLR 24) for each label alone; Wang and Dai 2025 (RankSEG-RMA, NeurIPS) for the
        conflict: the largest change of the expected Dice decides. Differs: background does not compete, since it has no
        score; the change is linear in the probability.
    """
    cuts = find_dice_cuts(binned, encoding)
    labels = cropped_view(volume, record)
    step = max(1, SLAB_VOXELS // (len(encoding.heads) * labels[0].size))
    for start in range(0, binned.num_rows, step):
        stop = min(start + step, binned.num_rows)
        bins = binned.read(start, stop)
        by_argmax = torch.from_numpy(labels[start:stop].astype(np.int32))
        decided = decide_bins(bins, by_argmax, encoding, cuts)
        labels[start:stop] = decided.numpy()
        if winning is not None:
            winning.write_decided(record, start, _centres(bins), decided)


def find_dice_cuts(binned: BinnedProbabilities, encoding: LabelEncoding) -> dict[str, DiceCut]:
    """The best cut of each label or region of a case, by name; background has none."""
    return {
        name: choose_dice_cut(binned.counts[row], binned.sums[row])
        for row, name in enumerate(indices_by_label(encoding))
        if name != BACKGROUND or encoding.activation == "sigmoid"
    }


def decide_bins(bins: Tensor, by_argmax: Tensor, encoding: LabelEncoding, cuts: Mapping[str, DiceCut]) -> Tensor:
    """Label indices (int32) from bins of probabilities.

    Args:
        bins: (K, Z, Y, X), int16.
        by_argmax: Label indices (Z, Y, X), int32, of the largest heads; not read with regions.
        encoding: Label index and activation of each head.
        cuts: Cut of each label or region, by name.
    """
    if encoding.activation == "sigmoid":
        limits = {name: 0.5 if cut.is_absent else cut.threshold for name, cut in cuts.items()}
        return decide_probabilities(_centres(bins), encoding, limits)
    names = [head.part_of or head.name for head in encoding.heads]
    kept = torch.zeros(len(encoding.values), dtype=torch.bool)
    for head, name in zip(encoding.heads, names, strict=True):
        kept[head.painted_index] = name in cuts and cuts[name].is_absent
    is_kept = kept[by_argmax.long()]
    labels = torch.where(is_kept, by_argmax, encoding.heads[0].painted_index)
    largest = torch.where(is_kept, torch.inf, 0.0)
    for name, own in zip(indices_by_label(encoding), find_label_bins(bins, encoding), strict=True):
        if name not in cuts or cuts[name].is_absent:
            continue
        places = (own >= round(cuts[name].threshold * NUM_BINS)).nonzero(as_tuple=True)
        gain = (_centres(own[places]) - cuts[name].threshold) * cuts[name].weight
        is_largest = gain > largest[places]
        places = (places[0][is_largest], places[1][is_largest], places[2][is_largest])
        largest[places] = gain[is_largest]
        heads = [number for number, owner in enumerate(names) if owner == name]
        painted = torch.tensor([encoding.heads[number].painted_index for number in heads], dtype=torch.int32)
        labels[places] = painted[torch.stack([bins[number][places] for number in heads]).argmax(dim=0)]
    return labels


def _centres(bins: Tensor) -> Tensor:
    """Probabilities in the middle of their bins, float32."""
    return (bins + 0.5) / NUM_BINS
