"""What candidates cost at prediction, beside the cheapest one.

Tested in tests/stages/test_select.py.
"""

from collections.abc import Sequence

from autoseg.costs.windows import prediction_macs
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.selection import Candidate
from autoseg.selection.validation_run import ValidationRun


def with_relative_costs(run: ValidationRun, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Candidates with their relative cost, if plan and fingerprint are enough to compute it."""
    names = {name for candidate in candidates for name in candidate.configurations}
    if not run.workspace.fingerprint.exists() or not names <= run.plan.configurations.keys():
        return tuple(candidates)
    fingerprint = read_record(Fingerprint, run.workspace.fingerprint)
    macs = {name: prediction_macs(run.plan, fingerprint, name) for name in names}
    costs = [sum(macs[name] for name in candidate.configurations) for candidate in candidates]
    if min(macs.values()) == 0:
        return tuple(candidates)
    return tuple(
        candidate.model_copy(update={"relative_cost": cost / min(costs)})
        for candidate, cost in zip(candidates, costs, strict=True)
    )
