"""Labels decided by their expected Dice, slab by slab, against arrays of whole cases."""

import numpy as np
import pytest
import torch

from autoseg.imaging.arrays.border_core import divide_encoding
from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.inference.predictor import expected_dice
from autoseg.inference.predictor.expected_dice import decide_bins, decide_stored, restore_by_expected_dice
from autoseg.inference.restoring import restore
from autoseg.inference.restoring.dice_cuts import NUM_BINS, DiceCut
from autoseg.inference.restoring.restore import restore_labels
from autoseg.inference.sinks.binned import find_bins
from autoseg.inference.sinks.probabilities import ProbabilityVolume
from autoseg.inference.sinks.winning_probability import WinningProbability
from autoseg.records.case import Orientation
from tests.builders import REGIONS
from tests.inference.sinks.random_logits import ORIGINAL, SIGMOID, SOFTMAX, case_logits

DIVIDED = divide_encoding(make_encoding({"background": 0, "cell": 300, "wall": 7}))
OVERLAPPING = make_encoding({"background": 0, "a": (10, 30), "b": (20, 30)}, (10, 20), overlapping=True)


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    """Several slabs even for small volumes, in both passes."""
    monkeypatch.setattr(restore, "SLAB_VOXELS", 600)
    monkeypatch.setattr(expected_dice, "SLAB_VOXELS", 600)


def mean_by_hand(probabilities):
    """Cut by moments, with bins as the only coarseness: threshold, weight."""
    ordered = np.sort(probabilities)[::-1]
    dice = 2 * np.cumsum(ordered) / (np.arange(1, len(ordered) + 1) + ordered.sum())
    taken = int(dice.argmax()) + 1
    return float(ordered[dice.argmax()]), 1 / (taken + ordered.sum())


def decide_by_hand(probabilities, encoding):
    """Label indices from (K, ...), the middle of bins, and a mask of voxels that no rounding can turn."""
    middles = (np.floor(probabilities * NUM_BINS) + 0.5) / NUM_BINS
    names = list(dict.fromkeys(head.part_of or head.name for head in encoding.heads))
    best, labels = np.zeros(probabilities.shape[1:]), np.zeros(probabilities.shape[1:], dtype=int)
    clear = np.ones(labels.shape, dtype=bool)
    for name in names:
        heads = [number for number, head in enumerate(encoding.heads) if name in (head.part_of, head.name)]
        if name == "background" and encoding.activation == "softmax":
            continue
        own = middles[heads].sum(axis=0)
        threshold, weight = mean_by_hand(own.ravel())
        clear &= np.abs(own - threshold) > 0.02
        gain = (own - threshold) * (weight if encoding.activation == "softmax" else 1)
        wanted = gain > (best if encoding.activation == "softmax" else 0)
        clear &= (np.abs(gain - best) > 0.02 * weight) | (encoding.activation == "sigmoid")
        painted = np.array([encoding.heads[number].painted_index for number in heads])
        labels[wanted] = painted[middles[heads].argmax(axis=0)][wanted]
        best[wanted] = gain[wanted]
    return labels, clear


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("encoding", [SOFTMAX, SIGMOID, DIVIDED], ids=["softmax", "sigmoid", "divided"])
@pytest.mark.parametrize("members", [1, 2])
def test_streamed_labels_are_those_of_whole_arrays(encoding, transpose, members):
    shape = tuple(np.array(ORIGINAL)[np.argsort(transpose)].tolist())
    full = ProbabilityVolume(np.zeros((len(encoding.heads), *shape), dtype=np.float16), encoding, Orientation())
    winning = WinningProbability(shape, encoding)
    answers = [case_logits(encoding, seed, transpose) for seed in range(members)]
    record = answers[0].record
    labels = restore_by_expected_dice(answers, encoding, [full], winning)
    shares = full._array[:].astype(np.float64)

    inside = np.stack([cropped_view(share, record) for share in shares])
    expected, clear = decide_by_hand(inside, encoding)
    assert clear.mean() > 0.6
    found = cropped_view(labels, record)
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert labels.sum() == found.sum()  # background outside the crop
    plain = restore_labels([case_logits(encoding, seed, transpose) for seed in range(members)], encoding)
    assert (plain != labels).any()
    assert labels.dtype == plain.dtype
    by_name = dict.fromkeys(head.part_of or head.name for head in encoding.heads)
    rows = [
        np.sum([share for head, share in zip(encoding.heads, shares, strict=True) if name in (head.part_of, head.name)],
               axis=0)
        for name in by_name
    ]  # fmt: skip
    if encoding.activation == "softmax":
        names = [head.part_of or head.name for head in encoding.heads]
        decided = np.array([list(by_name).index(name) for name in names])[labels]
        probable = np.choose(decided, rows)
    else:
        probable = np.choose(labels, [1 - np.max(rows, axis=0), *rows])
    np.testing.assert_allclose(winning.values, probable, atol=3e-3)


