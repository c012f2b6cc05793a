"""Stage plan finds the planner and holds it to what the user decided; the rest is tested in tests/planners."""

import re
import subprocess
import sys

import pytest

from autoseg.errors import PlanningError, UsageError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.plugins import find_planner
from autoseg.records.budget import AdoptedModel, Budget, Overrides
from autoseg.records.dataset import LabelValues
from autoseg.records.fingerprint import LabelFacts
from autoseg.records.plan import Plan
from autoseg.records.sides import Sides
from autoseg.stages import plan as stage
from autoseg.stages.plan import adopt_model, make_plan
from autoseg.testing import synthetic_fingerprint

FINGERPRINT = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(36, 50, 35)] * 3)
LARGE = synthetic_fingerprint([(1.5, 0.8, 0.8)] * 3, [(400, 512, 500)] * 3, channel_names=("CT",))


def test_default_planner():
    plan = make_plan(FINGERPRINT, Budget(memory_gigabytes=24.0), "unet")
    assert plan.planner == "unet"
    assert plan.budget.memory_gigabytes == 24.0


def test_unknown_planner():
    with pytest.raises(UsageError, match="No planner is called 'resnet'"):
        make_plan(FINGERPRINT, Budget(), "resnet")


def test_planner_that_gives_no_plan(monkeypatch):
    monkeypatch.setattr(stage, "find_planner", lambda _name: lambda _fingerprint, _budget: {"patch": 3})
    with pytest.raises(PlanningError, match="The planner 'mine' returned a dict, not a plan"):
        make_plan(FINGERPRINT, Budget(), "mine")


def test_planner_that_makes_an_invalid_plan(monkeypatch):
    def planner(fingerprint, budget):
        return Plan(**{**find_planner("unet")(fingerprint, budget).model_dump(), "transpose": (0, 0, 1)})

    monkeypatch.setattr(stage, "find_planner", lambda _name: planner)
    with pytest.raises(PlanningError, match=r"(?s)The planner 'mine' returned an invalid plan.*transpose"):
        make_plan(FINGERPRINT, Budget(), "mine")


def test_planner_that_fails(monkeypatch):
    def planner(_fingerprint, _budget):
        raise KeyError("patch")

    monkeypatch.setattr(stage, "find_planner", lambda _name: planner)
    with pytest.raises(
        PlanningError, match="The planner 'mine' failed with KeyError: 'patch'; report this to its maintainers"
    ):
        make_plan(FINGERPRINT, Budget(), "mine")


def test_fields_replaced_without_a_check_are_checked(monkeypatch):
    def planner(fingerprint, budget):
        return find_planner("unet")(fingerprint, budget).model_copy(update={"transpose": (0, 0, 1)})

    monkeypatch.setattr(stage, "find_planner", lambda _name: planner)
    with pytest.raises(PlanningError, match=r"(?s)The planner 'mine' returned an invalid plan.*transpose"):
        make_plan(FINGERPRINT, Budget(), "mine")


def test_planning_does_not_load_torch():
    code = (
        "import sys; from autoseg.testing import synthetic_fingerprint; from autoseg.stages.plan import make_plan;"
        "from autoseg.records.budget import Budget;"
        "make_plan(synthetic_fingerprint([(1.0, 1.0, 1.0)], [(9, 9, 9)]), Budget(), 'unet');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def deaf(monkeypatch):
    """A planner that hears nothing but the device."""
    unet = find_planner("unet")
    monkeypatch.setattr(stage, "find_planner", lambda _name: lambda fingerprint, _budget: unet(fingerprint, Budget()))
    return unet(FINGERPRINT, Budget())


def stretched(plan, **changes) -> AdoptedModel:
    """The plan's own values as a model, with other ones in 3d_fullres (fields of the network as network__field)."""
    model = adopt_model(plan, "old")
    full = model.configurations["3d_fullres"]
    inner = {name.removeprefix("network__"): value for name, value in changes.items() if "__" in name}
    outer = {name: value for name, value in changes.items() if "__" not in name}
    full = full.model_copy(update={**outer, "network": full.network.model_copy(update=inner)})
    return model.model_copy(update={"configurations": {**model.configurations, "3d_fullres": full}})


def message_of(budget) -> str:
    with pytest.raises(
        PlanningError, match=r"^The planner 'deaf' ignores .*\. Take another planner, or leave"
    ) as caught:
        make_plan(FINGERPRINT, budget, "deaf")
    return str(caught.value)


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (Budget(configurations=("2d", "3d_mine")), "ignores -c 3d_mine: not planned, but 2d, 3d_fullres. "),
        (
            Budget(overrides=Overrides(batch_size=7)),
            "ignores --batch-size: 2d has 4, expected 7; --batch-size: 3d_fullres has 2, expected 7. ",
        ),
        (
            Budget(overrides=Overrides(progressive=True)),
            "ignores --progressive: 2d has nothing before its patch (56, 40); --progressive: 3d_fullres has nothing",
        ),
        (
            Budget(overrides=Overrides(patch_size=(40, 56, 48))),
            "ignores --patch-size: 3d_fullres has (40, 56, 40), expected (40, 56, 48). ",
        ),
        (
            Budget(overrides=Overrides(patch_size=(56, 32))),
            "ignores --patch-size: 2d has (56, 40), expected (56, 32). ",
        ),
        (
            Budget(overrides=Overrides(patch_size=(40, 48, 40))),
            "ignores --patch-size: 3d_fullres has (40, 56, 40), expected (40, 48, 40). ",
        ),
        (
            Budget(overrides=Overrides(spacing=(1.0, 1.0, 0.5))),
            "ignores --spacing: 2d has (1.0, 1.0), expected (1.0, 0.5); "
            "--spacing: 3d_fullres has (1.0, 1.0, 1.0), expected (1.0, 1.0, 0.5). ",
        ),
        (
            Budget(overrides=Overrides(spacing=(3.0, 1.0, 1.0))),
            "ignores --spacing: 3d_fullres has (1.0, 1.0, 1.0), expected (3.0, 1.0, 1.0). ",
        ),
        (
            Budget(overrides=Overrides(mirror_axes="x")),
            "ignores --mirror-axes: 2d has (0, 1), expected (1,); --mirror-axes: 3d_fullres has (0, 1, 2), "
            "expected (2,). ",
        ),
    ],
)
def test_a_planner_that_ignores_an_option(deaf, budget, sentence):
    assert sentence in message_of(budget)


