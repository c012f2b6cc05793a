"""Bootstrap intervals against resampling in a plain loop, against theory, and in cases worked out by hand."""

import numpy as np
import pytest

from autoseg.metrics import bootstrap
from autoseg.metrics.bootstrap import (
    NUM_RESAMPLES,
    SEED,
    bootstrap_interval,
    bootstrap_intervals,
    mean_of_label_means,
)

NAN = np.nan


def test_every_label_counts_the_same_and_empty_ones_are_left_out():
    scores = np.array([[1.0, NAN, NAN], [0.5, 0.25, NAN], [NAN, 0.75, NAN], [0.0, NAN, NAN]])
    assert mean_of_label_means(scores) == pytest.approx((0.5 + 0.5) / 2)
    assert mean_of_label_means(scores[:, :1]) == pytest.approx(0.5)
    assert mean_of_label_means(scores[:, 2:]) is None
    assert mean_of_label_means(np.zeros((0, 3))) is None
    assert mean_of_label_means(np.zeros((3, 0))) is None


def test_the_interval_is_that_of_resampled_means_in_a_plain_loop():
    scores = np.random.default_rng(0).random((7, 3))
    scores[[0, 2, 3, 4, 5, 6], 1] = NAN  # one score: most resamples are without it
    generator = np.random.default_rng(SEED)
    means = []
    for _ in range(NUM_RESAMPLES):
        draws = generator.multinomial(7, np.full(7, 1 / 7))
        sample = np.repeat(scores, draws, axis=0)
        of_labels = [column[~np.isnan(column)].mean() for column in sample.T if not np.isnan(column).all()]
        means.append(np.mean(of_labels))
    assert bootstrap_interval(scores) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    scores = np.random.default_rng(1).normal(0.8, 0.05, size=(400, 1))
    interval = bootstrap_interval(scores)
    assert interval is not None
    low, high = interval
    half_width = 1.96 * scores.std() / 400**0.5
    assert low == pytest.approx(scores.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(scores.mean() + half_width, abs=0.1 * half_width)


@pytest.mark.parametrize("scores", [np.zeros((0, 2)), np.array([[0.5, 0.7]]), np.array([[0.5], [NAN]])])
def test_fewer_than_two_cases_have_no_interval(scores):
    assert bootstrap_interval(scores) is None
    assert bootstrap_intervals(scores) == [None] * scores.shape[1]


def test_equal_scores_have_an_interval_without_width():
    assert bootstrap_interval(np.full((5, 2), 0.25)) == (0.25, 0.25)


def test_each_column_has_its_own_interval_from_the_same_draws():
    scores = np.random.default_rng(2).random((9, 3))
    scores[:8, 1] = NAN
    first, second, third = bootstrap_intervals(scores)
    assert first == pytest.approx(bootstrap_interval(scores[:, :1]))
    assert second is None
    assert third == pytest.approx(bootstrap_interval(scores[:, 2:]))


def test_work_in_small_blocks_gives_the_same(monkeypatch):
    scores = np.random.default_rng(3).random((9, 5))
    scores[2:, 4] = NAN
    whole = bootstrap_interval(scores), bootstrap_intervals(scores)
    monkeypatch.setattr(bootstrap, "_MAX_BLOCK", 100)
    blocks = bootstrap_interval(scores), bootstrap_intervals(scores)
    assert blocks[0] == pytest.approx(whole[0])
    assert blocks[1] == [pytest.approx(interval) for interval in whole[1]]
