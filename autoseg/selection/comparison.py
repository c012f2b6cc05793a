"""Which configuration, or pair of configurations, is best on the validation cases.

    evaluations of folds + those of pairs (selection.ensembles, selection.weights) --compare--> candidates, best first

Tested in tests/stages/test_select.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoseg.progress import ProgressBar, no_bar
from autoseg.records.dataset import foreground_names
from autoseg.records.selection import Candidate, Names
from autoseg.selection.ensembles import validate_pairs
from autoseg.selection.relative_costs import with_relative_costs
from autoseg.selection.validation_run import ValidatedFold, ValidationRun, scores_of
from autoseg.selection.verdicts import rank_candidates
from autoseg.selection.weights import weigh_members

Singles = Mapping[str, Sequence[ValidatedFold]]


@dataclass(frozen=True)
class ComparedCandidates:
    """All candidates, and what is known of the winner."""

    candidates: tuple[Candidate, ...]
    """The winner first."""
    folds: tuple[ValidatedFold, ...]
    """The winner's validated folds, predicted with its weights of members."""
    missing_predictions: tuple[str, ...]
    """Validation cases that the winner did not predict."""
    reasons: tuple[str, ...]

    @property
    def winner(self) -> Candidate:
        """The candidate that was chosen."""
        return self.candidates[0]


def compare_candidates(
    run: ValidationRun, singles: Singles, bar: ProgressBar = no_bar, *, pairs: bool, member_weights: bool
) -> ComparedCandidates:
    """Compare configurations and pairs of them on the validation cases that all of them have.

    Args:
        run: Context of the run.
        singles: Validated folds by configuration.
        bar: Progress bars, by title.
        pairs: Whether pairs are tried; predicts validation cases again.
        member_weights: Whether other weights than half and half are tried for the best pair.

    Raises:
        UsageError: If preprocessed data of a case, or label maps of a cascade's previous step are missing.
        ImageFileError: If an image or reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.
    """
    validated, no_pairs = _with_pairs(run, singles, bar) if pairs else (_alone(singles), [])
    candidates, remarks = _rank(validated, foreground_names(run.plan.encoding))
    candidates, folds, weighing = weigh_members(run, candidates, validated, bar, wanted=member_weights)
    candidates = with_relative_costs(run, candidates)
    winner = validated[candidates[0].configurations]
    return ComparedCandidates(
        candidates=candidates,
        folds=folds,
        missing_predictions=tuple(case for fold in winner for case in fold.evaluation.missing_predictions),
        reasons=(*no_pairs, *remarks, *weighing),
    )


def _alone(singles: Singles) -> dict[Names, list[ValidatedFold]]:
    """Every configuration on its own."""
    return {(name,): list(folds) for name, folds in singles.items()}


def _with_pairs(
    run: ValidationRun, singles: Singles, bar: ProgressBar
) -> tuple[dict[Names, list[ValidatedFold]], list[str]]:
    """Every configuration and every pair, and one sentence if no pair could be tried."""
    if fault := _why_no_pairs(singles):
        return _alone(singles), fault
    with bar("ensembles") as progress:
        return {**_alone(singles), **validate_pairs(run, singles, progress)}, []


def _why_no_pairs(singles: Singles) -> list[str]:
    """One sentence if pairs cannot be compared; empty if they can."""
    if len(singles) < 2:
        return ["No ensemble was tried: two validated configurations are needed."]
    cases = [{case for fold in folds for case in fold.cases} for folds in singles.values()]
    return [] if set.intersection(*cases) else ["No ensemble was tried: the configurations share no validation case."]


def _rank(
    validated: Mapping[Names, Sequence[ValidatedFold]], label_names: Sequence[str]
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    return rank_candidates(
        {names: scores_of(folds) for names, folds in validated.items()},
        {names: tuple(fold.fold for fold in folds) for names, folds in validated.items()},
        label_names,
    )
