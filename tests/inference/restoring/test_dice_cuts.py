"""The cut with the largest expected Dice, against sums over all outcomes and all subsets of a few voxels."""

from itertools import chain, combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.inference.restoring.dice_cuts import NUM_BINS, choose_dice_cut, expected_dice_by_cut


def expected_dice(probabilities, subset):
    """Sum over all outcomes of independent voxels."""
    outcomes = np.array(list(product((0, 1), repeat=len(probabilities))))
    chances = np.where(outcomes == 1, probabilities, 1 - np.asarray(probabilities)).prod(axis=1)
    return float(chances @ (2 * outcomes[:, list(subset)].sum(axis=1) / (len(subset) + outcomes.sum(axis=1))))


def subsets(count):
    return chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))


def histogram(probabilities):
    bins = np.minimum((np.asarray(probabilities) * NUM_BINS).astype(int), NUM_BINS - 1)
    return (
        np.bincount(bins, minlength=NUM_BINS),
        np.bincount(bins, weights=probabilities, minlength=NUM_BINS),
    )


SOME_VOXELS = st.lists(st.floats(0.002, 1.0), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(SOME_VOXELS)
def test_expected_dice_is_that_of_all_outcomes(drawn):
    probabilities = np.sort(drawn)[::-1]
    found = expected_dice_by_cut(probabilities, np.ones(len(drawn)))
    expected = [expected_dice(probabilities, range(taken + 1)) for taken in range(len(drawn))]
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(SOME_VOXELS)
def test_no_subset_is_better_than_the_cut(drawn):
    spread = (np.floor(np.array(drawn) * (NUM_BINS - 1)) + 0.5) / NUM_BINS  # equal within a bin
    cut = choose_dice_cut(*histogram(spread))
    best = max(expected_dice(spread, subset) for subset in subsets(len(spread)))
    if 1 - spread.max() >= best - 1e-12:
        assert (cut.threshold, cut.weight) == (1.0, 0.0)
        assert cut.expected_dice == pytest.approx(1 - spread.max())
        return
    taken = [voxel for voxel, p in enumerate(spread) if p > cut.threshold]
    assert cut.expected_dice == pytest.approx(best, abs=1e-9)
    assert expected_dice(spread, taken) == pytest.approx(best, abs=1e-9)
    assert cut.weight == pytest.approx(1 / (len(taken) + spread.sum()))


def test_groups_of_equal_voxels_count_as_single_ones():
    alone = expected_dice_by_cut(np.repeat([0.9, 0.4, 0.05], [2, 3, 4]), np.ones(9))
    together = expected_dice_by_cut(np.array([0.9, 0.4, 0.05]), np.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(together, alone[[1, 4, 8]], atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_many_voxels_are_as_their_moments_say(seed):
    """Of many voxels the sum hardly varies: 2 sum p / (N + sum of all p), and half of it is the threshold."""
    probabilities = np.sort(np.random.default_rng(seed).beta(0.02, 0.3, 200_000))[::-1]
    cut = choose_dice_cut(*histogram(probabilities))
    by_moments = 2 * np.cumsum(probabilities) / (np.arange(1, len(probabilities) + 1) + probabilities.sum())
    assert cut.expected_dice == pytest.approx(by_moments.max(), abs=1e-5)
    assert cut.threshold == pytest.approx(by_moments.max() / 2, abs=1.5 / NUM_BINS)
    assert cut.threshold < 0.5


def test_the_same_voxels_as_rankseg():
    rankseg = pytest.importorskip("rankseg")
    probabilities = np.random.default_rng(3).beta(0.1, 0.4, (60, 50)).astype(np.float32)
    cut = choose_dice_cut(*histogram(probabilities.ravel()))
    solver = rankseg.RankSEG(metric="dice", solver="RMA", output_mode="multilabel")
    expected = solver.predict(torch.from_numpy(probabilities)[None, None])[0, 0].numpy()
    differs = (probabilities > cut.threshold) != expected
    assert np.abs(probabilities[differs] - cut.threshold).max(initial=0) <= 2 / NUM_BINS
    assert differs.mean() < 0.002


@pytest.mark.parametrize(
    ("probabilities", "is_present"),
    [
        ([0.49] * 1000, True),  # 0.66 against 0.51 for an empty label map
        ([0.41] * 1000, False),  # 0.58 against 0.59
        ([1e-4] * 100_000, False),  # a little everywhere is nothing, although ten voxels are expected
        ([0.3] * 50 + [1e-3] * 5000, False),
        ([0.6, 0.1], True),
        ([0.4], False),
    ],
)
def test_a_label_may_be_absent(probabilities, is_present):
    cut = choose_dice_cut(*histogram(np.array(probabilities)))
    assert (cut.weight > 0) is is_present
    if not is_present:
        assert cut.threshold == 1.0
        assert cut.expected_dice == pytest.approx(1 - max(probabilities))


def test_nothing_to_decide():
    empty = choose_dice_cut(np.zeros(NUM_BINS, dtype=int), np.zeros(NUM_BINS))
    assert (empty.threshold, empty.weight, empty.expected_dice) == (1.0, 0.0, 1.0)
    certain = choose_dice_cut(*histogram(np.ones(10)))
    assert certain.expected_dice == pytest.approx(1.0)
    assert certain.threshold < 1