@pytest.mark.parametrize("planner", ["unet", "resenc-m", "unext", "auto"])
def test_contrasts_that_are_asked_for_are_planned(planner):
    plan = make_plan(FINGERPRINT, Budget(overrides=Overrides(contrasts="random")), planner)
    assert {configuration.training.contrasts for configuration in plan.configurations.values()} == {"random"}
    usual = make_plan(FINGERPRINT, Budget(), planner)
    assert {configuration.training.contrasts for configuration in usual.configurations.values()} == {"usual"}


@pytest.mark.parametrize("planner", ["unet", "resenc-m", "unext", "pretrained-2d"])
def test_thick_slices_are_planned_by_every_planner(planner, monkeypatch):
    monkeypatch.setattr("autoseg.stages.plan.find_installed_weights", lambda: ("efficientnet-lite0",))
    budget = Budget(configurations=("2d", "2.5d"), overrides=Overrides(neighbor_slices=2))
    plan = make_plan(FINGERPRINT, budget, planner)
    flat, thick = plan.configurations["2d"], plan.configurations["2.5d"]
    assert thick.network.input_channels == 5 * flat.network.input_channels
    assert thick.neighbor_slices == 2
    assert thick.preprocessed_as == "2d"
    again = adopt_model(plan, "model").configurations["2.5d"]
    assert again.neighbor_slices == 2


def test_neighboring_slices_without_thick_slices_are_refused():
    with pytest.raises(PlanningError, match=r"meant for the configuration 2\.5d, which is not planned\. Add -c 2\.5d"):
        make_plan(FINGERPRINT, Budget(overrides=Overrides(neighbor_slices=2)), "unet")


def test_an_image_of_one_slice_has_no_thick_slices():
    flat = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(1, 60, 50)] * 3)
    with pytest.raises(PlanningError, match=r"2\.5d is not available"):
        make_plan(flat, Budget(configurations=("2.5d",)), "unet")


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(spacing=(1.0, 1.0, 1.0), patch_size=(40, 56, 40)),
        Overrides(patch_size=(33, 56, 36)),  # enlarged to the next multiples of 8
        Overrides(patch_size=(50, 35)),
    ],
)
def test_what_is_kept_is_no_fault(deaf, overrides):
    assert make_plan(FINGERPRINT, Budget(overrides=overrides, configurations=("3d_fullres",)), "deaf") == deaf


@pytest.mark.parametrize("planner", ["unet", "resenc-m", "unext", "auto"])
def test_overrides_pass_every_planner_and_follow_the_transpose(planner):
    overrides = Overrides(spacing=(1.2, 2.5, 1.5), patch_size=(30, 41, 50), batch_size=3)
    plan = make_plan(FINGERPRINT, Budget(overrides=overrides), planner)
    assert plan.transpose == (1, 0, 2)
    assert plan.configurations["3d_fullres"].spacing == (2.5, 1.2, 1.5)
    assert plan.configurations["2d"].spacing == (1.2, 1.5)
    assert {configuration.batch_size for configuration in plan.configurations.values()} == {3}


