"""Probability of the decided label: one number per voxel, whatever the number of heads."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.inference.restoring.decisions import DEFAULT_THRESHOLDS, Thresholds
from autoseg.inference.sinks.uncertainty import label_probabilities
from autoseg.records.case import PreprocessedCase, Triple
from autoseg.records.dataset import LabelEncoding, indices_by_label


class WinningProbability:
    """Probability of the decided label, filled slab by slab from the mean probabilities; two bytes a voxel."""

    def __init__(self, shape: Triple, encoding: LabelEncoding, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> None:
        """Begin with certain background everywhere.

        Args:
            shape: Shape of the image in working orientation, (z, y, x).
            encoding: Label encoding of the heads.
            thresholds: Probability above which a voxel belongs to a region.
        """
        self.values: NDArray[np.float16] = np.ones(shape, dtype=np.float16)
        """(Z, Y, X) in working orientation, in [0, 1]; NaN where the label was not decided by the networks."""
        self._encoding = encoding
        self._thresholds = thresholds

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        winning = winning_probability(probabilities, self._encoding, self._thresholds)
        cropped_view(self.values, record)[start:stop] = winning.to(torch.float16).cpu().numpy()

    def write_decided(self, record: PreprocessedCase, start: int, probabilities: Tensor, decided: Tensor) -> None:
        """Set some rows of the cropped box whose labels were decided elsewhere.

        Args:
            record: Place of the box in the image.
            start: First row, along the plan's first axis.
            probabilities: (K, n, Y, X) by head.
            decided: Label indices (n, Y, X).
        """
        values = probability_of_labels(probabilities, decided, self._encoding)
        cropped_view(self.values, record)[start : start + len(decided)] = values.to(torch.float16).cpu().numpy()

    def forget(self, changed: NDArray[np.bool_]) -> None:
        """Mark voxels (Z, Y, X) whose label post-processing altered."""
        self.values[changed] = np.nan


def winning_probability(
    probabilities: Tensor, encoding: LabelEncoding, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Tensor:
    """Probability of the label that the heads decide for.

    Args:
        probabilities: (K, ...) by head.
        encoding: softmax: the largest head wins; heads of the same label (its core and its border) count together.
            sigmoid: the last region above its threshold wins, because it is painted last; where no region is,
            background wins, with one minus the largest probability of a region.
        thresholds: Probability above which a voxel belongs to a region.

    Returns:
        Tensor (...), in [0, 1].
    """
    if encoding.activation == "sigmoid":
        winning = 1 - probabilities.amax(dim=0)
        for head, values in zip(encoding.heads, probabilities, strict=True):
            winning = torch.where(values > thresholds.get(head.name, 0.5), values, winning)
        return winning
    labels = label_probabilities(probabilities, encoding)
    if labels is probabilities:
        return probabilities.amax(dim=0)
    names = [*indices_by_label(encoding)]
    positions = torch.tensor([names.index(head.part_of or head.name) for head in encoding.heads])
    label_of_head = positions.to(probabilities.device)
    decided = label_of_head[probabilities.argmax(dim=0)]
    return labels.gather(0, decided[None])[0].clamp_(0, 1)


def probability_of_labels(probabilities: Tensor, decided: Tensor, encoding: LabelEncoding) -> Tensor:
    """Probability of given labels, whatever decided for them.

    Args:
        probabilities: (K, ...) by head.
        decided: Label indices (...).
        encoding: softmax: heads of the same label count together. sigmoid: of the regions that a label belongs to, the
            one that is written last counts; background has one minus the largest probability of a region.

    Returns:
        Tensor (...), in [0, 1].
    """
    labels = label_probabilities(probabilities, encoding)
    groups = list(indices_by_label(encoding).values())
    rows = [
        max((row for row, indices in enumerate(groups) if index in indices), default=len(groups))
        for index in range(len(encoding.values))
    ]
    if encoding.activation == "sigmoid":
        labels = torch.cat([labels, 1 - labels.amax(dim=0, keepdim=True)])
    row_of_index = torch.tensor(rows, device=probabilities.device)
    return labels.gather(0, row_of_index[decided.long()][None])[0].clamp_(0, 1)
