import pytest

from autoseg.records.budget import Budget, Overrides
from autoseg.records.fingerprint import LabelFacts
from autoseg.testing import synthetic_fingerprint
from planners.rules.sampling import choose_case_sampling
from planners.unet import plan

LIMITED = Budget(device="cuda", time_per_fold_seconds=600.0)


def fingerprint_of(*having, cases=20):
    """Cases of which so many have label1, label2 and so on."""
    made = synthetic_fingerprint([(1.0, 1.0, 1.0)] * cases, [(40, 50, 60)] * cases)
    counts = {f"label{number}": count for number, count in enumerate(having, start=1)}
    listed = [
        case.model_copy(
            update={
                "labels": {
                    name: LabelFacts(voxels=30 * (index < count), volume_mm3=30.0, components=1)
                    for name, count in counts.items()
                }
            }
        )
        for index, case in enumerate(made.cases)
    ]
    return made.model_copy(update={"cases": tuple(listed)})


@pytest.mark.parametrize(("having", "rarest"), [((3,), "label1 is in 3 of 20"), ((20, 9, 12), "label2 is in 9 of 20")])
def test_rare_labels_are_balanced_where_time_is_limited(having, rarest):
    decided = choose_case_sampling(fingerprint_of(*having), LIMITED)
    assert decided is not None
    assert decided.value == "balanced"
    assert rarest in decided.reason
    assert choose_case_sampling(fingerprint_of(*having), Budget()) is None


@pytest.mark.parametrize("having", [(20,), (10, 20), (0,), (20, 0), ()])
def test_other_data_is_sampled_as_by_nnunet(having):
    assert choose_case_sampling(fingerprint_of(*having), LIMITED) is None


@pytest.mark.parametrize("asked", ["uniform", "balanced"])
@pytest.mark.parametrize("budget", [Budget(), LIMITED])
def test_what_is_asked_for_is_planned(asked, budget):
    budget = budget.model_copy(update={"overrides": Overrides(case_sampling=asked)})
    made = plan(fingerprint_of(3), budget)
    assert {configuration.training.case_sampling for configuration in made.configurations.values()} == {asked}
    (decision,) = (decision for decision in made.decisions if decision.what == "case_sampling")
    assert (decision.value, decision.reason) == (asked, "Requested.")


def test_a_plan_says_why():
    made = plan(fingerprint_of(3), LIMITED)
    assert made.configurations["3d_fullres"].training.case_sampling == "balanced"
    assert "case_sampling" not in plan(fingerprint_of(20), LIMITED).model_dump_json()
