"""Confidence intervals of means: percentile bootstrap over cases, with the same draws every time.

Scores come as an array (N cases, L labels) with NaN where a case has no score.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autoseg.records.selection import Interval

NUM_RESAMPLES = 2000
"""Enough that other draws move the bounds of a 95 % interval by only about a twentieth of its width."""

SEED = 12345
"""Fixed, so that the same scores always have the same interval."""

QUANTILES = (0.025, 0.975)
"""Quantiles of the resampled means that bound a 95 % interval."""

_MAX_BLOCK = 2**24
"""Numbers in one block of resampled data, 128 MiB."""

Scores = NDArray[np.float64]
"""(N, L), NaN where there is no score."""


def mean_of_label_means(scores: Scores) -> float | None:
    """Mean over labels of their mean over cases: every label counts the same, however many cases have it.

    Args:
        scores: (N, L), NaN where there is no score; either may be 0.

    Returns:
        The mean over the labels that have a score; None when no label has one.
    """
    means = _label_means(np.ones((1, len(scores))), scores)
    means = means[~np.isnan(means)]
    return float(means.mean()) if means.size else None


def bootstrap_interval(scores: Scores) -> Interval | None:
    """95 % interval of `mean_of_label_means` over cases drawn with replacement.

    For a paired comparison of two models give the difference of their scores: both are then drawn together.

    Args:
        scores: (N, L), NaN where there is no score. For one label (N, 1).

    Returns:
        Lower and upper bound; None when fewer than two cases have a score.

    References:
        Efron 1979; percentile method as in Efron and Tibshirani 1993, chapter 13. A resample in which a label has no
        score leaves that label out, as the mean itself does.
    """
    if np.count_nonzero(~np.isnan(scores).all(axis=1)) < 2:
        return None
    with_score = scores[:, ~np.isnan(scores).all(axis=0)]
    means = np.concatenate([_mean_of_known(block) for block in _resampled_means(with_score)])
    low, high = np.quantile(means[~np.isnan(means)], QUANTILES)
    return float(low), float(high)


def bootstrap_intervals(scores: Scores) -> list[Interval | None]:
    """95 % interval of every column's own mean, all from the same draws.

    Args:
        scores: (N, L), NaN where there is no score.

    Returns:
        One interval for each of the L columns; None for a column with fewer than two scores.
    """
    enough = np.flatnonzero(np.count_nonzero(~np.isnan(scores), axis=0) >= 2)
    intervals: list[Interval | None] = [None] * scores.shape[1]
    if not enough.size:
        return intervals
    columns_at_once = max(1, _MAX_BLOCK // NUM_RESAMPLES)
    for start in range(0, len(enough), columns_at_once):
        columns = enough[start : start + columns_at_once]
        means = np.concatenate(list(_resampled_means(scores[:, columns])))
        for column, (low, high) in zip(columns, np.nanquantile(means, QUANTILES, axis=0).T, strict=True):
            intervals[column] = float(low), float(high)
    return intervals


def _resampled_means(scores: Scores) -> Iterator[Scores]:
    """Means by (resample, label), a block of resamples at a time; the draws depend on the number of cases alone."""
    num_cases, num_labels = scores.shape
    generator = np.random.default_rng(SEED)
    at_once = max(1, _MAX_BLOCK // max(num_cases, num_labels))
    for start in range(0, NUM_RESAMPLES, at_once):
        num_resamples = min(at_once, NUM_RESAMPLES - start)
        draws = generator.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=num_resamples)
        yield _label_means(draws.astype(np.float64), scores)


def _label_means(draws: NDArray[np.float64], scores: Scores) -> Scores:
    """Means (R, L) where `draws` (R, N) says how often each case was drawn; NaN for a label without a score."""
    known = ~np.isnan(scores)
    sums = draws @ np.where(known, scores, 0.0)
    counts = draws @ known.astype(np.float64)
    means: Scores = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means


def _mean_of_known(means: Scores) -> NDArray[np.float64]:
    """Mean (R,) over the labels of (R, L) that are not NaN; NaN if all are."""
    known = ~np.isnan(means)
    counts = np.count_nonzero(known, axis=1)
    sums = np.where(known, means, 0.0).sum(axis=1)
    label_means: Scores = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return label_means
