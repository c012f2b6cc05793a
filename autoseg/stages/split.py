"""Split: divide the cases into folds, or keep the folds that a user edited; the pipeline writes splits.json.

Folds do not depend on the plan, only on the fingerprint.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from autoseg.errors import PlanningError, RecordError, UsageError
from autoseg.folds import listed_splits
from autoseg.records.dataset import CaseFiles
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Split, Splits, hash_of_folds
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.plan")

SPLIT_SEED = 12345
"""Seed of nnU-Net, so that the same ids give the same folds."""

MAX_NAMES = 8
"""Largest number of labels or cases that a sentence lists."""

SOME_PART = "some training or validation part"

PERSON = re.compile(
    r"^(?P<group>(?:.*[-_])?(?:(?:patient|subject|subj|sub|pat)[-_]?[A-Za-z]*\d[A-Za-z0-9]*|sub-[A-Za-z0-9]+))[-_].+$",
    re.IGNORECASE,
)
"""Case id that begins with a person: patient001_frame01, sub-03_ses-2. The token has a digit, or is BIDS's `sub-`."""


def make_splits(
    fingerprint: Fingerprint, *, folds: int = 5, group_by: str | None = None, listed: Sequence[CaseFiles] = ()
) -> Splits:
    """Divide the cases into folds, whole groups at a time; folds that the dataset names are kept.

    Without groups the folds are nnU-Net's: sorted ids, shuffled with a fixed seed, cut into parts of nearly equal
    size, the larger ones first. Where these leave a rare label out of some part, the groups are divided by label
    presence instead: a label that as many groups have as there are folds should be validated in every fold, and one
    that two groups have should be in every training part.

    Args:
        fingerprint: For its case ids, and the labels found in each case.
        folds: Number of folds; fewer when there are fewer groups.
        group_by: Regular expression searched in each case id; its first group, or the whole match, is the name of the
            case's group. None: ids that name persons (patient001_frame01) are grouped by person, others not at all.
        listed: Files of the cases, with the groups or folds that the dataset names.

    Returns:
        The folds with sorted ids; empty when all cases are in one group, which leaves fold `all` only. The order of
        the cases does not matter; folds differ by one group at most.

    Raises:
        UsageError: If `folds` is below 2, the expression is invalid or does not match every id, or the dataset names
            groups too.

    References:
        nnU-Net v2 (Isensee et al. 2021), five-fold cross-validation; scikit-learn's KFold with shuffling. Rare
        labels: Sechidis et al., "On the stratification of multi-label data", 2011. Differs: fold sizes are fixed, and
        ties go to the fold that lacks the group's other labels most.
    """
    if folds < 2:
        raise UsageError(f"{folds} fold(s) asked for; cross-validation needs at least 2.")
    if (named := listed_splits(listed)) is not None:
        return named
    cases = sorted(case.case for case in fingerprint.cases)
    groups, grouping = _group(cases, group_by, {files.case: files.group for files in listed if files.group})
    names = sorted(groups)
    number = min(folds, len(names))
    if number < 2:
        only = "one case" if len(cases) == 1 else f"{len(cases)} cases in one group"
        return _made((), f"There is only {only}{grouping}: nothing can be left out, train fold 'all'.")
    parts, method = _divide(_list_labels(fingerprint, groups, names), number)
    splits = tuple(_split(cases, [case for index in part for case in groups[names[index]]]) for part in parts)
    fewer = f" (only {number} for {folds} asked for)" if number < folds else ""
    units = "groups" if len(names) < len(cases) else "cases"
    return _made(splits, f"{number} folds{fewer} of {len(names)} {units}{grouping}, {method}.")


def _made(folds: tuple[Split, ...], reason: str) -> Splits:
    return Splits(folds=folds, reason=reason, folds_hash=hash_of_folds(folds))


def keep_edited_splits(workspace: Workspace, made: Splits, fingerprint: Fingerprint) -> Splits:
    """The folds of splits.json if somebody edited it, else those that were made now.

    Args:
        workspace: Workspace with the results of an earlier planning, if there was one.
        made: Result of `make_splits`.
        fingerprint: Facts about the dataset as it is now.

    Raises:
        PlanningError: If edited folds do not fit the cases; lists every fault.
        RecordError: If splits.json is damaged.
    """
    if not workspace.splits.exists():
        return made
    found = read_record(Splits, workspace.splits)
    earlier = _read_earlier_fingerprint(workspace)
    if found.folds == made.folds or not _is_edited(found, earlier):
        return made
    cases = [case.case for case in fingerprint.cases]
    known = cases if earlier is None else [case.case for case in earlier.cases]
    faults = list(_find_fold_faults(found.folds, cases, known))
    if faults:
        raise PlanningError(
            "\n".join(
                [
                    f"{workspace.splits}: these folds were edited by hand and do not fit the cases of the dataset:",
                    *(f"  {fault}" for fault in faults),
                    "Correct the file, or delete it to get new folds.",
                ]
            )
        )
    return found


def _read_earlier_fingerprint(workspace: Workspace) -> Fingerprint | None:
    try:
        return read_record(Fingerprint, workspace.fingerprint)
    except RecordError:  # missing, of another version, or damaged: planning replaces it
        return None


def _is_edited(splits: Splits, earlier: Fingerprint | None) -> bool:
    """Whether splits.json differs from what planning made of the earlier dataset."""
    if splits.folds_hash:
        return splits.folds_hash != hash_of_folds(splits.folds)
    if earlier is None or not earlier.cases:
        return True
    return splits.folds != make_splits(earlier, folds=max(2, len(splits.folds))).folds


