"""Average precision against numbers by hand and against a loop that follows the definition literally."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.metrics.average_precision import ScoredMatches, average_precision, match_by_score
from autoseg.metrics.detection import find_overlaps


def score(cases):
    """Average precision by threshold; cases are maps of predictions and references, and scores by number."""
    matches = []
    for prediction, reference, scores in cases:
        overlaps = find_overlaps(np.array([prediction]), np.array([reference]))
        matches.append(match_by_score(overlaps, np.array([scores[number] for number in overlaps.predicted])))
    return average_precision(matches)


def literal_precision(cases, threshold):
    """The definition in whole numbers: match greedily case by case, then read precision at each recall."""
    ranked, total = [], 0
    for prediction, reference, scores in cases:
        masks = {number: {i for i, v in enumerate(reference) if v == number} for number in set(reference) - {0}}
        total += len(masks)
        for number in sorted(set(prediction) - {0}, key=lambda number: (-scores[number], number)):
            mask = {i for i, v in enumerate(prediction) if v == number}
            ious = {other: Fraction(len(mask & m), len(mask | m)) for other, m in masks.items()}
            best = max(ious, key=lambda other: (ious[other], -other), default=None)
            is_match = best is not None and ious[best] >= threshold
            if is_match:
                del masks[best]
            ranked.append((scores[number], is_match))
    points = []
    for limit in {value for value, _ in ranked}:
        above = [is_match for value, is_match in ranked if value >= limit]
        points.append((Fraction(sum(above), total), Fraction(sum(above), len(above))))
    wanted = [Fraction(step, 100) for step in range(101)]
    best = [max((p for recall, p in points if recall >= asked), default=Fraction(0)) for asked in wanted]
    return float(sum(best) / 101)


def test_by_hand():
    reference = [1, 1, 0, 2, 2, 2, 2, 0, 3, 0]
    prediction = [1, 1, 0, 2, 2, 2, 0, 5, 0, 0]
    # the best and the last one match, the second is a false alarm; the third object is missed
    found = score([(prediction, reference, {1: 0.9, 2: 0.3, 5: 0.6})])
    at_half = (34 * 1 + 33 * 2 / 3) / 101  # recalls up to 1/3 with precision 1, up to 2/3 with 2/3
    assert found[0] == pytest.approx(at_half)
    assert found[5] == pytest.approx(at_half)  # an IoU of 3/4 reaches the threshold 0.75
    assert found[6] == pytest.approx(34 / 101)


def test_the_ranking_is_over_all_cases():
    sure_alarm, unsure_match = ([4, 0], [0, 0], {4: 0.9}), ([4, 0], [1, 0], {4: 0.8})
    assert score([sure_alarm, unsure_match])[0] == pytest.approx(0.5)
    assert score([sure_alarm, (*unsure_match[:2], {4: 0.95})])[0] == 1


def test_equal_scores_do_not_depend_on_the_order_of_cases():
    cases = [([4, 0], [0, 0], {4: 1.0}), ([4, 0], [1, 0], {4: 1.0})]
    assert score(cases)[0] == score(cases[::-1])[0] == 0.5


def test_the_surer_of_two_takes_the_object():
    reference, prediction = [1, 1], [1, 2]  # both halves have an IoU of exactly one half
    assert score([(prediction, reference, {1: 0.2, 2: 0.9})])[0] == 1
    matches = match_by_score(find_overlaps(np.array([prediction]), np.array([reference])), np.array([0.2, 0.9]))
    assert matches.is_match[0].tolist() == [False, True]
    assert not matches.is_match[1:].any()


def test_without_instances():
    assert score([([1, 0], [0, 0], {1: 0.5})]) is None
    assert score([([0, 0], [1, 0], {})]).tolist() == [0.0] * 10
    assert average_precision([ScoredMatches(np.zeros(0), np.zeros((10, 0), bool), 0)]) is None


row = st.lists(st.integers(0, 4), min_size=12, max_size=12)
case = st.tuples(row, row, st.fixed_dictionaries({n: st.sampled_from([0.1, 0.5, 0.9]) for n in range(1, 5)}))


@settings(max_examples=60, deadline=None)
@given(st.lists(case, min_size=1, max_size=3))
def test_as_the_definition_says(cases):
    found = score(cases)
    if not any(any(reference) for _, reference, _ in cases):
        assert found is None
        return
    for value, twentieths in zip(found, range(10, 20), strict=True):
        assert value == pytest.approx(literal_precision(cases, Fraction(twentieths, 20)), abs=1e-12)
