"""A bounded sample of a case's voxels with their probabilities: what temperatures are fitted on."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.inference.sinks.uncertainty import label_probabilities
from autoseg.records.calibration import NUM_BINS
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import BACKGROUND, LabelEncoding, indices_by_label


class VoxelSample:
    """Voxels in which some foreground label is likely, drawn evenly over the labels decided for; a `ProbabilitySink`.

    The choice depends on the prediction alone, as that of `records.calibration`.
    """

    def __init__(
        self, reference: NDArray[np.int16], encoding: LabelEncoding, max_voxels: int, generator: np.random.Generator
    ) -> None:
        """Begin with an empty sample.

        Args:
            reference: Label indices (Z, Y, X), working orientation, before the crop.
            encoding: Label encoding of the heads.
            max_voxels: Largest number of voxels, shared equally by the labels; at least one of each is kept.
            generator: Draws the voxels.
        """
        self._reference = reference
        self._encoding = encoding
        self._generator = generator
        names = [*indices_by_label(encoding)]
        self._foreground = [place for place, name in enumerate(names) if name != BACKGROUND]
        self._quota = max(1, max_voxels // len(names))
        empty = np.empty((0, len(encoding.heads) + 2), dtype=np.float32)
        self._rows = dict.fromkeys(range(len(names)), empty)
        self._seen = dict.fromkeys(range(len(names)), 0)

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Draw from some rows of the cropped box; see `ProbabilitySink`."""
        reference = cropped_view(self._reference, record)[start:stop]
        labels = label_probabilities(probabilities, self._encoding)
        likely = (labels[self._foreground] >= 1 / NUM_BINS).any(dim=0)
        known = torch.from_numpy(reference != len(self._encoding.values)).to(likely.device)
        chosen = likely & known
        decided = labels[:, chosen].argmax(dim=0).cpu().numpy()
        values = probabilities[:, chosen].T.float().cpu().numpy()
        keys = self._generator.random(len(values), dtype=np.float32)
        indices = reference[chosen.cpu().numpy()].astype(np.float32)
        rows = np.column_stack([keys, indices, values]).astype(np.float32)
        for place in np.unique(decided).tolist():
            new = rows[decided == place]
            self._seen[place] += len(new)
            self._rows[place] = _smallest_keys(np.concatenate([self._rows[place], new]), self._quota)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities of the drawn voxels by head, (n, K)."""
        return np.concatenate([rows[:, 2:] for rows in self._rows.values()])

    @property
    def indices(self) -> NDArray[np.int16]:
        """Label indices of the reference, (n,)."""
        return np.concatenate([rows[:, 1] for rows in self._rows.values()]).astype(np.int16)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Number of voxels that each drawn one stands for, (n,)."""
        return np.concatenate(
            [np.full(len(rows), self._seen[place] / max(len(rows), 1)) for place, rows in self._rows.items()]
        ).astype(np.float32)


def _smallest_keys(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The rows with the smallest random keys: a sample without replacement, whatever the number of slabs."""
    return rows if len(rows) <= count else rows[np.argpartition(rows[:, 0], count)[:count]]
