"""Tables of scores and plans in the terminal: narrow enough, complete, without columns that say nothing."""

import csv
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.paired import NamedEvaluation, compare_evaluations
from autoseg.metrics.summary import summarize
from autoseg.records.evaluation import CaseScores, LabelScores
from autoseg.records.plan import Decision
from autoseg.tables import (
    COMPARISON_COLUMNS,
    comparison_table,
    configuration_rows,
    detail_columns,
    evaluation_columns,
    evaluation_detail_rows,
    evaluation_details_table,
    evaluation_rows,
    evaluation_table,
    plan_explanation,
    plan_table,
    profile_table,
    write_case_table,
)
from tests.report.conftest import make_small_plan


@pytest.fixture
def plan():
    return make_small_plan()


def show(*tables, width=80):
    file = StringIO()
    console = Console(file=file, width=width)
    for table in tables:
        console.print(table)
    return file.getvalue()


def evaluate(shift, tolerance_mm=2.0):
    """A box shifted along x in case a, missed in b, perfect in c."""
    reference = np.zeros((5, 30, 40), dtype=np.uint8)
    reference[1:4, 5:20, 10:20] = 1
    moved = np.roll(reference, shift, axis=2)
    cases = [
        measure_case(case, prediction, reference, {"[b]ar": 1}, (10.0, 2.0, 1.0), tolerance_mm)
        for case, prediction in (("a", moved), ("b", moved * 0), ("c", reference))
    ]
    return summarize(cases, ["[b]ar"])


