"""The `zoo` planner: a network of MONAI or of segmentation_models_pytorch, by its name.

`--planner-option network=monai:SegResNet` or `network=smp:UnetPlusPlus/resnet34`. The networks are those of
`autoseg.records.zoo`; patch and batch follow from what was counted on the network, as in `planners.external`.

Tested in tests/planners/test_zoo.py.
"""

from collections.abc import Mapping, Sequence

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from autoseg.records.zoo import MONAI, MONAI_NETWORKS, SMP, SMP_DECODERS, declare_of_zoo, describe_names
from planners.candidates import list_candidates
from planners.external import NETWORK, plan_external
from planners.preset import check_options

NAME = "zoo"

LISTED_ENCODER = "resnet34"
"""Encoder with which a list shows the decoders."""


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a network of the zoo for all configurations that it exists for.

    Args:
        fingerprint: Facts about the dataset.
        budget: `external_networks` has what was counted on the network. Planner option: `network`.

    Raises:
        PlanningError: If no network of the zoo is named, and under the conditions of `planners.external.plan`.
    """
    network = "" if budget.like is not None else name_network(budget.overrides.options)
    return plan_external(NAME, network, fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("external",)


def external_networks(budget: Budget) -> tuple[tuple[str, Mapping[str, str]], ...]:
    """Networks that have to be measured before this planner is asked, with their own settings: none.

    Raises:
        PlanningError: If no network of the zoo is named.
    """
    return ((name_network(budget.overrides.options), {}),)


def variants(_networks: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Planner options of the networks that a list shows: each of MONAI, and each decoder with one encoder."""
    names = [f"{MONAI}:{name}" for name in MONAI_NETWORKS] + [f"{SMP}:{name}/{LISTED_ENCODER}" for name in SMP_DECODERS]
    return tuple({NETWORK: name} for name in names)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, (), trial_seconds)


def name_network(options: Mapping[str, str]) -> str:
    """The network that the options name.

    Raises:
        PlanningError: If they name none of the zoo, or there is another option.
    """
    check_options(options, (NETWORK,), NAME)
    if not options.get(NETWORK):
        raise PlanningError(
            f"The planner 'zoo' needs the name of a network: --planner-option network=NAME. It has:{describe_names()}."
        )
    try:
        declare_of_zoo(options[NETWORK])
    except ValueError as error:
        raise PlanningError(f"--planner-option network={options[NETWORK]}: {error}") from error
    return options[NETWORK]
