"""Results: which columns there are, what a cell says, how cases are ordered, what is compared with what."""

import pytest

from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, Evaluation, LabelScores, MetricSummary
from autoseg.records.files import read_record
from autoseg.records.selection import Selection
from autoseg.report.page.results_section import render_results, tabulate_cases, tabulate_labels
from autoseg.report.page.validation import read_pooled_folds


def make_scores(dice, **metrics):
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    return LabelScores(dice=dice, iou=dice, predicted_voxels=2, reference_voxels=2, **counts, **metrics)


def make_evaluation(**metrics):
    dices = {"a": (0.9, 0.8), "b": (None, None), "c": (0.5, 0.7)}
    cases = [
        CaseScores(
            case=case, labels={name: make_scores(dice, **metrics) for name, dice in zip("xy", pair, strict=True)}
        )
        for case, pair in dices.items()
    ]
    return summarize(cases, ["x", "y"])


def without_metrics(evaluation):
    labels = {name: one.model_copy(update={"metrics": {}}) for name, one in evaluation.labels.items()}
    return evaluation.model_copy(update={"labels": labels, "mean_foreground_dice_interval": None})


def texts(row):
    return [cell.text for cell in row]


def test_an_old_evaluation_has_dice_and_iou_only():
    table = tabulate_labels(without_metrics(make_evaluation()))
    assert table.columns == ("label", "Dice", "IoU", "cases", "missed", "false alarms", "both empty")
    assert texts(table.rows[0]) == ["x", "0.700", "0.700", "2", "0", "0", "0"]
    assert table.rows[0][1].detail == "± 0.283"
    assert texts(table.footer)[:2] == ["mean of labels", "0.725"]


def test_metrics_come_with_their_interval_and_with_misses():
    evaluation = without_metrics(make_evaluation())
    metrics = {
        "dice": MetricSummary(mean=0.7, interval=(0.65, 0.75), num_cases=2),
        "hausdorff_95_mm": MetricSummary(mean=12.345, num_cases=2, mean_with_misses=99.9),
    }
    labels = dict(evaluation.labels)
    labels["x"] = labels["x"].model_copy(update={"metrics": metrics})
    table = tabulate_labels(evaluation.model_copy(update={"labels": labels}))
    assert table.columns[:4] == ("label", "Dice", "IoU", "HD95 (mm)")
    assert [(cell.text, cell.detail) for cell in table.rows[0][1:4]] == [
        ("0.700", "0.650 to 0.750"),
        ("0.700", ""),
        ("12.3", "99.9 with misses"),
    ]
    assert table.rows[1][3].text == "–"


def test_distances_of_pictures_are_in_pixels():
    assert tabulate_cases(make_evaluation(hausdorff_95_mm=3.0), "pixels").columns[-1] == "y, HD95 (pixels)"


def test_cases_are_ordered_from_the_worst_and_carry_what_they_are_sorted_by():
    table = tabulate_cases(make_evaluation(hausdorff_95_mm=3.0))
    assert table.columns == ("case", "mean Dice", "x, Dice", "y, Dice", "x, HD95 (mm)", "y, HD95 (mm)")
    assert [texts(row)[0] for row in table.rows] == ["c", "a", "b"]
    assert [row[1].order for row in table.rows] == [pytest.approx(0.6), pytest.approx(0.85), None]


def test_many_labels_leave_only_the_mean():
    names = [f"label {number}" for number in range(20)]
    case = CaseScores(case="a", labels={name: make_scores(0.5) for name in names})
    assert tabulate_cases(summarize([case], names)).columns == ("case", "mean Dice")


def test_post_processing_is_compared_label_by_label(selected):
    (validation,) = read_pooled_folds(selected)
    selection = read_record(Selection, selected.selection)
    before = validation.evaluation
    better = {name: scores.model_copy(update={"dice": 1.0}) for name, scores in before.cases[1].labels.items()}
    cases = [before.cases[0], before.cases[1].model_copy(update={"labels": better})]
    after = summarize(cases, list(before.labels))
    section = render_results(selection, after, [validation]).striptags()
    old, new = before.labels["<b>liver</b>"].dice, after.labels["<b>liver</b>"].dice
    assert old is not None
    assert new is not None
    before_and_after = section[section.index("Before and after post-processing") :]
    assert "<b>liver</b>" + f"{old:.4f}{new:.4f}{new - old:+.4f}" in before_and_after
    assert before_and_after.index("mean of labels") < before_and_after.index("Selected:")
    fewer: Evaluation = summarize(cases[:1], list(before.labels))
    assert "Before and after" not in render_results(selection, fewer, [validation])


def test_ensembles_among_the_candidates_are_compared(selected):
    selection = read_record(Selection, selected.selection)
    pair = selection.candidates[0].model_copy(update={"configurations": ("2d", "3d_fullres"), "interval": (0.8, 0.95)})
    both = selection.model_copy(update={"candidates": (*selection.candidates, pair)})
    section = render_results(both, None, read_pooled_folds(selected))
    assert "2d + 3d_fullres 0.900 (95 % interval 0.800 to 0.950)" in section[: section.index("</figure>")]
