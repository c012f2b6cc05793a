"""Which unlabelled cases to label next: those of which a model knows little, and which are unlike each other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoseg.records.suggestions import CaseSigns, Suggestion

CANDIDATES_PER_CHOICE = 2
"""Cases that compete for every one that is chosen."""
MIN_VARIATION = 1e-6
"""Standard deviation of a feature, as a fraction of its largest value, below which it says nothing."""


def choose_next(signs: Sequence[CaseSigns], images: Sequence[tuple[str, ...]], count: int) -> tuple[Suggestion, ...]:
    """Choose cases one after the other: unknown to the model, and far from those chosen before.

    Only the least known cases compete, twice as many as are wanted, of equal ones one; a wide variety would win
    otherwise, however well the model knows it. A case's score is the mean of its ranks in uncertainty and in
    disagreement, as a fraction of the number of cases, times its distance to the nearest case chosen before, as a
    fraction of the largest distance from the first one. So of two copies of an image, which are equally uncertain, one
    is chosen, and the other only if nothing else is left.

    Args:
        signs: What was measured of each case.
        images: Its image files.
        count: Number of cases to choose; all are chosen if there are no more.

    Returns:
        The chosen cases, the first one first.

    References:
        Yang et al. 2017, "Suggestive annotation": twice as many uncertain cases, and among them those that represent
        others. Distances to the nearest chosen case: Sener and Savarese 2018, k-centre greedy.
    """
    if not signs:
        return ()
    unknown = rank_unknown(signs)
    points = place_cases(signs)
    nearest, largest = np.ones(len(signs)), 0.0
    competes = _find_least_known(unknown, points, CANDIDATES_PER_CHOICE * count)
    chosen: list[int] = []
    found = []
    while len(chosen) < min(count, len(signs)):
        if competes[chosen].sum() == competes.sum():
            competes[:] = True
        scores = np.where(competes, unknown * nearest, -1.0)
        scores[chosen] = -1.0
        place = int(scores.argmax())
        own = signs[place]
        found.append(
            Suggestion(
                rank=len(chosen) + 1, case=own.case, images=images[place], score=float(scores[place]),
                uncertainty=own.uncertainty, disagreement=own.disagreement, expected_dice=own.expected_dice,
                distance=float(nearest[place]), reason=_explain(signs, place, nearest[place], is_first=not chosen),
            )
        )  # fmt: skip
        chosen.append(place)
        distances = np.linalg.norm(points - points[place], axis=1)
        largest = largest or float(distances.max()) or 1.0
        nearest = np.minimum(nearest, distances / largest)
    return tuple(found)


def _find_least_known(unknown: NDArray[np.float64], points: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Mask (n,) of so many cases that the model knows least, of those with equal features one."""
    order = np.argsort(-unknown, kind="stable")
    _, firsts = np.unique(points[order], axis=0, return_index=True)
    found = np.zeros(len(unknown), dtype=bool)
    found[order[np.sort(firsts)[:count]]] = True
    return found


def rank_unknown(signs: Sequence[CaseSigns]) -> NDArray[np.float64]:
    """Mean rank of every case in uncertainty and disagreement, (n,), in (0, 1]; 1 is the least known."""
    columns = [[own.uncertainty for own in signs]]
    if all(own.disagreement is not None for own in signs):
        columns.append([own.disagreement or 0.0 for own in signs])
    ranks: NDArray[np.float64] = np.mean([_fractional_ranks(np.array(column)) for column in columns], axis=0)
    return ranks


def place_cases(signs: Sequence[CaseSigns]) -> NDArray[np.float64]:
    """Features of all cases as points, (n, d): each divided by its standard deviation, every kind counting equally."""
    parts = []
    for kind in signs[0].features:
        values = np.array([own.features[kind] for own in signs], dtype=np.float64)
        deviations = values.std(axis=0)
        varies = deviations > MIN_VARIATION * np.abs(values).max(axis=0, initial=0.0)
        if varies.any():
            parts.append(values[:, varies] / deviations[varies] / np.sqrt(varies.sum()))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(signs), 1))


def _fractional_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fraction of the values that are not larger, for each value."""
    return np.array([(values <= value).mean() for value in values])


def _explain(signs: Sequence[CaseSigns], place: int, distance: float, *, is_first: bool) -> str:
    own = signs[place]
    position = sum(other.uncertainty > own.uncertainty for other in signs) + 1
    parts = [f"uncertainty {own.uncertainty:.2f}, number {position} of {len(signs)}"]
    if own.disagreement is not None:
        parts.append(f"predictions disagree on {own.disagreement:.0%} of the foreground")
    if own.expected_dice is not None:
        parts.append(f"expected Dice {own.expected_dice:.2f}")
    if not is_first:
        parts.append(f"distance {distance:.2f} from the cases before")
    return "; ".join(parts)
