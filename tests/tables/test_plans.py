"""Tables of plans in the terminal: narrow enough, complete, without columns that say nothing."""

import pytest

from autoseg.records.plan import Decision
from autoseg.tables.plans import configuration_rows, plan_explanation, plan_table, profile_table
from tests.report.conftest import make_small_plan
from tests.tables.shown import show


@pytest.fixture
def plan():
    return make_small_plan()


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
