"""Planners of U-Nets that papers have named: each is the planner `unet` with parts of its own.

The names, their parts and papers are in `planners.parts.NAMED_PARTS`; each is an entry point of the group
`autoseg.planners`.

Tested in tests/planners/test_parts.py.
"""

from dataclasses import dataclass

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.heads import HEAD_OPTIONS
from planners.parts import NAMED_PARTS, PART_NAMES, PLAIN_PARTS, Parts, read_parts
from planners.preset import check_options
from planners.unet import WIDTHS, make_preset_of_parts


@dataclass(frozen=True)
class NamedPlanner:
    """A planner of a U-Net that a paper has named; it is called as a planner's function is."""

    name: str
    """A key of NAMED_PARTS."""

    def __call__(self, fingerprint: Fingerprint, budget: Budget) -> Plan:
        """The plan; options choose the parts that the name says nothing about.

        Raises:
            PlanningError: If an option takes away what the name stands for, and under the conditions of
                `planners.unet.plan`.
        """
        options = budget.overrides.options
        check_options(options, ("base_features", *PART_NAMES, *HEAD_OPTIONS), self.name)
        parts = read_parts(options, NAMED_PARTS[self.name])
        self._refuse_other(parts)
        return compose(make_preset_of_parts(self.name, parts, options), fingerprint, budget)

    def _refuse_other(self, parts: Parts) -> None:
        own = NAMED_PARTS[self.name]
        for part in PART_NAMES:
            found, promised, plain = (getattr(each, part) for each in (parts, own, PLAIN_PARTS))
            if promised not in (plain, found):
                raise PlanningError(
                    f"--planner-option {part}={found}: the planner '{self.name}' is the U-Net with {part}={promised}. "
                    "Leave this option out, or take --planner unet."
                )


plan_vnet = NamedPlanner("vnet")
plan_r2unet = NamedPlanner("r2unet")
plan_multiresunet = NamedPlanner("multiresunet")
plan_nested = NamedPlanner("unet++")
plan_attention = NamedPlanner("attention-unet")
plan_squeeze = NamedPlanner("se-unet")
plan_nonlocal = NamedPlanner("nonlocal-unet")
plan_deeplab = NamedPlanner("deeplab-unet")
plan_erfnet = NamedPlanner("erfnet")


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("unet",)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, WIDTHS, trial_seconds)
