"""Stage plan: from fingerprint and budget to the plan, and from case ids to the cross-validation.

Writes nothing; the pipeline writes plan.json and splits.json.
"""

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from autoseg.errors import PlanningError, UsageError
from autoseg.plugins import find_planner
from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan, Split, Splits

SPLIT_SEED = 12345
"""nnU-Net's, so that the same ids give the same folds."""

PERSON = re.compile(
    r"^(?P<group>(?:.*[-_])?(?:(?:patient|subject|subj|sub|pat)[-_]?[A-Za-z]*\d[A-Za-z0-9]*|sub-[A-Za-z0-9]+))[-_].+$",
    re.IGNORECASE,
)
"""An id that begins with a person: patient001_frame01, sub-03_ses-2. The token has a digit, or is BIDS's `sub-`."""


def make_plan(fingerprint: Fingerprint, budget: Budget, planner: str = "unet") -> Plan:
    """Decide how to train.

    Args:
        fingerprint: Facts about the dataset.
        budget: Device, memory, time, configurations.
        planner: Name of an installed planner.

    Returns:
        The plan. Equal input gives an equal plan.

    Raises:
        UsageError: If no such planner is installed, or several are.
        PlanningError: If nothing fits data and budget, or the planner does not give a plan.
    """
    plan = find_planner(planner)(fingerprint, budget)
    if not isinstance(plan, Plan):
        raise PlanningError(
            f"The planner '{planner}' gave a {type(plan).__name__}, not a plan; ask the makers of its package."
        )
    return plan


def make_splits(fingerprint: Fingerprint, *, folds: int = 5, group_by: str | None = None) -> Splits:
    """Divide the cases into folds, whole groups at a time.

    Without groups the folds are nnU-Net's: sorted ids, shuffled with a fixed seed, cut into parts of nearly equal
    size, the larger ones first.

    Args:
        fingerprint: For its case ids.
        folds: Number of folds; fewer when there are fewer groups.
        group_by: Regular expression searched in each case id; its first group, or the whole match, names the case's
            group. None: ids that name persons (patient001_frame01) are grouped by person, others not at all.

    Returns:
        The folds, ids sorted; none when all cases are in one group, which leaves fold `all` only.

    Raises:
        UsageError: If `folds` is below 2, or the expression is invalid or does not match every id.

    References:
        nnU-Net v2 (Isensee et al. 2021), five-fold cross-validation; scikit-learn's KFold with shuffling.
    """
    if folds < 2:
        raise UsageError(f"{folds} fold(s) asked for; cross-validation needs at least 2.")
    cases = sorted(case.case for case in fingerprint.cases)
    groups, grouping = _group(cases, group_by)
    names = sorted(groups)
    number = min(folds, len(names))
    if number < 2:
        what = "one case" if len(cases) == 1 else f"{len(cases)} cases in one group"
        reason = f"There is only {what}{grouping}: nothing can be left out, train fold 'all'."
        return Splits(folds=(), reason=reason)
    parts = _divide(len(names), number)
    splits = tuple(_split(cases, [case for index in part for case in groups[names[index]]]) for part in parts)
    fewer = f" (only {number} for {folds} asked for)" if number < folds else ""
    units = "groups" if len(names) < len(cases) else "cases"
    reason = (
        f"{number} folds{fewer} of {len(names)} {units}, shuffled with seed {SPLIT_SEED} as nnU-Net does{grouping}."
    )
    return Splits(folds=splits, reason=reason)


def _split(cases: Sequence[str], left_out: Sequence[str]) -> Split:
    validation = set(left_out)
    return Split(training=tuple(case for case in cases if case not in validation), validation=tuple(sorted(validation)))


def _divide(size: int, parts: int) -> list[list[int]]:
    """Indices of each part: shuffled, then cut; the first `size % parts` parts hold one more."""
    # nnU-Net's folds come from numpy's legacy generator; a modern one would give others.
    order = np.random.RandomState(SPLIT_SEED).permutation(size)
    return [sorted(int(index) for index in part) for part in np.array_split(order, parts)]


def _group(cases: Sequence[str], group_by: str | None) -> tuple[dict[str, list[str]], str]:
    """Cases by group, and how they were grouped, as the end of a sentence."""
    if group_by is not None:
        return _collect(cases, _names_by(group_by, cases)), f", grouped by '{group_by}'"
    guessed = [match["group"] if (match := PERSON.match(case)) else case for case in cases]
    if len(set(guessed)) == len(cases):
        return {case: [case] for case in cases}, ""
    example = next(name for name in guessed if guessed.count(name) > 1)
    grouping = (
        f", cases of one person kept together ({example} has {guessed.count(example)}; guessed from the ids, "
        "--group-by changes it)"
    )
    return _collect(cases, guessed), grouping


def _names_by(expression: str, cases: Sequence[str]) -> list[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--group-by '{expression}' is not a regular expression: {error}") from error
    matches = [pattern.search(case) for case in cases]
    missed = [case for case, match in zip(cases, matches, strict=True) if match is None]
    if missed:
        raise UsageError(
            f"--group-by '{expression}' does not match {len(missed)} of {len(cases)} case ids: "
            f"{', '.join(missed[:5])}{', ...' if len(missed) > 5 else ''}. Every case needs a group."
        )
    return [(match[1] or "") if pattern.groups else match[0] for match in matches if match is not None]


def _collect(cases: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for case, name in zip(cases, names, strict=True):
        groups[name].append(case)
    return groups
