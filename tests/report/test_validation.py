"""Choice of the cases to look at, and reading of what folds left behind."""

import pytest

from autoseg.errors import RecordError
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.report.validation import choose_cases, read_cross_validations, read_histories


def make_evaluation(*dices):
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    counts |= {"predicted_voxels": 2, "reference_voxels": 2}
    cases = [
        CaseScores(case=str(index), labels={"liver": LabelScores(dice=dice, iou=dice, **counts)})
        for index, dice in enumerate(dices)
    ]
    return summarize(cases, ["liver"])


@pytest.mark.parametrize(
    ("dices", "expected"),
    [
        ((), []),
        ((None,), []),
        ((0.5,), [("worst", "0")]),
        ((0.9, 0.5), [("worst", "1"), ("best", "0")]),
        ((0.9, None, 0.5, 0.7), [("worst", "2"), ("median", "3"), ("best", "0")]),
        (
            (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
            [("worst", "0"), ("second worst", "1"), ("third worst", "2"), ("median", "3"), ("best", "6")],
        ),
    ],
)
def test_worst_median_and_best_are_chosen_once_each(dices, expected):
    assert [(word, case.case) for word, case in choose_cases(make_evaluation(*dices))] == expected


def test_folds_are_merged(trained):
    (one,) = read_cross_validations(trained)
    assert (one.configuration, one.folds) == ("3d_fullres", ("0",))
    assert [case.case for case in one.evaluation.cases] == ["a", "b"]
    assert one.evaluation.missing_predictions == ("c",)
    assert one.folders["b"] == trained.fold("3d_fullres", "0") / "validation"


def test_histories_are_read_by_configuration_and_fold(trained):
    histories = read_histories(trained)
    assert [line.epoch for line in histories["3d_fullres"]["0"]] == [0, 1, 2]


def test_a_damaged_history_names_its_file(trained):
    path = trained.fold("3d_fullres", "0") / "history.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3')
    with pytest.raises(RecordError, match=r"history\.jsonl: not a valid training history"):
        read_histories(trained)
