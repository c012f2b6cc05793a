"""Sums of probabilities: against a plain loop over voxels, whatever the slabs."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.sinks.label_sums import LabelSumsCounter
from autoseg.metrics.expected_dice import expect_dice
from autoseg.records.confidence import Confidence, Correction, DiceModel
from tests.builders import make_record

LABELS = make_encoding({"background": 0, "a": 3, "b": 7})
REGIONS = make_encoding({"background": 0, "whole": (3, 7), "core": 7}, (3, 7))
RECORD = make_record((4, 5, 3), original_spacing=(2.5, 0.8, 1.5))


def draw(encoding, seed=0):
    values = np.random.default_rng(seed).normal(0, 2.5, (len(encoding.heads), 4, 5, 3))
    if encoding.activation == "sigmoid":
        return 1 / (1 + np.exp(-values))
    return np.exp(values) / np.exp(values).sum(axis=0)


def write(counter, probabilities, cuts=(0, 1, 4)):
    for start, stop in pairwise(cuts):
        counter.write(RECORD, start, stop, torch.from_numpy(probabilities[:, start:stop]).float())
    return counter


@pytest.mark.parametrize(("encoding", "thresholds"), [(LABELS, {}), (REGIONS, {"core": 0.3})])
def test_sums_are_those_of_a_loop_over_voxels(encoding, thresholds):
    probabilities = draw(encoding)
    found = write(LabelSumsCounter(encoding, thresholds), probabilities).sums
    assert list(found) == [head.name for head in encoding.heads if head.name != "background"]
    for position, head in enumerate(encoding.heads):
        if head.name == "background":
            continue
        voxels, inside, likely, entropy = 0, 0.0, 0.0, 0.0
        for index in np.ndindex(4, 5, 3):
            values = probabilities[(slice(None), *index)]
            value = values[position]
            is_predicted = value > thresholds.get(head.name, 0.5)
            if encoding.activation == "softmax":
                is_predicted = values.argmax() == position
            if is_predicted:
                voxels, inside = voxels + 1, inside + value
            if is_predicted or value >= 0.05:
                likely += value
                entropy -= value * math.log(value) + (1 - value) * math.log(1 - value)
        sums = found[head.name]
        assert (sums.predicted_voxels, sums.voxel_mm3) == (voxels, pytest.approx(3.0))
        sums = (sums.predicted_sum, sums.probability_sum, sums.entropy_sum)
        assert sums == pytest.approx((inside, likely, entropy), rel=1e-5)


def test_slabs_do_not_matter():
    probabilities = draw(LABELS, 1)
    one, many = (write(LabelSumsCounter(LABELS), probabilities, cuts) for cuts in ((0, 4), (0, 1, 2, 3, 4)))
    for name, sums in one.sums.items():
        assert sums.measurements == pytest.approx(many.sums[name].measurements)


def test_only_predicted_labels_with_a_model_are_expected():
    correction = Correction(mean=0.0, deviation=1.0, slope=0.0)
    model = DiceModel(
        num_cases=12, offset=-0.5, overlap=correction, volume=correction, entropy=correction, interval_factor=0.5
    )
    confidence = Confidence(temperatures={}, expected_dice={"a": model, "b": model})
    probabilities = np.zeros((3, 4, 5, 3))
    probabilities[0] = 1.0
    probabilities[:2, 1] = [[[0.2]], [[0.8]]]
    counter = write(LabelSumsCounter(LABELS), probabilities)
    assert counter.expect(confidence) == {"a": expect_dice(model, counter.sums["a"].measurements)}
    assert counter.expect(None) == {}
    # overlap 2 * 0.8 n / (n + 0.8 n) = 0.889, odds 8; shifted by -0.5
    assert counter.expect(confidence)["a"].value == pytest.approx(8 * math.exp(-0.5) / (1 + 8 * math.exp(-0.5)))
