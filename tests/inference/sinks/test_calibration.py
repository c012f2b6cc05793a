"""Counting probabilities: against a plain loop over voxels, with crop, transpose, regions and ignored voxels."""

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.sinks.calibration import CalibrationCounter
from autoseg.records.calibration import NUM_BINS
from autoseg.records.dataset import Head, LabelEncoding
from tests.builders import make_record

LABELS = make_encoding({"background": 0, "a": 3, "b": 7, "ignore": 9})
REGIONS = make_encoding({"background": 0, "whole": (3, 7), "core": 7, "ignore": 9}, (3, 7))
# working shape (6, 5, 7); transposed axis i is working axis (2, 0, 1)[i], so (7, 6, 5)
RECORD = make_record(
    (4, 5, 3), original_shape=(7, 6, 5), crop_start=(1, 0, 2), crop_stop=(6, 6, 5), transpose=(2, 0, 1)
)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS])
def test_counts_are_those_of_a_loop_over_voxels(encoding):
    generator = np.random.default_rng(3)
    reference = generator.integers(0, 4, (6, 5, 7)).astype(np.int16)  # 3 is ignored
    probabilities = generator.random((len(encoding.heads), 5, 6, 3)).astype(np.float32)
    counter = CalibrationCounter(encoding)
    sink = counter.case_sink(reference)
    for start, stop in ((0, 2), (2, 5)):
        sink.write(RECORD, start, stop, torch.from_numpy(probabilities[:, start:stop]))

    for position, head in enumerate(encoding.heads):
        if head.name == "background":
            continue
        voxels, sums, true = np.zeros(NUM_BINS), np.zeros(NUM_BINS), np.zeros(NUM_BINS)
        for place, row, column in np.ndindex(5, 6, 3):
            value = float(probabilities[position, place, row, column])
            label = int(reference[row, column + 2, place + 1])
            if value >= 0.05 and label != 3:
                voxels[int(value * NUM_BINS)] += 1
                sums[int(value * NUM_BINS)] += value
                true[int(value * NUM_BINS)] += label in head.indices
        counts = counter.counts().labels[head.name]
        assert counts.voxels == tuple(voxels)
        assert counts.label_voxels == tuple(true)
        np.testing.assert_allclose(counts.probability_sums, sums, rtol=1e-5)
    assert "background" not in counter.counts().labels


def test_certainty_falls_into_the_last_bin():
    counter = CalibrationCounter(LABELS)
    whole = RECORD.model_copy(update={"crop_start": (0, 0, 0), "crop_stop": (7, 6, 5)})
    probabilities = torch.zeros((3, 7, 6, 5))
    probabilities[1] = 1.0
    counter.case_sink(np.ones((6, 5, 7), dtype=np.int16)).write(whole, 0, 7, probabilities)
    counts = counter.counts().labels["a"]
    assert counts.voxels[-1] == counts.label_voxels[-1] == 7 * 6 * 5
    assert sum(counter.counts().labels["b"].voxels) == 0


def test_parts_of_one_label_are_counted_together():
    """Two heads for the same value, as core and border of it; the truth knows one of their indices only."""
    heads = (
        Head(name="background", indices=(0,), painted_index=0),
        Head(name="core", indices=(1,), painted_index=1),
        Head(name="border", indices=(2,), painted_index=2),
    )
    encoding = LabelEncoding(values=(0, 5, 5), activation="softmax", heads=heads)
    whole = RECORD.model_copy(update={"crop_start": (0, 0, 0), "crop_stop": (7, 6, 5)})
    probabilities = torch.tensor([0.25, 0.25, 0.5]).reshape(3, 1, 1, 1).expand(3, 7, 6, 5)
    counter = CalibrationCounter(encoding)
    counter.case_sink(np.ones((6, 5, 7), dtype=np.int16)).write(whole, 0, 7, probabilities)
    ((name, counts),) = counter.counts().labels.items()
    assert name == "core"
    assert counts.voxels[15] == counts.label_voxels[15] == 7 * 6 * 5


def test_labels_that_were_not_looked_for_are_not_counted():
    generator = np.random.default_rng(5)
    reference = generator.integers(0, 3, (6, 5, 7)).astype(np.int16)
    probabilities = torch.from_numpy(generator.random((3, 5, 6, 3)).astype(np.float32))
    whole, partial = CalibrationCounter(LABELS), CalibrationCounter(LABELS)
    whole.case_sink(reference).write(RECORD, 0, 5, probabilities)
    partial.case_sink(reference, ("b",)).write(RECORD, 0, 5, probabilities)
    assert partial.counts().labels["b"] == whole.counts().labels["b"]
    assert sum(partial.counts().labels["a"].voxels) == 0
