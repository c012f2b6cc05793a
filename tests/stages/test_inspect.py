"""What a model says of itself: the same before and after export, without torch."""

import subprocess
import sys

import pytest

from autoseg.errors import PredictionError, RecordError
from autoseg.records.evaluation import EmptyCounts, Evaluation, LabelSummary
from autoseg.records.files import read_record, write_record
from autoseg.records.plan import Decision, Plan, hash_plan
from autoseg.records.selection import KeepLargestComponent, Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.export import ExportOptions, export_model
from autoseg.stages.inspect import inspect_model
from tests.builders import LABELS, write_two_configurations


@pytest.fixture
def model(tmp_path):
    root = write_two_configurations(tmp_path / "model")
    label = next(name for name in LABELS if name != "background")
    selection = Selection(
        configurations=("3d_fullres",),
        folds=("0", "1"),
        postprocessing=(KeepLargestComponent(labels=(label,)),),
        mean_foreground_dice=0.875,
        candidates=(),
        reasons=(),
    )
    write_record(selection, root / "selection.json")
    evaluation = Evaluation(
        mean_foreground_dice=0.875,
        labels={label: LabelSummary(dice=0.875, iou=0.7, dice_std=0.1, num_cases=4)},
        cases=(),
        counts={label: EmptyCounts(both_empty=0, missed=0, false_alarm=0)},
    )
    write_record(evaluation, Workspace(root).evaluation)
    return root


def test_trials_that_decided_the_plan_are_told(model):
    assert inspect_model(model).trials == ""
    path = Workspace(model).plan
    plan = read_record(Plan, path)
    decision = Decision(what="trials", value=(("b", 0.5, 25),), reason="b is better than a.")
    write_record(plan.model_copy(update={"decisions": (decision, *plan.decisions)}), path)
    told = inspect_model(model).trials
    assert "b is better than a." in told
    assert "0.5" in told


def test_a_workspace_tells_what_it_predicts_and_how_well(model):
    info = inspect_model(model)
    plan = read_record(Plan, model / "plan.json")
    assert info.kind == "workspace"
    assert info.channel_names == plan.channel_names
    assert info.labels == plan.labels
    assert info.selected == ("3d_fullres",)
    assert info.postprocessing == ("keep_largest_component",)
    assert info.mean_foreground_dice == 0.875
    assert list(info.label_dice.values()) == [0.875]
    assert {name: found.folds for name, found in info.configurations.items()} == {
        "3d_fullres": ("0", "1"),
        "2d": ("0",),
    }
    assert info.configurations["2d"].spacing == (1.1, 0.9)
    assert info.weights_bytes == sum(path.stat().st_size for path in model.rglob("*.safetensors"))
    assert info.plan_hash == hash_plan(plan)
    assert info.num_cases is None


@pytest.mark.parametrize("name", ["exported.zip", "exported"])
def test_an_exported_model_tells_the_same_with_its_licence(model, tmp_path, name):
    before = inspect_model(model)
    export_model(model, tmp_path / name, ExportOptions(license="CC0"))
    info = inspect_model(tmp_path / name)
    assert (info.kind, info.license, bool(info.created)) == ("exported", "CC0", True)
    same = ("labels", "channel_names", "selected", "postprocessing", "mean_foreground_dice", "label_dice", "plan_hash")
    assert all(getattr(info, field) == getattr(before, field) for field in same)
    assert info.configurations["3d_fullres"].folds == ("0", "1")


def test_a_model_that_nothing_is_known_of(tmp_path):
    root = write_two_configurations(tmp_path / "model")
    info = inspect_model(root)
    assert (info.selected, info.mean_foreground_dice, info.label_dice) == ((), None, {})


def test_what_is_no_model_is_refused(tmp_path, model):
    with pytest.raises(PredictionError, match=r"not a model, it has no plan\.json"):
        inspect_model(tmp_path)
    (model / "plan.json").write_text("{")
    with pytest.raises(RecordError, match=r"plan\.json"):
        inspect_model(model)


def test_torch_is_not_needed(model):
    program = "import sys; sys.modules['torch'] = None; from autoseg.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", program, "info", model], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