def decide_row(probabilities, encoding, cuts):
    """Label indices of voxels in a row from probabilities (K, X)."""
    by_argmax = probabilities.argmax(dim=0).int()[None, None]
    return decide_bins(find_bins(probabilities)[:, None, None], by_argmax, encoding, cuts).flatten().tolist()


def test_the_label_that_gains_most_gets_the_voxel():
    """By hand: gains (0.45 - 0.40) / 20 for the small label, (0.54 - 0.45) / 2000 for the large one."""
    cuts = {"anterior": DiceCut(0.40, 1 / 20, 0.8), "posterior": DiceCut(0.45, 1 / 2000, 0.9)}
    probabilities = torch.tensor([[0.01, 0.45, 0.54], [0.30, 0.30, 0.40], [0.05, 0.41, 0.54], [0.5, 0.1, 0.4]]).T
    assert decide_row(probabilities, SOFTMAX, cuts) == [1, 0, 1, 0]


def test_a_label_that_is_probably_absent_is_decided_by_argmax():
    cuts = {"anterior": DiceCut(1.0, 0.0, 0.7), "posterior": DiceCut(0.25, 1 / 100, 0.5)}
    probabilities = torch.tensor([[0.4, 0.2, 0.4], [0.30, 0.38, 0.32], [0.5, 0.3, 0.2], [0.35, 0.33, 0.32]]).T
    assert decide_row(probabilities, SOFTMAX, cuts) == [2, 1, 0, 2]  # the largest head keeps the second voxel


def test_regions_have_their_own_thresholds_and_are_written_in_order():
    cuts = {"whole": DiceCut(0.4, 0.1, 0.8), "core": DiceCut(0.3, 0.1, 0.6), "enhancing": DiceCut(1.0, 0.0, 0.9)}
    regions = make_encoding(REGIONS, (2, 1, 3))
    probabilities = torch.tensor([[0.45, 0.1, 0.4], [0.45, 0.35, 0.45], [0.1, 0.1, 0.1]]).T
    values = np.array(regions.values)[decide_row(probabilities, regions, cuts)]
    assert values.tolist() == [2, 1, 0]
    above = torch.tensor([[0.45, 0.1, 0.4], [0.45, 0.35, 0.45], [0.1, 0.1, 0.6]]).T
    assert np.array(regions.values)[decide_row(above, regions, cuts)].tolist() == [2, 1, 3]


def test_overlapping_labels_add_up():
    cuts = {"a": DiceCut(0.4, 0.1, 0.8), "b": DiceCut(0.3, 0.1, 0.6)}
    probabilities = torch.tensor([[0.45, 0.35], [0.45, 0.2], [0.2, 0.35]]).T
    values = np.array(OVERLAPPING.values)[decide_row(probabilities, OVERLAPPING, cuts)]
    assert values.tolist() == [30, 10, 20]


def test_stored_probabilities_give_the_same_labels():
    streamed = restore_by_expected_dice([case_logits(SOFTMAX)], SOFTMAX)
    full = ProbabilityVolume(np.zeros((3, *ORIGINAL), dtype=np.float16), SOFTMAX, Orientation())
    stored = restore_labels([case_logits(SOFTMAX)], SOFTMAX, [full])
    record = case_logits(SOFTMAX).record
    inside = np.stack([cropped_view(share, record) for share in full._array[:]])
    decide_stored(stored, record, inside, SOFTMAX)
    assert (stored != streamed).mean() < 0.01  # stored ones are rounded to float16
