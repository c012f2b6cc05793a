"""Which labels were looked for in a case: the column or key `annotated`, and what label maps say beyond it.

A cell holds names or values of labels, separated by commas, semicolons or `|`, or a JSON list of them; an empty cell
means all labels. An empty JSON list may mean all labels or none, and is refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.records.dataset import BACKGROUND, IGNORE, CaseFiles, LabelEncoding, indices_by_label
from autoseg.records.partial_labels import is_looked_for
from autoseg.text import comparable_name

_MAX_NAMED_SETS = 6
"""Sets of labels that a note names; it counts the others."""

_SEPARATORS = re.compile(r"[,;|]")


def read_annotated(cell: str | Sequence[str]) -> tuple[str, ...] | None:
    """Names in a cell or in a JSON list; None for an empty cell, none for an empty list."""
    parts = _SEPARATORS.split(cell) if isinstance(cell, str) else cell
    names = tuple(dict.fromkeys(name for part in parts if (name := part.strip())))
    return None if isinstance(cell, str) and not names else names


def with_declared(
    cases: Sequence[CaseFiles], declared: Mapping[str, tuple[str, ...] | None], source: Path
) -> list[CaseFiles]:
    """The cases with the labels that dataset.json says were looked for, by case id.

    Args:
        cases: Cases of the dataset, with what stands in their own entries.
        declared: Key `annotated` of the file.
        source: The file, for messages.

    Raises:
        DatasetError: If it says so of a case that is not there, or otherwise than the entry of the case.
    """
    unknown = sorted(declared.keys() - {files.case for files in cases})
    if unknown:
        raise DatasetError(
            f"{source}: `annotated` has the case {unknown[0]}, which is not in the dataset; expected names of "
            f"cases{f' such as {cases[0].case}' if cases else ''}. Correct the name, or remove it."
        )
    for files in cases:
        if files.annotated not in (None, declared.get(files.case, files.annotated)):
            raise DatasetError(
                f"{source}: `annotated` of case {files.case} names {_listed(declared[files.case])}, and the case's own "
                f"entry {_listed(files.annotated)}; expected one of them. Remove the other."
            )
    return [
        files.model_copy(update={"annotated": declared[files.case]}) if files.case in declared else files
        for files in cases
    ]


def name_annotated(cases: Iterable[CaseFiles], labels: Mapping[str, object], source: object) -> tuple[CaseFiles, ...]:
    """The cases with the names in `annotated` as the dataset has them; all labels together become None.

    Capitals, and blanks or hyphens for `_`, make no difference. The value of a label stands for its name.

    Args:
        cases: Cases of a dataset.
        labels: Values in label maps by name; the background and the ignore label need not be looked for.
        source: Dataset, for messages.

    Raises:
        DatasetError: If a name is no label's, or a case names none.
    """
    values = {str(value): name for name, value in labels.items() if isinstance(value, int)}
    known = values | {comparable_name(name): name for name in labels}
    every = [name for name in labels if name not in (BACKGROUND, IGNORE)]
    named: list[CaseFiles] = []
    unknown: dict[str, list[str]] = {}
    for files in cases:
        words = [comparable_name(name) for name in files.annotated or ()]
        for name, word in zip(files.annotated or (), words, strict=True):
            if word not in known:
                unknown.setdefault(name, []).append(files.case)
        found = {known.get(word) for word in words}
        wanted = tuple(name for name in every if name in found)
        if files.annotated is not None and not wanted and set(words) <= known.keys():
            raise DatasetError(
                f"{source}: `annotated` of case {files.case} names no label that could be looked for; expected some of "
                f"{', '.join(every)}. Leave it empty where every label was looked for, and take the case out where "
                "none was (autoseg learn --unlabelled learns from its image)."
            )
        is_partial = files.annotated is not None and len(wanted) < len(every)
        named.append(files if files.annotated is None else files.model_copy(update={"annotated": None}))
        if is_partial:
            named[-1] = files.model_copy(update={"annotated": wanted})
    if unknown:
        name, cases_with = next(iter(unknown.items()))
        more = f" (and {len(cases_with) - 1} more)" if len(cases_with) > 1 else ""
        raise DatasetError(
            f"{source}: `annotated` of case {cases_with[0]}{more} names {name!r}, which is no label of this dataset; "
            f"expected some of {', '.join(every)}. Correct the name, or leave `annotated` empty where every label was "
            "looked for."
        )
    return tuple(named)


def name_annotated_facts(facts: Sequence[CaseFacts], labels: Mapping[str, object], source: object) -> list[CaseFacts]:
    """`name_annotated` for cases that were checked."""
    named = name_annotated((case.files for case in facts), labels, source)
    return [replace(case, files=files) for case, files in zip(facts, named, strict=True)]


def describe_annotated(facts: Sequence[CaseFacts], encoding: LabelEncoding) -> list[str]:
    """What to say of cases in which not every label was looked for; nothing where every one was."""
    sets: dict[tuple[str, ...] | None, int] = {}
    for case in facts:
        sets[case.files.annotated] = sets.get(case.files.annotated, 0) + 1
    if set(sets) <= {None}:
        return []
    listed = [f"{_listed(names)} in {count}" for names, count in sets.items()]
    shown = "; ".join(listed[:_MAX_NAMED_SETS])
    if len(listed) > _MAX_NAMED_SETS:
        shown += f"; {len(listed) - _MAX_NAMED_SETS} other sets"
    notes = [f"labels that were looked for, by number of cases: {shown}; where others are is not known there"]
    stray = [(case.files.case, found) for case in facts if (found := _find_stray(case, encoding))]
    if stray:
        first, found = stray[0]
        notes.append(
            f"{_count_cases(len(stray))} voxels of labels that their `annotated` leaves out, {first} first "
            f"({', '.join(found)}); these voxels count as not labelled"
        )
    return notes


def _find_stray(case: CaseFacts, encoding: LabelEncoding) -> list[str]:
    """Labels that have voxels in a case in which nobody looked for them, and which no label looked for shares."""
    annotated = case.files.annotated
    if annotated is None or case.label_voxels is None:
        return []
    by_label = indices_by_label(encoding)
    counted = {index for name, indices in by_label.items() if is_looked_for(name, annotated) for index in indices}
    present = {index for index, value in enumerate(encoding.values) if index and case.label_voxels.get(value)}
    return [
        name
        for name, indices in by_label.items()
        if name != BACKGROUND and not is_looked_for(name, annotated) and (present - counted) & set(indices)
    ]


def _count_cases(count: int) -> str:
    return "1 case has" if count == 1 else f"{count} cases have"


def _listed(names: Sequence[str] | None) -> str:
    return ", ".join(names) if names else "all labels"
