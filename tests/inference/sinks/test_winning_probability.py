"""The streamed probability of the decided label against arrays of all heads."""

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.border_core import divide_encoding
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.restoring import restore
from autoseg.inference.restoring.restore import restore_labels
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.inference.sinks.winning_probability import WinningProbability, winning_probability
from autoseg.records.case import Orientation
from tests.builders import REGIONS
from tests.inference.sinks.random_logits import ORIGINAL, SIGMOID, SOFTMAX, case_logits

DIVIDED = divide_encoding(make_encoding({"cell": 300}))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("encoding", [SOFTMAX, SIGMOID, DIVIDED], ids=["softmax", "sigmoid", "divided"])
def test_it_is_that_of_the_label_map(monkeypatch, encoding, transpose):
    monkeypatch.setattr(restore, "SLAB_VOXELS", 600)  # several slabs
    shape = tuple(np.array(ORIGINAL)[np.argsort(transpose)].tolist())
    winning = WinningProbability(shape, encoding)
    full = ProbabilityVolume(np.zeros((len(encoding.heads), *shape), dtype=np.float16), encoding, Orientation())
    answers = [case_logits(encoding, seed, transpose) for seed in range(2)]
    labels = restore_labels(answers, encoding, [winning, full])
    shares = full._array[:].astype(np.float32)
    values = np.array(encoding.values)[labels]
    if encoding.activation == "softmax":
        parts = [
            np.where(values == encoding.values[head.painted_index], share, 0)
            for head, share in zip(encoding.heads, shares, strict=True)
        ]
        expected = np.sum(parts, axis=0)
        assert expected.min() < 0.45
    else:  # head h paints label h + 1
        expected = np.choose(labels, [1 - shares.max(axis=0), *shares])
    np.testing.assert_allclose(winning.values, expected, atol=2e-3)
    assert len(np.unique(labels)) > 2


def test_core_and_border_count_together():
    probabilities = torch.tensor([[0.4, 0.6], [0.5, 0.3], [0.1, 0.1]])
    np.testing.assert_allclose(winning_probability(probabilities, DIVIDED), [0.6, 0.6], atol=1e-6)
    np.testing.assert_allclose(winning_probability(probabilities, SOFTMAX), [0.5, 0.6], atol=1e-6)


def test_a_later_region_hides_an_earlier_one():
    assert len(REGIONS) == 4
    probabilities = torch.tensor([[0.9, 0.9, 0.2], [0.6, 0.2, 0.3], [0.1, 0.1, 0.4]])
    np.testing.assert_allclose(winning_probability(probabilities, SIGMOID), [0.6, 0.9, 0.6], atol=1e-6)


def test_a_region_begins_at_its_own_threshold():
    probabilities = torch.tensor([[0.9, 0.9, 0.2], [0.6, 0.2, 0.3], [0.1, 0.1, 0.4]])
    first, second, third = (head.name for head in SIGMOID.heads)
    found = winning_probability(probabilities, SIGMOID, {second: 0.65, third: 0.35})
    np.testing.assert_allclose(found, [0.9, 0.9, 0.4], atol=1e-6)
    np.testing.assert_allclose(winning_probability(probabilities, SIGMOID, {first: 0.95})[1], 0.1, atol=1e-6)


def test_what_was_altered_is_not_known():
    winning = WinningProbability((1, 1, 3), SOFTMAX)
    winning.forget(np.array([[[False, True, False]]]))
    np.testing.assert_array_equal(winning.values, [[[1, np.nan, 1]]])