def test_the_main_columns():
    (row,) = evaluation_rows(evaluate(2))
    assert len(row) == len(evaluation_columns())
    diagonal = np.linalg.norm([50.0, 60.0, 40.0])
    cells = dict(zip(evaluation_columns(), row, strict=True))
    assert cells["label"] == "[b]ar"
    assert cells["Dice"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["HD95 mm"] == f"{(2 + diagonal + 0) / 3:.2f}"
    assert cells["surface Dice"] == f"{2 / 3:.3f}"
    assert cells["volume ml"] == "-3"  # of three cases one misses 450 voxels of 0.02 ml
    assert cells["missed, false alarms, empty"] == "1 / 0 / 0"


def test_the_other_columns():
    (row,) = evaluation_detail_rows(evaluate(2))
    assert len(row) == len(detail_columns())
    cells = dict(zip(detail_columns(), row, strict=True))
    assert cells["precision"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["recall"] == f"{(0.8 + 0 + 1) / 3:.3f}"
    assert cells["RVD"] == "-0.333"
    assert cells["lesion F1"] == f"{2 / 3:.3f}"


@pytest.mark.parametrize(
    ("table", "last"),
    [(evaluation_table, "0"), (evaluation_details_table, "0.556")],  # both empty; panoptic quality (2/3 + 0 + 1) / 3
)
def test_figures_fit_into_eighty_columns(table, last):
    text = show(table(evaluate(2)))
    assert all(len(line) <= 80 for line in text.splitlines())
    line = next(line for line in text.splitlines() if "[b]ar" in line)
    assert "…" not in text
    assert line.split()[-1] == last


def test_columns_without_any_value_are_left_out():
    text = show(evaluation_table(evaluate(2, tolerance_mm=None)))
    assert "HD95" not in text
    assert "surface" not in text
    assert "IoU" in text
    assert "surface Dice at 2 mm" in show(evaluation_table(evaluate(2)), 120)


def test_a_comparison_shows_differences_and_their_test():
    comparison = compare_evaluations(NamedEvaluation("new", evaluate(1)), NamedEvaluation("old", evaluate(5)))
    text = show(comparison_table(comparison))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "new minus old, 3 cases" in text
    assert "+0.1333" in text  # (0.9 - 0.5) / 3
    assert "-1.3333" in text  # HD95, (1 - 5) / 3
    assert all(word in text for name in COMPARISON_COLUMNS for word in name.split())
    dice = next(line.split() for line in text.splitlines() if "Dice" in line and "+0.1333" in line)
    assert dice[-3:] == ["3", "1", "1"]  # cases, of which one differs, p


def make_scores(dice):
    counts = dict.fromkeys(("true_positives", "false_positives", "false_negatives"), 1)
    return LabelScores(dice=dice, iou=dice, predicted_voxels=2, reference_voxels=2, **counts)


def test_an_evaluation_is_shown_by_label_with_its_mean():
    cases = [CaseScores(case=name, labels={"liver": make_scores(dice)}) for name, dice in (("a", 0.5), ("b", 1.0))]
    evaluation = summarize(cases, ["liver"])
    assert evaluation_rows(evaluation) == [
        ("liver", "0.750", "0.500–1.000", "0.750", "–", "–", "–", "–", "2", "0 / 0 / 0")
    ]
    text = show(evaluation_table(evaluation))
    assert "2 cases" in text
    assert "0.500–1.000" in text.splitlines()[-2]  # the mean over labels


def test_labels_without_any_score_show_a_dash():
    assert evaluation_rows(summarize([], ["liver"])) == [("liver", *["–"] * 7, "0", "0 / 0 / 0")]


def test_brackets_in_names_are_no_markup():
    evaluation = summarize([], ["[red]liver"])
    assert "[red]liver" in show(evaluation_table(evaluation))


def test_every_case_and_label_is_a_line(tmp_path):
    reference = np.eye(6, 7, dtype=int)[None] * 2
    cases = [
        measure_case(case, reference * factor, reference, {'with, and "quotes"': 2, "empty": 1}, (3.0, 1.0, 1.0))
        for case, factor in (("a", 1), ("bä", 0))
    ]
    write_case_table(summarize(cases, list(cases[0].labels)), tmp_path / "evaluation.csv")

    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.csv"]
    raw = (tmp_path / "evaluation.csv").read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n") == 5
    with (tmp_path / "evaluation.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["case", "label", *LabelScores.model_fields]
    assert [line[:2] for line in lines] == [
        ["a", 'with, and "quotes"'], ["a", "empty"], ["bä", 'with, and "quotes"'], ["bä", "empty"],
    ]  # fmt: skip
    hit, empty, missed, _ = (dict(zip(header, line, strict=True)) for line in lines)
    assert (hit["dice"], hit["hausdorff_mm"], hit["reference_voxels"]) == ("1.0", "0.0", "6")
    assert (missed["dice"], missed["hausdorff_mm"], missed["recall"]) == ("0.0", "", "0.0")
    assert (empty["dice"], empty["reference_voxels"]) == ("", "0")


def test_names_of_others_are_no_formulas(tmp_path):
    reference = np.eye(6, 7, dtype=int)[None]
    case = measure_case("@SUM(A1)", reference, reference, {"=1+1": 1}, (3.0, 1.0, 1.0))
    write_case_table(summarize([case], ["=1+1"]), tmp_path / "evaluation.csv")
    assert (tmp_path / "evaluation.csv").read_text().splitlines()[1].startswith("'@SUM(A1),'=1+1,1.0,")


def test_a_plan_is_shown(plan):
    text = " ".join(show(plan_table(plan), width=160).split())
    for expected in ("3d_fullres", "8 x 16 x 8", "3 x 0.9 x 0.7", "1.23 million", "2.50 GB", "plain U-Net, 2 levels",
                     "8, 16", "7 epochs x 250", "10 min", "1x1x1, 1x2x2"):  # fmt: skip
        assert expected in text
    assert "It <i>fits</i>." not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"architecture": "residual_unet"}, "residual encoder U-Net, 2 levels"),
        ({"architecture": "unext"}, "UNeXt s, 2 levels"),
        ({"architecture": "unext", "features": (16, 16)}, "UNeXt base, 2 levels"),
        ({"architecture": "unext", "features": (32, 32)}, "UNeXt text, 2 levels"),
        ({"architecture": "unext", "features": (12, 12)}, "UNeXt, 2 levels"),
    ],
)
def test_networks_are_named_in_words(plan, changes, expected):
    assert ("network", expected) in configuration_rows(with_network(plan, changes))


def with_network(plan, changes):
    [(name, configuration)] = plan.configurations.items()
    network = configuration.network.model_copy(update=changes)
    return plan.model_copy(update={"configurations": {name: configuration.model_copy(update={"network": network})}})


def test_an_explanation_has_every_decision_under_its_configuration(plan):
    flat = plan.configurations["3d_fullres"]
    decisions = (
        Decision(what="transpose", value=(0, 1, 2), reason="Reason one."),
        Decision(what="3d_fullres.batch_size", value=3, reason="Reason two."),
        Decision(what="3d_lowres", value=False, reason="Reason three."),
        Decision(what="2d.batch_size", value="[1]", reason="[red]Reason four."),
        Decision(what="elsewhere.odd", value=None, reason="Reason five."),
    )
    both = plan.model_copy(update={"configurations": {"2d": flat, "3d_fullres": flat}, "decisions": decisions})
    assert [line.rstrip() for line in show(*plan_explanation(both), width=160).splitlines()] == [
        "",
        "All configurations",
        "  transpose: 0, 1, 2",
        "      Reason one.",
        "  3d_lowres: no",
        "      Reason three.",
        "  elsewhere.odd: –",
        "      Reason five.",
        "",
        "2d",
        "  batch_size: [1]",
        "      [red]Reason four.",
        "",
        "3d_fullres",
        "  batch_size: 3",
        "      Reason two.",
    ]