def test_a_low_resolution_keeps_its_own_spacing():
    plan = make_plan(LARGE, Budget(overrides=Overrides(spacing=(1.4, 0.9, 0.9))), "unet")
    assert plan.configurations["3d_lowres"].spacing != (1.4, 0.9, 0.9)
    assert plan.configurations["3d_cascade_fullres"].spacing == (1.4, 0.9, 0.9)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"network__features": (16, 32, 64, 128)}, "network.features"),
        ({"network__strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2))}, "network.strides"),
        ({"network__kernel_sizes": ((1, 3, 3),) * 4}, "network.kernel_sizes"),
        ({"network__encoder_blocks": (1, 3, 4, 6)}, "network.encoder_blocks"),
        ({"network__architecture": "residual_unet"}, "network.architecture"),
        ({"spacing": (2.0, 1.0, 1.0)}, "spacing"),
        ({"normalization": ()}, "normalization"),
        ({"network__features": (1, 2, 3, 4), "spacing": (2.0, 1.0, 1.0)}, "network.features, spacing"),
    ],
)
def test_a_planner_that_ignores_the_model(deaf, changes, field):
    message = message_of(Budget(like=stretched(deaf, **changes)))
    assert f"ignores --like old: 3d_fullres has other values in {field}. " in message


def test_channels_may_differ_from_the_model(deaf):
    model = stretched(deaf, network__input_channels=4, network__output_channels=9, normalization=())
    model = model.model_copy(update={"channel_names": ("T1", "T2", "PD", "FLAIR")})
    assert make_plan(FINGERPRINT, Budget(like=model), "deaf") == deaf


def test_an_asked_spacing_goes_before_the_models(deaf):
    model = stretched(deaf, spacing=(2.0, 1.0, 1.0))
    asked = Overrides(spacing=(1.0, 1.0, 1.0))
    assert make_plan(FINGERPRINT, Budget(like=model, overrides=asked), "deaf") == deaf


def test_a_model_without_any_of_the_configurations(deaf):
    model = adopt_model(deaf, "old")
    model = model.model_copy(update={"configurations": {"3d_lowres": model.configurations["2d"]}})
    assert "--like old: the model has no 2d, 3d_fullres, but 3d_lowres. " in message_of(Budget(like=model))


def test_only_3d_follows_the_axis_order_of_the_model(deaf):
    model = adopt_model(deaf, "old").model_copy(update={"transpose": (1, 0, 2)})
    assert "ignores --like old: 3d_fullres has other values in transpose. " in message_of(Budget(like=model))
    flat = model.model_copy(update={"configurations": {"2d": model.configurations["2d"]}})
    assert "ignores --like old: the model has no 3d_fullres, but 2d. " in message_of(Budget(like=flat))


def test_adopting_a_model():
    plan = make_plan(LARGE, Budget(), "resenc-m")
    model = adopt_model(plan, "models/old")
    assert (model.model, model.planner, model.transpose) == ("models/old", plan.planner, plan.transpose)
    assert model.channel_names == ("CT",)
    assert list(model.configurations) == ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    for name, configuration in plan.configurations.items():
        adopted = model.configurations[name]
        assert all(getattr(adopted, field) == getattr(configuration, field) for field in type(adopted).model_fields)
    assert Budget.model_validate_json(Budget(like=model).model_dump_json()).like == model


@pytest.mark.parametrize("planner", ["unet", "resenc-m", "unext", "auto"])
def test_every_planner_takes_a_model_over(planner):
    model = adopt_model(make_plan(LARGE, Budget(memory_gigabytes=10.0), "resenc-m"), "old")
    other = synthetic_fingerprint(
        [(1.0, 1.0, 1.0)] * 4, [(120, 130, 110)] * 4, channel_names=("CT",), label_values=range(5)
    )
    plan = make_plan(other, Budget(like=model, configurations=("3d_fullres",)), planner)
    assert plan.configurations["3d_fullres"].network.output_channels == 5
    assert plan.configurations["3d_fullres"].spacing == model.configurations["3d_fullres"].spacing


def objects(voxels=4000):
    facts = LabelFacts(voxels=voxels, volume_mm3=float(voxels), components=2)
    cases = tuple(case.model_copy(update={"labels": {"label1": facts}}) for case in FINGERPRINT.cases)
    return FINGERPRINT.model_copy(update={"cases": cases})


