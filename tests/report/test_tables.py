"""What the terminal shows of a plan and of an evaluation."""

from io import StringIO

from rich.console import Console

from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, OverlapScores
from autoseg.report.tables import configuration_rows, evaluation_rows, evaluation_table, plain_text, plan_tables


def show(*tables):
    text = StringIO()
    console = Console(width=160, file=text)
    for table in tables:
        console.print(table)
    return text.getvalue()


def make_scores(dice):
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    return OverlapScores(dice=dice, iou=dice, predicted_voxels=2, reference_voxels=2, **counts)


def test_a_plan_is_shown_with_its_reasons(plan):
    text = " ".join(show(*plan_tables(plan)).split())
    for expected in ("3d_fullres", "8 x 16 x 8", "3 x 0.9 x 0.7", "1.23 million", "2.50 GB", "unet, 2 levels",
                     "7 epochs x 250", "10 min", "1x1x1, 1x2x2", "It <i>fits</i>."):  # fmt: skip
        assert expected in text


def test_a_plan_has_one_cell_per_configuration(plan):
    both = plan.model_copy(update={"configurations": dict.fromkeys(("a", "b"), plan.configurations["3d_fullres"])})
    rows = configuration_rows(both)
    assert len(rows) > 5
    assert all(len(row) == 3 for row in rows)
    assert configuration_rows(plan.model_copy(update={"configurations": {}})) == []


def test_an_evaluation_is_shown_by_label_with_its_mean():
    cases = [CaseScores(case=name, labels={"liver": make_scores(dice)}) for name, dice in (("a", 0.5), ("b", 1.0))]
    evaluation = summarize(cases, ["liver"])
    assert evaluation_rows(evaluation) == [("liver", "0.750", "0.354", "0.750", "2", "0", "0", "0")]
    text = show(evaluation_table(evaluation))
    assert "2 cases" in text
    assert "mean of 1 labels" in text


def test_labels_without_any_score_show_a_dash():
    assert evaluation_rows(summarize([], ["liver"])) == [("liver", "–", "–", "–", "0", "0", "0", "0")]


def test_brackets_in_names_are_no_markup():
    evaluation = summarize([], ["[red]liver"])
    assert "[red]liver" in show(evaluation_table(evaluation))


def test_values_read_as_a_person_would_write_them():
    assert plain_text(True) == "yes"
    assert plain_text(0.1 + 0.2) == "0.3"
    assert plain_text((3, 1.5)) == "3, 1.5"
    assert plain_text(()) == "none"
    assert plain_text(((1, 1), (2, 2))) == "1, 1; 2, 2"
    assert plain_text(None) == "–"
