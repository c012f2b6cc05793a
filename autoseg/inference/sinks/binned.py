"""Probabilities in bins: counted by label while they stream, and kept in a compressed file to be decided on later.

A decision about a whole case needs all its probabilities twice: to find the cut of each label, then to apply it. The
second time they are read from the file, two bytes a voxel and head before compression; wide areas are certain, where
the file takes next to nothing.

Tested in tests/inference/predictor/test_expected_dice.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.cropping import crop_shape
from autoseg.inference.restoring.dice_cuts import NUM_BINS
from autoseg.inference.sinks.uncertainty import label_probabilities
from autoseg.records.case import PreprocessedCase, Triple
from autoseg.records.dataset import LabelEncoding, indices_by_label
from autoseg.records.files import scratch_folder

if TYPE_CHECKING:
    import blosc2

CHUNK_BYTES = 2**22
"""Size of a chunk of one head."""


class BinnedProbabilities:
    """Probabilities of the cropped box, filled slab by slab; a `ProbabilitySink`."""

    def __init__(self, array: "blosc2.NDArray", encoding: LabelEncoding) -> None:
        """Fill an array (K, Z, Y, X), int16, of the bin of each head's probability; see `binned_file`."""
        labels = len(indices_by_label(encoding))
        self.counts: NDArray[np.int64] = np.zeros((labels, NUM_BINS), dtype=np.int64)
        """Voxels by label (in the order of `indices_by_label`) and by bin of the label's probability."""
        self.sums: NDArray[np.float64] = np.zeros((labels, NUM_BINS), dtype=np.float64)
        """Sums of the probabilities of these voxels."""
        self._array = array
        self._encoding = encoding

    @property
    def num_rows(self) -> int:
        """Rows of the cropped box."""
        return int(self._array.shape[1])

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        del record  # the file has no more than the box
        self._array[:, start:stop] = find_bins(probabilities).cpu().numpy()
        for row, values in enumerate(label_probabilities(probabilities, self._encoding)):
            self._count(row, values)

    def read(self, start: int, stop: int) -> Tensor:
        """Bins of some rows, (K, stop - start, Y, X), int16."""
        return torch.from_numpy(self._array[:, start:stop])

    def _count(self, row: int, values: Tensor) -> None:
        """Count voxels; those of the first bin, which are nearly all, without looking at each."""
        likely = values[values >= 1 / NUM_BINS]
        bins = find_bins(likely).long()
        sums = torch.bincount(bins, weights=likely.double(), minlength=NUM_BINS).cpu().numpy()
        self.counts[row] += torch.bincount(bins, minlength=NUM_BINS).cpu().numpy()
        self.counts[row, 0] += values.numel() - likely.numel()
        sums[0] = max(0.0, float(values.sum(dtype=torch.float64)) - float(sums.sum()))
        self.sums[row] += sums


def find_bins(probabilities: Tensor) -> Tensor:
    """Bin of each probability, int16, of any shape."""
    return (probabilities * NUM_BINS).to(torch.int16).clamp_(0, NUM_BINS - 1)


def find_label_bins(bins: Tensor, encoding: LabelEncoding) -> Tensor:
    """Bins of labels from bins (K, ...) by head: those of core and border of a label are summed."""
    return label_probabilities(bins, encoding).to(torch.int16)


@contextmanager
def binned_file(record: PreprocessedCase, encoding: LabelEncoding) -> Iterator[BinnedProbabilities]:
    """A sink with a compressed temporary file, which is removed when the block ends.

    Args:
        record: Place of the box in the image.
        encoding: Label encoding of the heads.

    Raises:
        WriteError: If the disk of the temporary files is full.
    """
    import blosc2  # slow to import, and most predictions do without

    depth, height, width = crop_shape(record)
    chunk: Triple = (max(1, min(depth, CHUNK_BYTES // (2 * height * width))), height, width)
    with scratch_folder("decision") as folder:
        array = blosc2.zeros(
            (len(encoding.heads), depth, height, width), dtype=np.int16, urlpath=str(folder / "bins.b2nd"), mode="w",
            chunks=(1, *chunk), cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1),
        )  # fmt: skip
        yield BinnedProbabilities(array, encoding)
