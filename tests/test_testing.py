"""Each promise of a planner, broken once."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

from autoseg.errors import PlanningError
from autoseg.plugins import find_planner
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NormalizationSpec
from autoseg.records.plan import Plan
from autoseg.testing import planner_violations, synthetic_fingerprint

UNET = find_planner("unet")
plans: dict[tuple[str, str], Plan] = {}
counter = itertools.count()


def good(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plain U-Net's planner; remembers, because every bad planner asks it the same."""
    key = (fingerprint.model_dump_json(), budget.model_dump_json())
    if key not in plans:
        plans[key] = UNET(fingerprint, budget)
    return plans[key]


class Name(str):
    """Equal to nothing."""

    __slots__ = ()
    __hash__ = str.__hash__

    @override
    def __eq__(self, other: object) -> bool:
        return False


def test_our_planner_keeps_all_promises():
    assert planner_violations(UNET) == []


def altered(change: Callable[[Plan], dict[str, Any]]):
    """The good planner, its plan changed afterwards."""

    def planner(fingerprint: Fingerprint, budget: Budget) -> Plan:
        plan = good(fingerprint, budget)
        return plan.model_copy(update=change(plan))

    return planner


def altered_configurations(**update: Any):
    return altered(
        lambda plan: {
            "configurations": {name: value.model_copy(update=update) for name, value in plan.configurations.items()}
        }
    )


def altered_network(**update: Any):
    return altered(
        lambda plan: {
            "configurations": {
                name: value.model_copy(update={"network": value.network.model_copy(update=update)})
                for name, value in plan.configurations.items()
            }
        }
    )


def ignoring(**defaults: Any):
    """The good planner, blind to some fields of the budget."""

    def planner(fingerprint: Fingerprint, budget: Budget) -> Plan:
        plan = good(fingerprint, budget.model_copy(update=defaults))
        return plan.model_copy(update={"budget": budget})

    return planner


def ignoring_override(**defaults: Any):
    """The good planner, blind to one thing that the user decided."""

    def planner(fingerprint: Fingerprint, budget: Budget) -> Plan:
        overrides = budget.overrides.model_copy(update=defaults)
        plan = good(fingerprint, budget.model_copy(update={"overrides": overrides}))
        return plan.model_copy(update={"budget": budget})

    return planner


def crash(_fingerprint: Fingerprint, _budget: Budget) -> Plan:
    raise ZeroDivisionError("by zero")


def refuse(_fingerprint: Fingerprint, _budget: Budget) -> Plan:
    raise PlanningError("I do not feel like it")


def refuse_briefly(fingerprint: Fingerprint, budget: Budget) -> Plan:
    try:
        return good(fingerprint, budget)
    except PlanningError:
        raise PlanningError("no") from None


def agree_to_everything(fingerprint: Fingerprint, _budget: Budget) -> Plan:
    return good(fingerprint, Budget())


def double_the_memory(fingerprint: Fingerprint, budget: Budget) -> Plan:
    memory: Any = budget.memory_gigabytes
    return good(fingerprint, budget.model_copy(update={"memory_gigabytes": memory * 2}))


def divide_by_the_latency_left(fingerprint: Fingerprint, budget: Budget) -> Plan:
    if budget.latency_seconds is not None:
        math.log(budget.latency_seconds - 1.0)
    return good(fingerprint, budget)


def change_the_fingerprint(fingerprint: Fingerprint, budget: Budget) -> Plan:
    fingerprint.labels["extra"] = 99
    return good(fingerprint, budget)


def look_at_the_first_case(fingerprint: Fingerprint, budget: Budget) -> Plan:
    plan = good(fingerprint, budget)
    return plan.model_copy(update={"transpose": (0, 1, 2) if fingerprint.cases[0].case == "case_0000" else (1, 0, 2)})


def no_plan(fingerprint: Fingerprint, budget: Budget) -> Any:
    return good(fingerprint, budget).model_dump()


