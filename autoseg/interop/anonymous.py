"""Anonymous records for export: nothing in them names a case, a patient or a path on the exporter's disk.

Tested in tests/stages/test_export.py.
"""

import re
from typing import Final

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.selection import Selection

ABSOLUTE_PATH: Final = re.compile(r"(?<![\w./\\])(?:/|[A-Za-z]:[/\\]|\\\\)[^\s'\"(),;]+")
"""Absolute path in a sentence: from a root, drive or server up to the next space or punctuation."""


def anonymous_fingerprint(fingerprint: Fingerprint) -> Fingerprint:
    """The grids and intensities that a model was trained on, without identifying the cases.

    Case ids become numbers in order of the grids' shapes, so that their own order is removed as well. Removed are also
    the measurements of each case's labels and the hashes of the files, which would identify a known file.
    """
    ordered = sorted(fingerprint.cases, key=lambda case: (case.shape, case.spacing, case.channel_ranges))
    width = len(str(len(ordered)))
    cases = tuple(_anonymous_case(case, f"{number:0{width}d}") for number, case in enumerate(ordered, start=1))
    return fingerprint.model_copy(update={"cases": cases})


def _anonymous_case(case: CaseFingerprint, number: str) -> CaseFingerprint:
    return case.model_copy(update={"case": number, "labels": {}, "content_hash": "", "files_state": ""})


def anonymous_plan(plan: Plan) -> Plan:
    """The plan without paths; the model that it follows keeps only its name."""
    like = plan.budget.like
    asked = "" if like is None else like.model
    budget = plan.budget
    if like is not None:
        budget = budget.model_copy(update={"like": like.model_copy(update={"model": _last_part(asked)})})
    decisions = tuple(
        decision.model_copy(
            update={
                "reason": _without_paths(decision.reason, asked),
                "value": _without_paths(decision.value, asked) if isinstance(decision.value, str) else decision.value,
            }
        )
        for decision in plan.decisions
    )
    return plan.model_copy(update={"budget": budget, "decisions": decisions})


def anonymous_selection(selection: Selection) -> Selection:
    """The selection with reasons that contain no paths, for weights whose records are anonymous too."""
    return selection.model_copy(update={"reasons": tuple(map(_without_paths, selection.reasons)), "weights": {}})


def _without_paths(text: str, known: str = "") -> str:
    """The text with paths cut to their last name: the known one, which may have spaces, and all absolute ones."""
    text = text.replace(known, _last_part(known)) if known else text
    return ABSOLUTE_PATH.sub(lambda found: _last_part(found[0]), text)


def _last_part(path: str) -> str:
    """The last name of a path of any system; `.` for a path without a name."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "."


def anonymous_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The record without the hashes of the cases' ids and files, which could confirm a guess of them."""
    return checkpoint.model_copy(update={"cases_hash": "", "data_hash": ""})