def test_long_reasons_are_wrapped_and_indented(plan):
    long = plan.model_copy(update={"decisions": (Decision(what="a", value=1, reason="word " * 30),)})
    lines = show(*plan_explanation(long), width=60).splitlines()
    assert len(lines) == 6
    assert all(line.startswith("      word") and len(line) <= 60 for line in lines[3:])


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", ["about 4.90 GB, context and workspace included"]), ("cpu", None)]
)
def test_a_profile_for_a_gpu_counts_what_its_driver_shows(plan, device, expected):
    planned = plan.model_copy(update={"budget": plan.budget.model_copy(update={"device": device})})
    assert cells(profile_table(planned, {})).get("memory of the GPU") == expected


def test_a_profile_says_how_long_the_planned_steps_take(plan):
    [name] = plan.configurations
    rows = cells(profile_table(plan, {name: 0.5}))
    assert rows["computation per patch"] == ["1e-09 GMAC"]
    assert rows["parameters"] == ["1.23 million"]
    assert rows["training memory"] == ["about 2.50 GB"]
    assert rows["training step"] == ["0.5 s"]
    assert rows["steps per second"] == ["2"]
    # 7 epochs of 250 steps and 50 validation steps, which cost a third: 7 * (250 + 16.67) * 0.5 s
    assert rows["planned steps take"] == ["16 min"]
    assert rows["time per fold"] == ["10 min"]


def test_a_profile_says_what_was_not_measured(plan):
    both = plan.model_copy(update={"configurations": dict.fromkeys("ab", plan.configurations["3d_fullres"])})
    assert "training step" not in cells(profile_table(both, {}))
    rows = cells(profile_table(both, {"a": None, "b": 0.5}))
    assert rows["training step"] == ["memory too small", "0.5 s"]
    assert rows["planned steps take"] == ["–", "16 min"]


@pytest.mark.parametrize(("size", "expected"), [(99_900_000, "about 99.9 MB"), (100_000_000, "about 0.10 GB")])
def test_small_memories_are_in_megabytes(plan, size, expected):
    [(name, configuration)] = plan.configurations.items()
    estimates = configuration.estimates.model_copy(update={"training_memory_bytes": size})
    changed = {name: configuration.model_copy(update={"estimates": estimates})}
    assert ("training memory", expected) in configuration_rows(plan.model_copy(update={"configurations": changed}))


def test_four_configurations_fit_a_narrow_terminal_with_their_names(plan):
    names = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
    many = plan.model_copy(update={"configurations": dict.fromkeys(names, plan.configurations["3d_fullres"])})
    text = show(plan_table(many), width=80)
    assert "3d_fullres" in text
    assert "…" not in text


def cells(table):
    """Cells after the first, by the first, as the table shows them."""
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in show(table, width=160).splitlines()
        if "│" in line
    ]
    return {name: rest for name, *rest in lines}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "not limited"), (45.0, "45 s"), (600.0, "10 min"), (7200.0, "2 h 0 min"), (400_000.0, "4 d 15 h")],
)
def test_durations_are_in_units_that_suit_them(plan, seconds, expected):
    [(name, configuration)] = plan.configurations.items()
    training = configuration.training.model_copy(update={"time_per_fold_seconds": seconds})
    changed = {name: configuration.model_copy(update={"training": training})}
    assert ("time per fold", expected) in configuration_rows(plan.model_copy(update={"configurations": changed}))


def test_a_plan_has_one_cell_per_configuration(plan):
    both = plan.model_copy(update={"configurations": dict.fromkeys(("a", "b"), plan.configurations["3d_fullres"])})
    rows = configuration_rows(both)
    assert len(rows) > 5
    assert all(len(row) == 3 for row in rows)
    assert configuration_rows(plan.model_copy(update={"configurations": {}})) == []


def test_lengths_of_pictures_are_in_pixels(plan):
    pictures = plan.model_copy(update={"file_ending": ".png"})
    assert configuration_rows(plan)[0][0] == "spacing (mm)"
    assert configuration_rows(pictures)[0] == ("spacing (pixels)", *configuration_rows(plan)[0][1:])
