"""Drawn voxels: all eligible ones where there is room, else a fair part of each label's."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.sinks.voxel_sample import VoxelSample
from tests.builders import make_record

LABELS = make_encoding({"background": 0, "a": 3, "b": 7, "ignore": 9})
REGIONS = make_encoding({"background": 0, "whole": (3, 7), "core": 7, "ignore": 9}, (3, 7))
# working shape (6, 5, 7); transposed axis i is working axis (2, 0, 1)[i], so (7, 6, 5)
RECORD = make_record(
    (4, 5, 3), original_shape=(7, 6, 5), crop_start=(1, 0, 2), crop_stop=(6, 6, 5), transpose=(2, 0, 1)
)


def draw(encoding):
    generator = np.random.default_rng(4)
    reference = generator.integers(0, 4, (6, 5, 7)).astype(np.int16)  # 3 is ignored
    values = generator.normal(0, 3, (len(encoding.heads), 5, 6, 3))
    probabilities = 1 / (1 + np.exp(-values))
    if encoding.activation == "softmax":
        probabilities = np.exp(values) / np.exp(values).sum(axis=0)
    return reference, probabilities.astype(np.float32)


def sample_of(encoding, max_voxels, cuts=(0, 2, 5)):
    reference, probabilities = draw(encoding)
    sample = VoxelSample(reference, encoding, max_voxels, np.random.default_rng(7))
    for start, stop in pairwise(cuts):
        sample.write(RECORD, start, stop, torch.from_numpy(probabilities[:, start:stop]))
    return sample


def eligible_of(encoding):
    """Rows (label index, probabilities) of all voxels that may be drawn, from a loop."""
    reference, probabilities = draw(encoding)
    first = 1 if encoding.activation == "softmax" else 0
    rows = []
    for place, row, column in np.ndindex(5, 6, 3):
        label = int(reference[row, column + 2, place + 1])
        values = probabilities[:, place, row, column]
        if label != 3 and (values[first:] >= 0.05).any():
            rows.append((label, *values.tolist()))
    return sorted(rows)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS])
def test_all_likely_voxels_are_drawn_where_there_is_room(encoding):
    sample = sample_of(encoding, 3000)
    rows = np.column_stack([sample.indices, sample.probabilities]).tolist()
    np.testing.assert_allclose(sorted(map(tuple, rows)), eligible_of(encoding), rtol=1e-6)
    assert (sample.weights == 1).all()


@pytest.mark.parametrize("cuts", [(0, 5), (0, 1, 2, 3, 4, 5)])
def test_a_small_sample_stands_for_all_and_holds_every_label(cuts):
    sample, everything = sample_of(LABELS, 12, cuts), sample_of(LABELS, 3000)
    decided = sample.probabilities.argmax(axis=1)
    assert np.bincount(decided, minlength=3).tolist() == [4, 4, 4]
    counts = np.bincount(everything.probabilities.argmax(axis=1), minlength=3)
    for label in range(3):
        np.testing.assert_allclose(sample.weights[decided == label], counts[label] / 4)
    assert {*map(tuple, sample.probabilities.tolist())} <= {*map(tuple, everything.probabilities.tolist())}


def test_nothing_likely_gives_an_empty_sample():
    sample = VoxelSample(np.zeros((6, 5, 7), dtype=np.int16), LABELS, 100, np.random.default_rng(0))
    probabilities = torch.zeros((3, 5, 6, 3))
    probabilities[0] = 1
    sample.write(RECORD, 0, 5, probabilities)
    assert sample.probabilities.shape == (0, 3)
    assert sample.indices.shape == sample.weights.shape == (0,)
