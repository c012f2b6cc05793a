"""Count how often predicted probabilities come true, slab by slab, while a case is restored."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.records.calibration import NUM_BINS, Calibration, CalibrationCounts
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import LabelEncoding
from autoseg.records.partial_labels import Names, is_looked_for


@dataclass(frozen=True)
class _Label:
    name: str
    heads: tuple[int, ...]
    """Positions whose probabilities add up to the label's."""
    indices: tuple[int, ...]
    owner: str
    """Name in the dataset of the label or region."""


class CalibrationCounter:
    """Counts all cases; `case_sink` returns the sink of one case."""

    def __init__(self, encoding: LabelEncoding) -> None:
        """Begin with nothing counted."""
        self._labels = _gather_heads(encoding)
        self._num_indices = len(encoding.values) + 1  # the ignored index comes last
        self._counts = np.zeros((len(self._labels), 2, NUM_BINS), dtype=np.int64)
        self._sums = np.zeros((len(self._labels), NUM_BINS), dtype=np.float64)

    def case_sink(self, reference: NDArray[np.int16], annotated: Names | None = None) -> "CaseCalibration":
        """Sink that counts one case.

        Args:
            reference: Label indices (Z, Y, X), working orientation, before the crop.
            annotated: Labels that were looked for in the case, the only ones that are counted; None: all.
        """
        return CaseCalibration(self, reference, annotated)

    def add(self, reference: NDArray[np.int16], probabilities: Tensor, annotated: Names | None = None) -> None:
        """Count voxels.

        Args:
            reference: Label indices (Z, Y, X).
            probabilities: (K, Z, Y, X) of the same voxels.
            annotated: Labels that are counted; None: all.
        """
        rows, probabilities = torch.from_numpy(np.ascontiguousarray(reference)), probabilities.cpu()
        for row, label in enumerate(self._labels):
            if not is_looked_for(label.owner, annotated):
                continue
            of_label = (
                probabilities[list(label.heads)].sum(dim=0) if len(label.heads) > 1 else probabilities[label.heads[0]]
            )
            likely = of_label >= 1 / NUM_BINS
            values, expected = of_label[likely], rows[likely].long()
            known = expected != self._num_indices - 1
            values, expected = values[known], expected[known]
            has_label = torch.zeros(self._num_indices, dtype=torch.bool)
            has_label[list(label.indices)] = True
            bins = (values * NUM_BINS).long().clamp_(0, NUM_BINS - 1)
            self._counts[row, 0] += torch.bincount(bins, minlength=NUM_BINS).numpy()
            self._counts[row, 1] += torch.bincount(bins[has_label[expected]], minlength=NUM_BINS).numpy()
            self._sums[row] += torch.bincount(bins, weights=values.double(), minlength=NUM_BINS).numpy()

    def add_counts(self, calibration: Calibration) -> None:
        """Add what another counter of the same labels has counted."""
        for row, label in enumerate(self._labels):
            counted = calibration.labels[label.name]
            self._counts[row] += np.array([counted.voxels, counted.label_voxels], dtype=np.int64)
            self._sums[row] += np.array(counted.probability_sums)

    def counts(self) -> Calibration:
        """Counts of all cases so far."""
        return Calibration(
            labels={
                label.name: CalibrationCounts(
                    voxels=tuple(self._counts[row, 0].tolist()),
                    probability_sums=tuple(self._sums[row].tolist()),
                    label_voxels=tuple(self._counts[row, 1].tolist()),
                )
                for row, label in enumerate(self._labels)
            }
        )


class CaseCalibration:
    """Counts one case while its probabilities stream; a `ProbabilitySink`."""

    def __init__(
        self, counter: CalibrationCounter, reference: NDArray[np.int16], annotated: Names | None = None
    ) -> None:
        """Begin with the counter of all cases and the reference of this one; see `CalibrationCounter.case_sink`."""
        self._counter = counter
        self._reference = reference
        self._annotated = annotated

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Count some rows of the cropped box; see `ProbabilitySink`."""
        self._counter.add(cropped_view(self._reference, record)[start:stop], probabilities, self._annotated)


def _gather_heads(encoding: LabelEncoding) -> list[_Label]:
    """Foreground labels or regions; heads with the same label values count together, under the first one's name."""
    gathered: dict[tuple[int, ...], _Label] = {}
    for position, head in enumerate(encoding.heads):
        if head.indices == (0,):
            continue
        values = tuple(sorted({encoding.values[index] for index in head.indices}))
        before = gathered.get(values, _Label(head.name, (), (), head.part_of or head.name))
        heads, indices = (*before.heads, position), (*before.indices, *head.indices)
        gathered[values] = replace(before, heads=heads, indices=indices)
    return list(gathered.values())
