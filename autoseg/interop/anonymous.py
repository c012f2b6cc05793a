"""What leaves the house with a model: nothing that names a case, a patient or a place on the exporter's disk."""

from pathlib import PurePath, PureWindowsPath

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint
from autoseg.records.plan import Plan


def anonymous_fingerprint(fingerprint: Fingerprint) -> Fingerprint:
    """The grids and intensities that a model was trained on, without telling whose they were.

    Case ids become numbers, in order of the grids' sizes, so that the order of the ids is gone too. What was measured
    in each case's labels goes, and so do the hashes of the files, by which a known file could be looked up.
    """
    ordered = sorted(fingerprint.cases, key=lambda case: (case.shape, case.spacing, case.channel_ranges))
    width = len(str(len(ordered)))
    cases = tuple(_anonymous_case(case, f"{number:0{width}d}") for number, case in enumerate(ordered, start=1))
    return fingerprint.model_copy(update={"cases": cases})


def _anonymous_case(case: CaseFingerprint, number: str) -> CaseFingerprint:
    return case.model_copy(update={"case": number, "labels": {}, "content_hash": ""})


def anonymous_plan(plan: Plan) -> Plan:
    """The plan without the path of a model that it was made like; only that model's name stays."""
    like = plan.budget.like
    if like is None:
        return plan
    name = _last_part(like.model)
    budget = plan.budget.model_copy(update={"like": like.model_copy(update={"model": name})})
    decisions = tuple(
        decision.model_copy(
            update={
                "reason": decision.reason.replace(like.model, name),
                "value": decision.value.replace(like.model, name)
                if isinstance(decision.value, str)
                else decision.value,
            }
        )
        for decision in plan.decisions
    )
    return plan.model_copy(update={"budget": budget, "decisions": decisions})


def _last_part(path: str) -> str:
    """The file name of a path of either system; `.` for one that has none."""
    kind = PureWindowsPath if "\\" in path else PurePath
    return kind(path).name or "."


def anonymous_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The record without the hash of the training cases' ids, by which a guessed list of them could be confirmed."""
    return checkpoint.model_copy(update={"cases_hash": ""})
