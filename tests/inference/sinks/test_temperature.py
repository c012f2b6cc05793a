"""Temperatures: against scipy's softmax of divided logits; sinks receive what they say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.sinks.temperature import calibrated, divide_logits
from autoseg.records.confidence import Confidence
from tests.builders import make_record

LABELS = make_encoding({"background": 0, "a": 3, "b": 7})
REGIONS = make_encoding({"background": 0, "whole": (3, 7), "core": 7}, (3, 7))


def draw(heads, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, (heads, 3, 4, 5))


def as_tensor(array):
    return torch.from_numpy(array).float()


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.7])
def test_a_softmax_is_that_of_divided_logits(temperature):
    logits = draw(3)
    found = divide_logits(as_tensor(softmax(logits, axis=0)), torch.full((3,), temperature), is_softmax=True)
    np.testing.assert_allclose(found, softmax(logits / temperature, axis=0), atol=2e-6)


def test_each_region_has_its_own():
    logits = draw(2)
    found = divide_logits(as_tensor(expit(logits)), torch.tensor([0.5, 3.0]), is_softmax=False)
    np.testing.assert_allclose(found, expit(logits / np.array([0.5, 3.0])[:, None, None, None]), atol=2e-5)


@given(st.integers(0, 1000), st.floats(0.2, 5.0))
def test_the_most_probable_label_stays(seed, temperature):
    before = as_tensor(softmax(draw(4, seed), axis=0))
    after = divide_logits(before, torch.full((4,), temperature), is_softmax=True)
    chosen = before.argmax(dim=0)
    assert torch.equal(after.gather(0, chosen[None]), after.amax(dim=0)[None])


def test_certain_voxels_stay_finite():
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    for is_softmax in (True, False):
        found = divide_logits(certain, torch.tensor([1.3, 1.3]), is_softmax=is_softmax)
        assert torch.isfinite(found).all()
        assert torch.equal(found.round(), certain)


class Kept:
    def __init__(self):
        self.written = []

    def write(self, record, start, stop, probabilities):
        self.written.append((record, start, stop, probabilities))


def test_a_sink_receives_calibrated_probabilities_and_the_given_ones_stay():
    kept, record = Kept(), make_record((3, 4, 5))
    confidence = Confidence(temperatures={"background": 2.0, "a": 2.0, "b": 2.0}, expected_dice={})
    logits = draw(3, 2)
    given_probabilities = as_tensor(softmax(logits, axis=0))
    before = given_probabilities.clone()
    sink = calibrated(kept, confidence, LABELS)
    assert sink is not None
    sink.write(record, 0, 3, given_probabilities)
    ((found_record, start, stop, found),) = kept.written
    assert (found_record, start, stop) == (record, 0, 3)
    np.testing.assert_allclose(found, softmax(logits / 2, axis=0), atol=2e-6)
    assert torch.equal(given_probabilities, before)


def test_without_temperatures_that_change_something_the_sink_stays_itself():
    kept = Kept()
    ones = Confidence(temperatures={"whole": 1.0, "core": 1.0}, expected_dice={})
    assert calibrated(kept, None, REGIONS) is kept
    assert calibrated(kept, ones, REGIONS) is kept
    assert calibrated(None, ones.model_copy(update={"temperatures": {"whole": 2.0}}), REGIONS) is None
