"""Which networks are loaded, and what is said when that fails."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoseg.errors import PredictionError
from autoseg.inference.models.loading import (
    find_weights_of_other_plans,
    load_configuration,
    load_with_previous,
    refuse_other_plans,
    with_first_folds,
)
from autoseg.inference.models.recipes import choose_recipe
from autoseg.records.files import write_record
from autoseg.records.selection import KeepLargestComponent, Selection
from tests.builders import CASCADE, make_cascade_plan, make_dataset, make_plan, write_model

SPACINGS = {"2d": (1.0, 1.0), "3d_fullres": (2.0, 1.0, 1.0), "3d_lowres": (3.0, 2.0, 2.0)}
CPU = torch.device("cpu")


@pytest.fixture
def plan():
    return make_plan(SPACINGS)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (("2d", "3d_lowres", "3d_fullres"), "3d_fullres"),
        (("2d", "3d_lowres"), "3d_lowres"),
        (("2d",), "2d"),
    ],
)
def test_preferred_configuration(tmp_path, plan, trained, expected):
    workspace = write_model(tmp_path, plan, dict.fromkeys(trained, ("0",)))
    assert choose_recipe(workspace, plan, None, None, "final").configurations == (expected,)


def test_selection_is_followed_unless_something_is_asked_for(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"2d": ("0", "1"), "3d_fullres": ("0", "1")})
    step = KeepLargestComponent(labels=("anterior",))
    selection = Selection(
        configurations=("2d", "3d_fullres"), folds=("0", "1"), postprocessing=(step,), mean_foreground_dice=0.9,
        candidates=(), reasons=(),
    )  # fmt: skip
    write_record(selection, workspace.selection)
    recipe = choose_recipe(workspace, plan, None, None, "final")
    assert recipe.configurations == ("2d", "3d_fullres")
    assert recipe.folds == ("0", "1")
    assert recipe.postprocessing == (step,)
    assert choose_recipe(workspace, plan, None, ["1"], "final").folds == ("1",)
    asked = choose_recipe(workspace, plan, "3d_fullres", None, "final")
    assert (asked.configurations, asked.folds, asked.postprocessing) == (("3d_fullres",), (), ())


@pytest.mark.parametrize(
    ("trained", "asked", "expected"),
    [
        (("0", "1", "all"), (), ("0", "1")),
        (("all",), (), ("all",)),
        (("0", "1", "all"), ("all", "0"), ("all", "0")),
    ],
)
def test_folds(tmp_path, plan, trained, asked, expected):
    workspace = write_model(tmp_path, plan, {"2d": trained})
    loaded = load_configuration(workspace, plan, "2d", asked, "final", CPU)
    assert loaded.folds == expected
    assert len(loaded.networks) == len(expected)


def test_weights_are_the_files_own(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"3d_fullres": ("0", "1")})
    loaded = load_configuration(workspace, plan, "3d_fullres", (), "final", CPU)
    for fold, network in zip(("0", "1"), loaded.networks, strict=True):
        stored = load_file(workspace.fold("3d_fullres", fold) / "checkpoint_final.safetensors")
        assert not network.training
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, stored[name])


def test_best_checkpoint(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"2d": ("3",)}, checkpoint="best")
    assert workspace.trained_folds("2d", "best") == ("3",)
    assert workspace.trained_folds("2d") == ()
    assert load_configuration(workspace, plan, "2d", (), "best", CPU).folds == ("3",)


def test_what_is_not_there(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"2d": ("0",)})
    with pytest.raises(PredictionError, match="no configuration '3d'; it has 2d, 3d_fullres, 3d_lowres"):
        choose_recipe(workspace, plan, "3d", None, "final")
    with pytest.raises(PredictionError, match="no configuration has a checkpoint_best"):
        choose_recipe(workspace, plan, None, None, "best")
    with pytest.raises(PredictionError, match=r"no checkpoint_final for fold\(s\) 4; trained folds: 0"):
        load_configuration(workspace, plan, "2d", ("0", "4"), "final", CPU)
    with pytest.raises(PredictionError, match=r"for fold\(s\) any; trained folds: none"):
        load_configuration(workspace, plan, "3d_lowres", (), "final", CPU)


@pytest.fixture
def cascade():
    return make_cascade_plan((3.0, 2.0, 2.0), (2.0, 1.0, 1.0))


def test_a_cascade_comes_first_when_both_stages_are_trained(tmp_path, cascade):
    workspace = write_model(tmp_path, cascade, {"3d_fullres": ("0",), CASCADE: ("0",)})
    assert choose_recipe(workspace, cascade, None, None, "final").configurations == ("3d_fullres",)
    write_model(tmp_path, cascade, {"3d_lowres": ("1",)})
    assert choose_recipe(workspace, cascade, None, None, "final").configurations == (CASCADE,)


@pytest.mark.parametrize(
    ("low", "asked", "expected"),
    [
        (("0", "1", "2"), (), ("0", "1")),
        (("0", "1", "2"), ("1",), ("1",)),
        (("2", "3", "all"), (), ("2", "3")),
        (("0", "all"), ("all",), ("all",)),
    ],
)
def test_the_previous_stage_has_the_same_folds_or_all(tmp_path, cascade, low, asked, expected):
    workspace = write_model(tmp_path, cascade, {"3d_lowres": low, CASCADE: ("0", "1", "all")})
    loaded = load_with_previous(workspace, cascade, CASCADE, asked, "final", CPU)
    assert loaded.name == CASCADE
    assert loaded.previous is not None
    assert (loaded.previous.name, loaded.previous.folds) == ("3d_lowres", expected)
    assert loaded.previous.previous is None
    assert load_configuration(workspace, cascade, CASCADE, asked, "final", CPU).previous is None


def test_a_cascade_without_its_previous_stage_says_what_to_train(tmp_path, cascade):
    workspace = write_model(tmp_path, cascade, {CASCADE: ("0",)})
    message = r"3d_lowres as input, which has no trained fold .checkpoint_final.*autoseg-train .* -c 3d_lowres -f FOLD"
    with pytest.raises(PredictionError, match=message):
        load_with_previous(workspace, cascade, CASCADE, (), "final", CPU)


def test_mirroring_is_what_every_fold_was_trained_with(tmp_path, plan, caplog):
    workspace = write_model(tmp_path, plan, {"3d_fullres": ("0",)}, mirror_axes=(2, 0))
    assert load_configuration(workspace, plan, "3d_fullres", (), "final", CPU).mirror_axes == (0, 2)
    write_model(tmp_path, plan, {"3d_fullres": ("1",)}, mirror_axes=(1, 2))
    caplog.set_level(logging.INFO, "autoseg.predict")
    assert load_configuration(workspace, plan, "3d_fullres", ("1",), "final", CPU).mirror_axes == (1, 2)
    assert not caplog.messages
    assert load_configuration(workspace, plan, "3d_fullres", (), "final", CPU).mirror_axes == (2,)
    (said,) = caplog.messages
    assert said == "the folds of 3d_fullres were not all mirrored alike in training; mirroring at prediction: axes 2"
    write_model(tmp_path, plan, {"3d_fullres": ("2",)}, mirror_axes=())
    assert load_configuration(workspace, plan, "3d_fullres", (), "final", CPU).mirror_axes == ()
    assert caplog.messages[-1].endswith("mirroring at prediction: none")


def test_damaged_and_foreign_weights(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"2d": ("0",), "3d_fullres": ("0",)})
    path = workspace.fold("2d", "0") / "checkpoint_final.safetensors"
    path.write_bytes((workspace.fold("3d_fullres", "0") / "checkpoint_final.safetensors").read_bytes())
    with pytest.raises(PredictionError, match=r"fold_0/checkpoint_final.safetensors: the weights do not fit"):
        load_configuration(workspace, plan, "2d", (), "final", CPU)
    for content in (path.read_bytes()[:-1000], path.read_bytes()[:1000], b""):
        path.write_bytes(content)
        with pytest.raises(PredictionError, match=r"the weights cannot be read .*Copy or download the model again"):
            load_configuration(workspace, plan, "2d", (), "final", CPU)
    write_record(make_dataset(("a",), plan), workspace.dataset)  # only where there are cases, training is advised
    with pytest.raises(PredictionError, match=r"the weights cannot be read .* -c 2d -f 0 --restart$"):
        load_configuration(workspace, plan, "2d", (), "final", CPU)


@pytest.fixture
def changed_plan(cascade):
    """Another spacing of both configurations, in networks of the same shape."""
    return make_cascade_plan((3.5, 2.0, 2.0), (2.5, 1.0, 1.0))


def test_weights_of_another_plan_are_named_with_what_to_do(tmp_path, cascade, changed_plan):
    workspace = write_model(tmp_path, cascade, {"3d_lowres": ("0",), CASCADE: ("0",)})
    write_model(tmp_path, changed_plan, {"3d_lowres": ("1",), CASCADE: ("1",)})
    refuse_other_plans(workspace, [load_with_previous(workspace, changed_plan, CASCADE, ("1",), "final", CPU)])
    loaded = load_with_previous(workspace, changed_plan, CASCADE, (), "final", CPU)
    assert find_weights_of_other_plans([loaded]) == [(CASCADE, "0"), ("3d_lowres", "0")]
    message = rf"{CASCADE}/fold_0: this fold was trained for another plan.*Copy or download"
    with pytest.raises(PredictionError, match=message):
        refuse_other_plans(workspace, [loaded])


def test_weights_of_another_plan_in_an_earlier_cascade_step(tmp_path, cascade, changed_plan):
    workspace = write_model(tmp_path, cascade, {"3d_lowres": ("0", "1")})
    write_model(tmp_path, changed_plan, {CASCADE: ("0", "1")})
    loaded = load_with_previous(workspace, changed_plan, CASCADE, (), "final", CPU)
    assert find_weights_of_other_plans([loaded]) == [("3d_lowres", "0"), ("3d_lowres", "1")]
    assert find_weights_of_other_plans([with_first_folds(loaded, 1)]) == [("3d_lowres", "0")]
    with pytest.raises(PredictionError, match=r"3d_lowres/fold_0: this fold was trained for"):
        refuse_other_plans(workspace, [loaded])


def test_weights_of_a_network_of_another_shape(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"2d": ("0",)})
    changed = make_plan(SPACINGS, channel_names=("a", "b"))
    with pytest.raises(PredictionError, match=r"checkpoint_final.safetensors: .* was trained for another plan"):
        load_configuration(workspace, changed, "2d", (), "final", CPU)


@pytest.mark.parametrize("other", ["fold", "plan"])
def test_weights_of_another_fold_or_plan_are_noticed_without_their_json(tmp_path, plan, other):
    """The networks have the same shape; only the record inside the file tells."""
    workspace = write_model(tmp_path / "w", plan, {"3d_fullres": ("0", "1")})
    source = workspace.fold("3d_fullres", "1")
    if other == "plan":
        source = write_model(tmp_path / "ct", make_plan(SPACINGS, normalization="ct"), {"3d_fullres": ("0",)}).fold(
            "3d_fullres", "0"
        )
    path = workspace.fold("3d_fullres", "0") / "checkpoint_final.safetensors"
    path.write_bytes((source / path.name).read_bytes())
    with pytest.raises(PredictionError, match=r"fold_0/checkpoint_final.safetensors: the weights do not fit"):
        load_configuration(workspace, plan, "3d_fullres", ("0",), "final", CPU)
    load_configuration(workspace, plan, "3d_fullres", ("1",), "final", CPU)


def test_both_files_of_another_fold_are_noticed(tmp_path, plan):
    workspace = write_model(tmp_path, plan, {"2d": ("0", "1")})
    for ending in (".json", ".safetensors"):
        name = f"checkpoint_final{ending}"
        (workspace.fold("2d", "0") / name).write_bytes((workspace.fold("2d", "1") / name).read_bytes())
    with pytest.raises(PredictionError, match=r"is the record of 2d, fold 1, expected 2d, fold 0"):
        load_configuration(workspace, plan, "2d", ("0",), "final", CPU)


def test_weights_without_a_record_inside_are_taken_as_their_json_says(tmp_path, plan):
    """As imported weights are."""
    workspace = write_model(tmp_path, plan, {"2d": ("0",)})
    path = workspace.fold("2d", "0") / "checkpoint_final.safetensors"
    save_file(load_file(path), path)
    assert load_configuration(workspace, plan, "2d", (), "final", CPU).folds == ("0",)
