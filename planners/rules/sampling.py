"""Which cases the patches with foreground come from.

nnU-Net draws a case first, each equally likely, and then a place in it. Where most cases are empty, most of the patches
that should show foreground show none: with 3 of 20 cases, 0.05 of all patches instead of 0.33, in a batch of many. In a
training of limited time that is too few steps with foreground.

References:
    Own rule. nnU-Net v2 (Isensee et al., Nature Methods 2021) draws cases uniformly, and so does the full schedule.
"""

from autoseg.records.budget import Budget, CaseSampling
from autoseg.records.fingerprint import Fingerprint
from planners.rules import Decided
from planners.rules.schedule import is_limited

RARE_FRACTION = 0.5
"""A label that fewer cases have than this fraction of them is rare."""


def choose_case_sampling(fingerprint: Fingerprint, budget: Budget) -> Decided[CaseSampling] | None:
    """How the cases of patches with foreground are drawn.

    Args:
        fingerprint: Labels of each case.
        budget: What the user asked for; and whether time is limited.

    Returns:
        None where there is nothing to decide: nnU-Net's uniform sampling.
    """
    asked = budget.overrides.case_sampling
    if asked is not None:
        return Decided(asked, "Requested.")
    if not is_limited(budget):
        return None
    cases = fingerprint.cases
    found = {
        name: sum(name in case.labels and case.labels[name].voxels > 0 for case in cases)
        for name in {name for case in cases for name in case.labels}
    }
    looked_for = {name: sum(name in case.labels for case in cases) for name in found}
    present = {name: count / looked_for[name] for name, count in sorted(found.items()) if count}
    if not present or min(present.values()) >= RARE_FRACTION:
        return None
    rarest = min(present, key=lambda name: present[name])
    return Decided(
        "balanced",
        f"{rarest} is in {found[rarest]} of {looked_for[rarest]} cases: in patches with foreground, labels are equally "
        "likely, however many cases have them. --case-sampling overrides.",
    )