def build_an_invalid_plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    return Plan.model_validate(good(fingerprint, budget).model_dump() | {"transpose": (0, 1, 1)})


def rename_configurations(fingerprint: Fingerprint, budget: Budget) -> Plan:
    plan = good(fingerprint, budget)
    flat = plan.configurations["2d"].model_copy(update={"preprocessed_as": "flat"})
    return plan.model_copy(update={"configurations": {"flat": flat}})


def start_from_another_normalization(fingerprint: Fingerprint, budget: Budget) -> Plan:
    plan = good(fingerprint, budget)
    if budget.like is None:
        return plan
    other = {"normalization": (NormalizationSpec(scheme="none"),)}
    changed = {name: value.model_copy(update=other) for name, value in plan.configurations.items()}
    return plan.model_copy(update={"configurations": changed})


def plan_more_than_the_model_has(fingerprint: Fingerprint, budget: Budget) -> Plan:
    plan = good(fingerprint, budget)
    if budget.like is None:
        return plan
    flat = plan.configurations["2d"].model_copy(update={"preprocessed_as": "flat"})
    return plan.model_copy(update={"configurations": {**plan.configurations, "flat": flat}})


BAD = {
    "raises ZeroDivisionError (by zero) where only PlanningError is allowed": crash,
    "PlanningError for data that can be planned: I do not feel like it": refuse,
    "no memory: the PlanningError does not name memory: no": refuse_briefly,
    "a configuration that does not exist: the PlanningError does not name 4d: no": refuse_briefly,
    "an option that no planner has: the PlanningError does not name no_such_option: no": refuse_briefly,
    "no memory: gives a plan where a PlanningError is due": agree_to_everything,
    "an option that no planner has: gives a plan where a PlanningError is due": ignoring_override(options={}),
    "small volumes: raises TypeError": double_the_memory,
    "no time to predict: raises ValueError": divide_by_the_latency_left,
    "changes the fingerprint it was given": change_the_fingerprint,
    "gives a dict, not a Plan": no_plan,
    "gives another plan when the cases come in another order": look_at_the_first_case,
    "gives different plans for the same input": altered(lambda _plan: {"planner": f"number {next(counter)}"}),
    "small volumes: gives a plan that is another one when it is written as JSON": altered(
        lambda plan: {"planner": Name(plan.planner)}
    ),
    "`labels` of the plan is not that of the fingerprint": altered(lambda _plan: {"labels": {"background": 0}}),
    "`budget` of the plan is not the one it was given": altered(lambda _plan: {"budget": Budget(memory_gigabytes=1.0)}),
    "small volumes: plans nothing": altered(lambda _plan: {"configurations": {}}),
    "only 2d asked for: ignores -c 2d: not planned, but flat": rename_configurations,
    "decisions without a reason": altered(
        lambda plan: {"decisions": (plan.decisions[0].model_copy(update={"reason": " "}),)}
    ),
    "pictures: 2d: batch size 1, below 2": altered_configurations(batch_size=1),
    "pictures: 2d: patch (512, 512) is larger than the padded median image (256, 320)": altered_configurations(
        patch_size=(512, 512)
    ),
    "ignores --time-per-fold: 2d promises 3600.0 s, expected 600.0 s": ignoring(time_per_fold_seconds=None),
    "a spacing asked for: ignores --spacing: 3d_fullres has (1.0, 1.0, 1.0)": ignoring_override(spacing=None),
    "a spacing asked for: ignores --spacing: 2d has (1.0, 1.0), expected (": ignoring_override(spacing=None),
    "ignores --patch-size: 3d_fullres has (128, 128, 128), expected (40, 75, 61)": ignoring_override(
        patch_size=None
    ),
    "a 3D patch asked for: ignores --patch-size: 3d_fullres has (32, 64, 64), expected (40, 75, 61)": ignoring_override(
        patch_size=(32, 64, 64)
    ),
    "ignores --patch-size: 2d has (256, 320), expected (75, 130)": ignoring_override(patch_size=None),
    "a batch asked for: ignores --batch-size: 3d_fullres has 2, expected 3": ignoring_override(batch_size=None),
    "ignores --batch-size: 3d_fullres has 2, expected 1": ignoring_override(batch_size=None),
    "a model of thick slices: 3d_fullres has other values in network.": ignoring(like=None),
    "transpose, spacing": ignoring(like=None),
    "2d has other values in normalization": start_from_another_normalization,
    "the model has no flat, but 2d, 3d_fullres": plan_more_than_the_model_has,
}  # fmt: skip


