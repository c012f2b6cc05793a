"""Labels that were not looked for enter no mean and no count."""

import numpy as np
import pytest

from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.records.dataset import LabelValues
from autoseg.records.evaluation import CaseScores

LABELS: dict[str, LabelValues] = {"background": 0, "liver": 1, "spleen": 2}


def maps(seed):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 3, (4, 5, 6)), generator.integers(0, 3, (4, 5, 6))


def test_the_mean_is_that_of_the_cases_in_which_a_label_was_looked_for():
    cases = [score_case(str(seed), maps(seed)[0], maps(seed)[1], LABELS) for seed in range(4)]
    annotated = [("liver",), None, ("spleen",), ("liver",)]
    kept = [keep_annotated(case, names) for case, names in zip(cases, annotated, strict=True)]
    summary = summarize(kept, ["liver", "spleen"])
    for name, places in (("liver", (0, 1, 3)), ("spleen", (1, 2))):
        dice = [cases[place].labels[name].dice or 0.0 for place in places]
        assert summary.labels[name].dice == pytest.approx(np.mean(dice))
        assert summary.labels[name].num_cases == len(dice)
        counts = summary.counts[name]
        assert (counts.both_empty, counts.missed, counts.false_alarm) == (0, 0, 0)


def test_what_is_left_out_is_written_and_read_again():
    scores = measure_case("a", maps(1)[0], maps(1)[1], LABELS, (1.0, 1.0, 2.0))
    kept = keep_annotated(scores, ("spleen",))
    assert kept.labels["spleen"] == scores.labels["spleen"]
    assert kept.labels["liver"].dice is None
    assert kept.annotated == ("spleen",)
    assert CaseScores.model_validate_json(kept.model_dump_json()) == kept
    assert kept.model_dump_json().count('"annotated"') == 1
    assert keep_annotated(scores, None) is scores


def test_an_empty_label_that_was_not_looked_for_is_neither_empty_nor_a_false_alarm():
    prediction, reference = np.ones((2, 3, 4), int), np.zeros((2, 3, 4), int)
    scores = score_case("a", prediction, reference, LABELS)
    assert summarize([scores], ["liver", "spleen"]).counts["liver"].false_alarm == 1
    summary = summarize([keep_annotated(scores, ("spleen",))], ["liver", "spleen"])
    assert summary.counts["liver"].false_alarm == summary.counts["liver"].both_empty == 0
    assert summary.counts["spleen"].both_empty == 1
    assert summary.mean_foreground_dice is None
