"""Sums of each label's probabilities over a case: what its expected Dice follows from, in a few numbers per label."""

import math

import numpy as np
import torch
from torch import Tensor

from autoseg.inference.restoring.decisions import DEFAULT_THRESHOLDS, Thresholds
from autoseg.inference.sinks.uncertainty import label_probabilities
from autoseg.metrics.expected_dice import LabelSums, expect_dice
from autoseg.records.calibration import NUM_BINS
from autoseg.records.case import PreprocessedCase
from autoseg.records.confidence import Confidence, ExpectedDice
from autoseg.records.dataset import BACKGROUND, LabelEncoding, indices_by_label


class LabelSumsCounter:
    """Adds up the probabilities of one case, slab by slab; a `ProbabilitySink`.

    Voxels below probability 1 / NUM_BINS are left out, but for those that are decided for: nearly all are background
    far away, where small errors of the probability add up to more than the label.
    """

    def __init__(self, encoding: LabelEncoding, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> None:
        """Begin with nothing counted.

        Args:
            encoding: Label encoding of the heads.
            thresholds: Probability above which a voxel belongs to a region.
        """
        self._encoding = encoding
        self._thresholds = thresholds
        self._names = [*indices_by_label(encoding)]
        self._sums = np.zeros((len(self._names), 4))
        self._voxel_mm3 = 1.0

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Add some rows of the cropped box; see `ProbabilitySink`."""
        del start, stop
        self._voxel_mm3 = math.prod(record.original_spacing)
        labels = label_probabilities(probabilities, self._encoding)
        winner = labels.argmax(dim=0) if self._encoding.activation == "softmax" else None
        for place, (name, values) in enumerate(zip(self._names, labels, strict=True)):
            if name == BACKGROUND:
                continue
            predicted = values > self._thresholds.get(name, 0.5) if winner is None else winner == place
            likely = values[predicted | (values >= 1 / NUM_BINS)]
            entropy = torch.special.entr(likely) + torch.special.entr(1 - likely)
            sums = (predicted.sum(), values[predicted].double().sum(), likely.double().sum(), entropy.double().sum())
            self._sums[place] += [float(value) for value in sums]

    @property
    def sums(self) -> dict[str, LabelSums]:
        """Sums so far, by foreground label or region."""
        found = {}
        for name, sums in zip(self._names, self._sums.tolist(), strict=True):
            voxels, predicted, likely, entropy = sums
            if name != BACKGROUND:
                found[name] = LabelSums(voxels, predicted, likely, entropy, self._voxel_mm3)
        return found

    def expect(self, confidence: Confidence | None) -> dict[str, ExpectedDice]:
        """Expected Dice of each label that is predicted and that the model has learnt it of."""
        models = {} if confidence is None else confidence.expected_dice
        return {
            name: expect_dice(models[name], sums.measurements)
            for name, sums in self.sums.items()
            if name in models and sums.predicted_voxels
        }
