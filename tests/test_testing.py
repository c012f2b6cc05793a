"""Each promise of a planner, broken once."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

from autoseg.errors import PlanningError
from autoseg.plugins import find_planner
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.testing import planner_violations, synthetic_fingerprint

GOOD = find_planner("unet")
LITTLE = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 7, [(36, 50, 35)] * 7, num_labels=3)
counter = itertools.count()


class Name(str):
    """Equal to nothing."""

    __slots__ = ()
    __hash__ = str.__hash__

    @override
    def __eq__(self, other: object) -> bool:
        return False


def test_our_planner_keeps_all_promises():
    assert planner_violations(GOOD) == []


def altered(change: Callable[[Plan], dict[str, Any]]):
    """The good planner, its plan changed afterwards."""

    def planner(fingerprint: Fingerprint, budget: Budget) -> Plan:
        plan = GOOD(fingerprint, budget)
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


def crash(_fingerprint: Fingerprint, _budget: Budget) -> Plan:
    raise ZeroDivisionError("by zero")


def refuse(_fingerprint: Fingerprint, _budget: Budget) -> Plan:
    raise PlanningError("I do not feel like it")


def agree_to_everything(fingerprint: Fingerprint, _budget: Budget) -> Plan:
    return GOOD(fingerprint, Budget())


def change_the_fingerprint(fingerprint: Fingerprint, budget: Budget) -> Plan:
    fingerprint.labels["extra"] = 99
    return GOOD(fingerprint, budget)


def look_at_the_first_case(fingerprint: Fingerprint, budget: Budget) -> Plan:
    plan = GOOD(fingerprint, budget)
    return plan.model_copy(update={"transpose": (0, 1, 2) if fingerprint.cases[0].case == "case_0000" else (1, 0, 2)})


def no_plan(fingerprint: Fingerprint, budget: Budget) -> Any:
    return GOOD(fingerprint, budget).model_dump()


BAD = {
    "raises ZeroDivisionError (by zero) where only PlanningError is allowed": crash,
    "PlanningError for data that can be planned: I do not feel like it": refuse,
    "gives a plan where a PlanningError is due": agree_to_everything,
    "changes the fingerprint it was given": change_the_fingerprint,
    "gives a dict, not a Plan": no_plan,
    "gives another plan when the cases come in another order": look_at_the_first_case,
    "gives different plans for the same input": altered(lambda _plan: {"planner": f"number {next(counter)}"}),
    "is another one, or none, when it is written as JSON": altered(lambda _plan: {"planner": 3}),
    "small volumes: gives a plan that is another one": altered(lambda plan: {"planner": Name(plan.planner)}),
    "`labels` of the plan is not that of the fingerprint": altered(lambda _plan: {"labels": {"background": 0}}),
    "`budget` of the plan is not the one it was given": altered(lambda _plan: {"budget": Budget(memory_gigabytes=1.0)}),
    "is not an order of three axes": altered(lambda _plan: {"transpose": (0, 1, 1)}),
    "plans nothing, asked for anything": altered(lambda _plan: {"configurations": {}}),
    "asked for 2d": altered(lambda plan: {"configurations": {"3d": plan.configurations["2d"]}}),
    "decisions without a reason": altered(
        lambda plan: {"decisions": (plan.decisions[0].model_copy(update={"reason": " "}),)}
    ),
    "patch (40, 56, 41) is not divisible by the total stride (8, 8, 8)": altered_configurations(
        patch_size=(40, 56, 41)
    ),
    "2d: patch (40, 56, 40) is not divisible by the total stride (8, 8)": altered_configurations(
        patch_size=(40, 56, 40)
    ),
    "batch size 1, below 2": altered_configurations(batch_size=1),
    "other numbers in strides, kernels or convolutions": altered_network(features=(32, 64)),
    "the network has 7 inputs and": altered_network(input_channels=7),
    "0 normalisations for 1 channels": altered_configurations(normalization=()),
    "refers to the configuration 3d_other, which is not planned": altered_configurations(preprocessed_as="3d_other"),
    "does not promise the 600 s per fold": altered(
        lambda plan: {"configurations": GOOD(LITTLE, Budget()).configurations if plan.configurations else {}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", BAD)
def test_bad_planner_is_caught(sentence):
    found = planner_violations(BAD[sentence])
    assert any(sentence in line for line in found), found


def test_sentences_name_the_dataset():
    assert planner_violations(crash)[0].startswith("small volumes: raises ZeroDivisionError")


def test_regions_and_ignore_label_of_synthetic_data():
    fingerprint = synthetic_fingerprint([(1.0, 1.0, 1.0)], [(9, 8, 7)], num_labels=4, regions=True, ignore=True)
    assert fingerprint.labels == {"background": 0, "label1": (1, 2, 3), "label2": (2, 3), "label3": 3, "ignore": 4}
    assert [head.indices for head in fingerprint.encoding.heads] == [(1, 2, 3), (2, 3), (3,)]
    assert fingerprint.encoding.ignore_value == 4