@pytest.mark.parametrize("sentence", BAD)
def test_bad_planner_is_caught(sentence):
    found = planner_violations(BAD[sentence])
    assert any(sentence in line for line in found), found


INVALID = {
    "planner: Input should be a valid string": altered(lambda _plan: {"planner": 3}),
    "transpose: (0, 1, 1), expected an order": build_an_invalid_plan,
    "2d: patch_size: (40, 57) is not divisible by the total stride": altered_configurations(patch_size=(40, 57)),
    "3d_fullres: patch_size: (40, 56, 41) is not divisible by the total stride": altered_configurations(
        patch_size=(40, 56, 41)
    ),
    "2d.network: strides: 4 entries, expected 2 because `features` has 2 levels": altered_network(features=(32, 64)),
    "2d.network.input_channels: 7, expected 1": altered_network(input_channels=7),
    "2d.normalization: 0 entries, expected 1": altered_configurations(normalization=()),
    "2d.preprocessed_as: '3d_other', expected a configuration": altered_configurations(preprocessed_as="3d_other"),
    "kernel_sizes.0: (4, 4) has even numbers": altered_network(kernel_sizes=((4, 4), *((3, 3),) * 3)),
    "token_levels: 1, expected 0: only unext": altered_network(token_levels=1),
    "features: begins with (32, 64), expected two equal numbers": altered_network(architecture="unext"),
    "encoder_blocks: 3 entries, expected 4": altered_network(architecture="residual_unet", encoder_blocks=(1, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("fault", INVALID)
def test_invalid_plan_is_named_by_field(fault):
    found = planner_violations(INVALID[fault])
    assert any("gives a plan that is not valid: " in line and fault in line for line in found), found[:9]


def test_networks_must_be_those_that_the_planner_names(monkeypatch):
    monkeypatch.setattr("planners.unet.architectures", lambda _budget: ("unext",))
    found = planner_violations(UNET)
    assert "small volumes: 2d: plans unet, but `architectures` names unext" in found
    assert not any(line.startswith("starting from another model") for line in found)  # which is a plain U-Net


@pytest.mark.parametrize("name", ["auto", "resenc-m", "unext"])
def test_our_other_planners_keep_all_promises(name):
    assert planner_violations(find_planner(name)) == []


def test_sentences_name_the_dataset():
    assert planner_violations(crash)[0].startswith("small volumes: raises ZeroDivisionError")


def test_regions_and_ignore_label_of_synthetic_data():
    fingerprint = synthetic_fingerprint(
        [(1.0, 1.0, 1.0)], [(9, 8, 7)], label_values=range(4), regions=True, ignore=True
    )
    assert fingerprint.labels == {"background": 0, "label1": (1, 2, 3), "label2": (2, 3), "label3": 3, "ignore": 4}
    assert [head.indices for head in fingerprint.encoding.heads] == [(1, 2, 3), (2, 3), (3,)]
    assert fingerprint.encoding.ignore_value == 4


def test_gaps_between_label_values_of_synthetic_data():
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)], [(9, 8, 7)], label_values=range(0, 120, 40), ignore=True)
    assert fingerprint.labels == {"background": 0, "label1": 40, "label2": 80, "ignore": 81}
    assert fingerprint.encoding.values == (0, 40, 80)
    assert [head.indices for head in fingerprint.encoding.heads] == [(0,), (1,), (2,)]
    assert fingerprint.encoding.ignore_value == 81
