"""Entropy against scipy's, on the image's grid; disagreement by hand."""

import numpy as np
import pytest
import scipy.stats
import torch

from autoseg.inference.models.loading import load_with_previous
from autoseg.inference.restoring import restore
from autoseg.inference.restoring.restore import restore_labels
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.inference.sinks.uncertainty import EntropyVolume, fold_disagreement, normalized_entropy, single_networks
from autoseg.records.case import Orientation
from tests.builders import CASCADE, make_cascade_plan, write_model
from tests.inference.sinks.random_logits import ORIGINAL, SIGMOID, SOFTMAX, case_logits


def test_softmax_entropy_is_scipys():
    probabilities = torch.randn((4, 3, 5, 6)).mul(3).softmax(dim=0)
    expected = scipy.stats.entropy(probabilities.numpy(), base=4, axis=0)
    np.testing.assert_allclose(normalized_entropy(probabilities, SOFTMAX), expected, atol=1e-5)


def test_region_entropy_is_the_mean_of_binary_entropies():
    probabilities = torch.rand((3, 3, 5, 6))
    pairs = np.stack([probabilities.numpy(), 1 - probabilities.numpy()])
    expected = scipy.stats.entropy(pairs, base=2, axis=0).mean(axis=0)
    np.testing.assert_allclose(normalized_entropy(probabilities, SIGMOID), expected, atol=1e-5)


@pytest.mark.parametrize("encoding", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_sure_is_zero_and_undecided_is_one(encoding):
    heads = len(encoding.heads)
    sure = torch.zeros((heads, 2))
    sure[1] = 1
    even = torch.full((heads, 2), 1 / heads if encoding is SOFTMAX else 0.5)
    assert normalized_entropy(sure, encoding).tolist() == [0, 0]
    np.testing.assert_allclose(normalized_entropy(even, encoding), [1, 1], atol=1e-6)
    assert normalized_entropy(even, encoding).max() <= 1


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("encoding", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_entropy_is_that_of_the_mean_probabilities(monkeypatch, encoding, transpose):
    monkeypatch.setattr(restore, "SLAB_VOXELS", 600)  # several slabs
    members = [case_logits(encoding, seed, transpose) for seed in (0, 1)]
    depth, height, width = (ORIGINAL[axis] for axis in np.argsort(transpose))
    volume = EntropyVolume((depth, height, width), encoding)
    stored = np.zeros((len(encoding.heads), depth, height, width), dtype=np.float16)
    restore_labels(members, encoding, [volume, ProbabilityVolume(stored, encoding, Orientation())])
    entropy = volume.values
    probabilities = stored.astype(np.float64)
    if encoding is SOFTMAX:
        expected = scipy.stats.entropy(probabilities, base=3, axis=0)
    else:
        expected = scipy.stats.entropy(np.stack([probabilities, 1 - probabilities]), base=2, axis=0).mean(axis=0)
    assert entropy.dtype == np.float16
    assert entropy.shape == probabilities.shape[1:]
    np.testing.assert_allclose(entropy, expected, atol=3e-3)
    outside = np.ones(ORIGINAL, dtype=bool)
    outside[1:8, 2:13, 3:11] = False
    assert not entropy[outside.transpose(np.argsort(transpose))].any()
    assert 0 < entropy.max() <= 1


def test_disagreement_is_the_share_of_other_answers():
    ensemble = np.array([[[0, 1, 2, 300]]])
    own = (np.array([[other]]) for other in ([0, 1, 2, 3], [0, 1, 1, 3], [0, 2, 0, 300], [0, 1, 1, 3]))
    np.testing.assert_array_equal(fold_disagreement(ensemble, own), [[[0, 0.25, 0.75, 0.75]]])
    with pytest.raises(ValueError, match="at least one network"):
        fold_disagreement(ensemble, ())


def test_every_fold_is_a_model_of_its_own(tmp_path):
    plan = make_cascade_plan((4.0, 2.4, 2.4), (2.0, 1.2, 1.2))
    workspace = write_model(tmp_path, plan, {"3d_lowres": ("0", "1"), CASCADE: ("0", "1", "2")})
    member = load_with_previous(workspace, plan, CASCADE, (), "final", torch.device("cpu"))
    singles = single_networks([member])
    assert [single.folds for single in singles] == [("0",), ("1",), ("2",)]
    assert [single.networks for single in singles] == [(network,) for network in member.networks]
    assert member.previous is not None
    previous = [single.previous for single in singles]
    assert [stage.folds for stage in previous if stage is not None] == [("0",), ("1",), ("0", "1")]
    assert previous[1] is not None
    assert previous[1].networks == (member.previous.networks[1],)
