"""Plans whose networks find objects one by one."""

import numpy as np
import pytest

from autoseg.errors import PlanningError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.budget import Budget, Overrides
from autoseg.records.fingerprint import LabelFacts
from autoseg.records.plan import Plan
from autoseg.stages.plan import adopt_model, make_plan
from autoseg.testing import synthetic_fingerprint
from planners.rules.speed import step_seconds

SMALL = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 3, [(12, 80, 96)] * 3)


def test_every_configuration_gets_a_pyramid_and_keeps_the_rest_of_its_plan():
    plan = make_plan(SMALL, Budget(), "unet", "mask_rcnn")
    labels = make_plan(SMALL, Budget(), "unet")
    assert plan.target == "mask_rcnn"
    assert plan.decisions[0].what == "target"
    for name, configuration in plan.configurations.items():
        network = configuration.network
        detection = network.detection
        assert detection is not None
        assert detection.num_labels == network.output_channels - 1
        assert configuration.patch_size == labels.configurations[name].patch_size
        assert network.strides == labels.configurations[name].network.strides
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_anchors_are_wide_where_the_levels_strides_are():
    network = make_plan(SMALL, Budget(), "unet", "mask_rcnn").configurations["3d_fullres"].network
    assert network.detection is not None
    assert network.strides[1][0] < network.strides[1][1]
    first = network.detection.anchors[0][0]
    assert first == (4.0, 8.0, 8.0)


def test_cascades_are_left_out():
    large = synthetic_fingerprint([(1.5, 0.8, 0.8)] * 3, [(400, 512, 500)] * 3)
    assert "3d_cascade_fullres" in make_plan(large, Budget(), "unet").configurations
    assert "3d_cascade_fullres" not in make_plan(large, Budget(), "unet", "mask_rcnn").configurations


def test_encoders_without_a_pyramid_are_refused():
    with pytest.raises(PlanningError, match="needs the encoder of unet or residual_unet, but the planner 'unext'"):
        make_plan(SMALL, Budget(), "unext", "mask_rcnn")


def test_a_point_head_is_refused():
    budget = Budget(overrides=Overrides(options={"head": "points"}))
    with pytest.raises(PlanningError, match=r"has heads of its own\. Leave --planner-option head=points out"):
        make_plan(SMALL, budget, "unet", "mask_rcnn")


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ({"background": 0, "whole": (1, 2), "core": 2}, "has regions, which overlap"),
        ({"background": 0, "cell": 1, "ignore": 2}, "has an ignore label"),
    ],
)
def test_labels_that_have_no_objects_are_refused(labels, what):
    order = (1, 2) if "whole" in labels else None
    fingerprint = SMALL.model_copy(update={"encoding": make_encoding(labels, order)})
    with pytest.raises(PlanningError, match=what):
        make_plan(fingerprint, Budget(), "unet", "mask_rcnn")


def test_cases_that_were_searched_for_some_labels_are_refused():
    facts = LabelFacts(voxels=9, volume_mm3=9.0, components=1)
    looked_for = ({"cell": facts, "spot": facts}, {"spot": facts}, {"cell": facts})
    cases = [case.model_copy(update={"labels": labels}) for case, labels in zip(SMALL.cases, looked_for, strict=True)]
    partial = SMALL.model_copy(update={"cases": tuple(cases)})
    with pytest.raises(PlanningError, match=r"2 of 3 cases .* \(`annotated`; case_0001 not for cell\)\. Plan without"):
        make_plan(partial, Budget(), "unet", "mask_rcnn")