def _find_fold_faults(folds: Sequence[Split], cases: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """What is wrong with edited folds; who edited them may leave out cases that were known then."""
    for index, fold in enumerate(folds):
        if not fold.training:
            yield f"fold {index} has no training case"
        for part, listed in (("training", fold.training), ("validation", fold.validation)):
            if missing := sorted(set(listed) - set(cases)):
                yield f"fold {index}: {part} lists {_list_names(missing)}, which the dataset does not have"
            if twice := sorted(case for case, count in Counter(listed).items() if count > 1):
                yield f"fold {index}: {part} lists {_list_names(twice)} more than once"
    if folds and (unused := sorted(set(cases) - set(known) - {case for fold in folds for case in _all_cases(fold)})):
        yield f"no fold has {_list_names(unused)}, which are new in the dataset"


def _all_cases(fold: Split) -> tuple[str, ...]:
    return (*fold.training, *fold.validation)


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def _split(cases: Sequence[str], left_out: Sequence[str]) -> Split:
    validation = set(left_out)
    return Split(training=tuple(case for case in cases if case not in validation), validation=tuple(sorted(validation)))


def _list_labels(
    fingerprint: Fingerprint, groups: Mapping[str, Sequence[str]], names: Sequence[str]
) -> list[frozenset[str]]:
    """Labels that are present in at least one case of each group."""
    present = {
        case.case: {label for label, facts in case.labels.items() if facts.voxels > 0} for case in fingerprint.cases
    }
    return [frozenset[str]().union(*(present[case] for case in groups[name])) for name in names]


def _divide(labels: Sequence[frozenset[str]], number: int) -> tuple[list[list[int]], str]:
    """Groups of each part, as indices of `labels`, and the method of division as the end of a sentence."""
    # nnU-Net's folds come from numpy's legacy generator; a modern one would give others.
    order = [int(index) for index in np.random.RandomState(SPLIT_SEED).permutation(len(labels))]
    parts = [[int(index) for index in part] for part in np.array_split(order, number)]
    shuffled = f"shuffled with seed {SPLIT_SEED} as nnU-Net does"
    lacking = _count_lacking(parts, labels)
    if not lacking:
        return parts, shuffled
    stratified = _stratify(order, labels, [len(part) for part in parts])
    still_lacking = _count_lacking(stratified, labels)
    if still_lacking.total() >= lacking.total():
        return parts, f"{shuffled}; {SOME_PART} lacks {_list_names(sorted(lacking))}, and no better division was found"
    rest = f"; {SOME_PART} still lacks {_list_names(sorted(still_lacking))}" if still_lacking else ""
    return (
        stratified,
        f"divided by label presence: {SOME_PART} of nnU-Net's folds lacks {_list_names(sorted(lacking))}{rest}",
    )


def _count_lacking(parts: Sequence[Sequence[int]], labels: Sequence[frozenset[str]]) -> Counter[str]:
    """Labels that are in too few parts, with the number of further parts that should have them.

    A label that at least as many groups have as there are parts should be in all parts; any other label of several
    groups in two, so that each training part has it.
    """
    groups_with = Counter(label for present in labels for label in present)
    parts_with = Counter(label for part in parts for label in frozenset[str]().union(*(labels[i] for i in part)))
    wanted = Counter({label: len(parts) if n >= len(parts) else min(n, 2) for label, n in groups_with.items()})
    return wanted - parts_with


def _stratify(order: Sequence[int], labels: Sequence[frozenset[str]], sizes: Sequence[int]) -> list[list[int]]:
    """Give each group with the label that remains in fewest groups to the part that lacks this label most.

    Repeats with the next rarest label until every group with a label has a part; groups without labels fill the parts
    with most room.
    """
    parts: list[list[int]] = [[] for _ in sizes]
    left = Counter(label for present in labels for label in present)
    # Groups that each part should still get, times the number of all groups, so that ties are exact.
    due = {label: [count * size for size in sizes] for label, count in left.items()}
    waiting = list(order)

    def room(part: int) -> int:
        return sizes[part] - len(parts[part])

    while left:
        rarest = min(left, key=lambda label: (left[label], label))
        for index in [index for index in waiting if rarest in labels[index]]:
            part = max(
                filter(room, range(len(sizes))),
                key=lambda part: (due[rarest][part], sum(due[label][part] for label in labels[index]), room(part)),
            )
            parts[part].append(index)
            for label in labels[index]:
                due[label][part] -= len(labels)
            left -= Counter(labels[index])
        waiting = [index for index in waiting if rarest not in labels[index]]
    for index in waiting:
        parts[max(range(len(sizes)), key=room)].append(index)
    return parts


def _group(cases: Sequence[str], group_by: str | None, listed: Mapping[str, str]) -> tuple[dict[str, list[str]], str]:
    """Cases by group, and the grouping as the end of a sentence; a case that `listed` leaves out is its own group."""
    if listed and group_by is not None:
        raise UsageError(
            "--group-by and the groups that the dataset lists contradict each other; leave one of them out"
        )
    if listed:
        # a case that has no group may be called like one
        names = [f"group {listed[case]}" if case in listed else f"case {case}" for case in cases]
        return _collect(cases, names), ", grouped as the dataset says"
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


def tell_of_kept_splits(workspace: Workspace, splits: Splits, fingerprint: Fingerprint) -> None:
    """Warn that folds were edited by hand and are kept, and how many cases they leave out."""
    used = {case for fold in splits.folds for case in (*fold.training, *fold.validation)}
    unused = len({case.case for case in fingerprint.cases} - used)
    logger.warning(
        "warning: %s was edited by hand and is kept, with %d folds%s; --folds and --group-by do not change it, delete "
        "it to get new folds",
        workspace.splits, len(splits.folds), f" that leave out {unused} cases" if unused else "",
    )  # fmt: skip
