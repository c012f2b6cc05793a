"""Costs of a whole run, against sums by hand."""

import pytest

from autoseg.costs.runs import relative_cost, run_costs
from autoseg.records.training import GrowingPatch, TrainingSpec
from tests.builders import make_case_fingerprint, make_configuration, make_fingerprint, make_plan


def with_parameters(plan, count):
    configurations = {
        name: one.model_copy(update={"estimates": one.estimates.model_copy(update={"parameters": count})})
        for name, one in plan.configurations.items()
    }
    return plan.model_copy(update={"configurations": configurations})


def test_disk_is_bounded_by_arrays_label_maps_and_weights():
    plan = with_parameters(make_plan({"2d": (1.0, 2.0), "3d_fullres": (2.0, 1.0, 2.0)}, transpose=(1, 0, 2)), 1000)
    case = make_case_fingerprint("a", (4, 6, 10), cropped_shape=(2, 5, 8), spacing=(3.0, 4.0, 0.5))
    costs = run_costs(plan, make_fingerprint([case], plan), ("2d", "3d_fullres"), ("0", "1", "2"))
    channels = len(plan.channel_names) + 1
    flat = 80 * (3.0 * 0.5) / 2.0  # the slices along y stay
    full = 80 * (4.0 * 3.0 * 0.5) / 4.0
    weights = 2 * 3 * 1000 * 4 * 4  # three weights and a momentum of four bytes, for three folds of two networks
    assert plan.configurations["2d"].training.optimizer == "sgd"
    assert costs.disk_bytes == (flat + full) * channels * 4 + 2 * 240 + weights


def test_a_cascade_step_has_no_arrays_of_its_own():
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)})
    shared = make_configuration(preprocessed_as="3d_fullres")
    both = plan.model_copy(update={"configurations": {**plan.configurations, "3d_other": shared}})
    fingerprint = make_fingerprint([make_case_fingerprint("a", (4, 6, 10))], plan)
    costs = run_costs(both, fingerprint, ("3d_other",), ("all",))
    assert costs.disk_bytes == 240
    assert costs.seconds is None
    assert costs.trainings == (("3d_other", "all"),)


def test_a_relative_costs_less_while_patches_grow():
    """A fifth of the steps at a quarter of the cost, a fifth at a half, and three fifths in full: 0.75."""
    growing = (
        GrowingPatch(patch_size=(4, 8), batch_size=4, until=0.2, cost_fraction=0.25),
        GrowingPatch(patch_size=(8, 8), batch_size=2, until=0.4, cost_fraction=0.5),
    )
    training = TrainingSpec(mirror_axes=(), batch_dice=False)
    grown = training.model_copy(update={"growing_patches": growing})
    assert relative_cost(grown, 0.1) == pytest.approx(0.025)
    assert relative_cost(grown, 0.3) == pytest.approx(0.1)
    assert relative_cost(training) == 1.0
    assert relative_cost(grown) == pytest.approx(0.75)