@pytest.mark.parametrize("planner", ["unet", "auto", "resenc-m", "unext"])
def test_border_core_is_planned_by_every_planner_and_recorded(planner):
    fingerprint = objects()
    plain = make_plan(fingerprint, Budget(), planner)
    divided = make_plan(fingerprint, Budget(), planner, "border_core")
    assert (plain.target, plain.border_width_mm) == ("labels", None)
    assert (divided.target, divided.border_width_mm) == ("border_core", 1.5)
    target, width, *others = divided.decisions
    assert (target.what, target.value, width.what, width.value) == ("target", "border_core", "border_width_mm", 1.5)
    assert "median object" in width.reason
    assert [decision.what for decision in others] == [decision.what for decision in plain.decisions]
    labels = len(plain.encoding.heads) - 1
    assert [head.name for head in divided.encoding.heads[:3]] == ["background", "label1 core", "label1 border"]
    for name, configuration in divided.configurations.items():
        assert configuration.network.output_channels == 1 + 2 * labels
        same = plain.configurations[name].network.model_copy(update={"output_channels": 1 + 2 * labels})
        assert configuration.network == same
    assert (divided.labels, divided.budget) == (plain.labels, plain.budget)
    assert Plan.model_validate_json(divided.model_dump_json()) == divided


def test_a_cascade_gets_cores_and_borders_of_its_previous_stage():
    large = LARGE.model_copy(update={"cases": tuple(
        case.model_copy(update={"labels": {"label1": LabelFacts(voxels=9, volume_mm3=8e3, components=1)}})
        for case in LARGE.cases
    )})  # fmt: skip
    plan = make_plan(large, Budget(), "unet", "border_core")
    assert plan.configurations["3d_cascade_fullres"].network.input_channels == 1 + 2 * (len(plan.labels) - 1)


def test_regions_and_empty_labels_have_no_borders():
    regions = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 3, [(36, 50, 35)] * 3, label_values=range(3), regions=True)
    with pytest.raises(PlanningError, match="regions, which overlap"):
        make_plan(regions, Budget(), "unet", "border_core")
    with pytest.raises(PlanningError, match="no label has a voxel"):
        make_plan(FINGERPRINT, Budget(), "unet", "border_core")


KIDNEYS: dict[str, LabelValues] = {"background": 0, "liver": 1, "left kidney": 2, "right kidney": 3}
SIDED = FINGERPRINT.model_copy(update={"labels": KIDNEYS, "encoding": make_encoding(KIDNEYS)})


@pytest.mark.parametrize("planner", ["unet", "unext", "auto"])
@pytest.mark.parametrize("budget", [Budget(), Budget(device="cpu", time_per_fold_seconds=7200)])
def test_mirroring_that_is_asked_for_is_planned(planner, budget):
    overrides = Overrides(mirror_axes="x", side_pairs=(("liver", "left kidney"),))
    plan = make_plan(SIDED, budget.model_copy(update={"overrides": overrides}), planner)
    for configuration in plan.configurations.values():
        training, axis = configuration.training, configuration.network.dimensions - 1
        assert training.mirror_axes == (axis,)
        assert training.sides == Sides(axis=axis, pairs=(("liver", "left kidney"),))


@pytest.mark.parametrize(
    ("pairs", "changes", "sentence"),
    [
        (
            (("left kidny", "liver"),),
            {},
            "--side-pairs: the dataset has no label 'left kidny'. Give two of its labels: ",
        ),
        ((("background", "liver"),), {}, "no label 'background'"),
        ((("liver", "liver"),), {}, "'liver' is named more than once"),
        ((("left kidney", "right kidney"),), {"orientation": "as_stored"}, "in images as stored no axis is known"),
    ],
)
def test_pairs_that_cannot_change_places_are_refused(pairs, changes, sentence):
    with pytest.raises(PlanningError, match=re.escape(sentence)):
        make_plan(SIDED.model_copy(update=changes), Budget(overrides=Overrides(side_pairs=pairs)), "unet")


def test_regions_that_hold_one_of_a_pair_are_refused():
    labels: dict[str, LabelValues] = {"background": 0, "abdomen": (1, 2), "left kidney": 2, "right kidney": 3}
    regions = FINGERPRINT.model_copy(update={"labels": labels, "encoding": make_encoding(labels, (1, 2, 3))})
    asked = Budget(overrides=Overrides(side_pairs=(("left kidney", "right kidney"),)))
    with pytest.raises(PlanningError, match=r"--side-pairs left kidney=right kidney: other regions hold one label"):
        make_plan(regions, asked, "unet")


def test_an_axis_that_no_patch_has_is_refused():
    asked = Budget(configurations=("2d",), overrides=Overrides(mirror_axes="zx"))
    with pytest.raises(PlanningError, match="--mirror-axes: patches of 2d have no axis z"):
        make_plan(SIDED, asked, "unet")


def test_a_planner_that_ignores_pairs(deaf):
    asked = Budget(overrides=Overrides(side_pairs=(("left kidney", "liver"),)))
    with pytest.raises(
        PlanningError, match=r"ignores --side-pairs: 2d has \(\('left kidney', 'right kidney'\),\), exp"
    ):
        make_plan(SIDED, asked, "deaf")