def test_anchors_are_planned_from_the_sizes_in_the_fingerprint():
    facts = LabelFacts(voxels=900, volume_mm3=900.0, components=9, instance_sizes=((3, 20, 9),) * 4)
    cases = tuple(case.model_copy(update={"labels": {"label1": facts}}) for case in SMALL.cases)
    plan = make_plan(SMALL.model_copy(update={"cases": cases}), Budget(), "unet", "mask_rcnn")
    decisions = {decision.what: decision for decision in plan.decisions}
    for name, size in (("2d", (20, 9)), ("3d_fullres", (3, 20, 9))):
        detection = plan.configurations[name].network.detection
        assert detection is not None
        assert decisions[f"{name}.anchors"].value == detection.anchors[0]
        assert decisions[f"{name}.anchors"].reason.startswith("12 measured objects")
        ratios = np.array(detection.anchors[0]) / size
        assert np.abs(ratios - 1).max(axis=1).min() < 0.15
    unmeasured = {decision.what: decision for decision in make_plan(SMALL, Budget(), "unet", "mask_rcnn").decisions}
    assert "the sizes of 0 objects" in unmeasured["2d.anchors"].reason


def test_a_model_that_is_adopted_brings_its_anchors():
    model = make_plan(SMALL, Budget(), "unet", "mask_rcnn")
    network = model.configurations["2d"].network
    assert network.detection is not None
    other = ((7.0, 9.0),) * len(network.detection.anchors[0])
    detection = network.detection.model_copy(update={"anchors": (other,) * len(network.detection.levels)})
    edited = model.configurations["2d"].model_copy(
        update={"network": network.model_copy(update={"detection": detection})}
    )
    like = adopt_model(model.model_copy(update={"configurations": {"2d": edited}}), "cells.zip")
    plan = make_plan(SMALL, Budget(like=like, configurations=("2d",)), "unet", "mask_rcnn")
    assert plan.configurations["2d"].network == edited.network
    with pytest.raises(PlanningError, match=r"--like cells\.zip: its networks find objects one by one"):
        make_plan(SMALL, Budget(like=like, configurations=("2d",)), "unet")


@pytest.mark.parametrize(("shape", "name"), [((1, 128, 144), "2d"), ((24, 64, 56), "3d_fullres")])
def test_planned_steps_fit_the_time_with_the_heads(shape, name):
    """Boxes and masks of the regions cost a narrow network more than its encoder."""
    fingerprint = synthetic_fingerprint([(2.0, 1.0, 1.0)] * 20, [shape] * 20)
    budget = Budget(device="cpu", time_per_fold_seconds=600.0)
    objects = make_plan(fingerprint, budget, "auto", "mask_rcnn").configurations[name]
    steps = (objects.training.epochs or 0) * objects.training.steps_per_epoch
    assert steps * step_seconds(budget, objects.network, objects.patch_size, objects.batch_size) <= 480.0


def test_batches_fit_the_memory_with_the_heads():
    """Patches that are so small that each has as many regions as large ones."""
    fingerprint = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 3000, [(1, 160, 160)] * 3000)
    budget = Budget(device="cuda", memory_gigabytes=8.0)
    labels, objects = (make_plan(fingerprint, budget, "unet", target) for target in ("labels", "mask_rcnn"))
    assert objects.configurations["2d"].batch_size < labels.configurations["2d"].batch_size
    needed = objects.configurations["2d"].estimates.training_memory_bytes
    assert needed is not None
    assert needed <= 8e9


def test_patches_are_halved_only_as_long_as_that_saves_time():
    """The heads cost the same in small patches, which cut more objects."""
    budget = Budget(device="cpu", time_per_fold_seconds=300.0)
    patches = {}
    for edge in (48, 192):
        fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 20, [(edge, edge, edge)] * 20)
        patches[edge] = make_plan(fingerprint, budget, "unet", "mask_rcnn").configurations["3d_fullres"].patch_size
    assert max(patches[192]) <= 96
    assert min(patches[48]) >= 24


def test_cascades_that_are_asked_for_are_refused():
    large = synthetic_fingerprint([(1.5, 0.8, 0.8)] * 3, [(400, 512, 500)] * 3)
    budget = Budget(configurations=("3d_lowres", "3d_cascade_fullres"))
    with pytest.raises(PlanningError, match="-c 3d_cascade_fullres takes the label map of another configuration"):
        make_plan(large, budget, "unet", "mask_rcnn")
