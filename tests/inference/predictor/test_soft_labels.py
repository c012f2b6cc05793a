"""Soft labels of hand-made logits, against numpy."""

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.arrays.soft_codes import decode_soft_labels
from autoseg.imaging.arrays.storage import StoredCase
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.predictor import soft_labels
from autoseg.inference.predictor.soft_labels import label_softly, probability_of_indices
from autoseg.inference.restoring.restore import LogitStream
from autoseg.records.network import ResamplingSpec
from tests.builders import REGIONS, make_configuration, make_record

LOADED = LoadedConfiguration("3d_fullres", make_configuration(), (), (), ())
"""Without networks: the logits are made by hand."""
LABELS = make_encoding({"background": 0, "one": 5, "two": 9})


def test_labels_and_calibrated_probabilities_of_every_voxel(monkeypatch):
    generator = np.random.default_rng(0)
    shape = (3, 4, 5)
    logits = (4 * generator.standard_normal((3, *shape))).astype(np.float32)
    array = np.zeros((2, *shape), dtype=np.float32)
    array[-1, 0, 0] = -1  # outside
    stored = StoredCase(make_record(shape), array, {}, None)
    stream = LogitStream(iter(torch.from_numpy(logits).unbind(1)), stored.record, ResamplingSpec())
    monkeypatch.setattr(soft_labels, "stream_stored_case", lambda _loaded, _stored: stream)
    codes = label_softly(LOADED, stored, {"background": 2.0, "one": 2.0, "two": 2.0}, LABELS)
    exponentials = np.exp(logits / 2)
    probabilities = exponentials / exponentials.sum(axis=0)
    expected = np.where(array[-1] < 0, -1, probabilities.argmax(axis=0))
    found, confidence = decode_soft_labels(codes, 3)
    np.testing.assert_array_equal(found, expected)
    inside = expected >= 0
    np.testing.assert_allclose(confidence[inside], probabilities.max(axis=0)[inside], atol=1 / 32 + 1e-3)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, 1 - 0.9),  # in no region: the most certain one would be wrong
        (1, min(0.9, 1 - 0.6, 1 - 0.2)),  # whole alone
        (2, min(0.9, 0.6, 1 - 0.2)),  # whole and core
        (3, min(0.9, 0.6, 0.2)),  # all three
    ],
)
def test_of_regions_the_least_certain_one_counts(index, expected):
    encoding = make_encoding(REGIONS, (1, 2, 3))
    probabilities = torch.tensor([0.9, 0.6, 0.2]).reshape(3, 1)
    found = probability_of_indices(probabilities, torch.tensor([index]), encoding)
    assert found.item() == pytest.approx(expected)
