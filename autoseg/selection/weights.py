"""Weigh the members of the best pair of configurations: half and half, or as cross-validation says.

    networks of the pair, again --probabilities--> label maps with each of a few weights --score--> the best of them

The probabilities of both members are computed once for all weights. Label maps are kept in models/ensembles, so that an
interrupted run resumes and a repeated one predicts nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.restoring.restore import restore_combinations
from autoseg.metrics.bootstrap import bootstrap_interval
from autoseg.metrics.summary import summarize
from autoseg.progress import Progress, ProgressBar, no_progress
from autoseg.records.dataset import foreground_names
from autoseg.records.evaluation import CaseScores
from autoseg.records.selection import Candidate, Names
from autoseg.selection.validation_run import (
    FoldMaps,
    PredictCase,
    ValidatedFold,
    ValidationRun,
    predict_each,
    scores_of,
    why_not_again,
    write_validation_maps,
)
from autoseg.selection.verdicts import ENSEMBLE_MARGIN, ROUNDING, comparable_cases, describe_difference, dice_table
from autoseg.text import format_names

FIRST_WEIGHTS = (0.2, 0.35, 0.65, 0.8)
"""Parts of the mean of probabilities that the first member gets; the second one gets the rest. Few, because the best of
many is ahead by chance alone."""

Weights = tuple[float, ...]


@dataclass(frozen=True)
class WeightedPair:
    """A pair with weights of its members, predicted and scored."""

    weights: Weights
    folds: tuple[ValidatedFold, ...]

    @property
    def cases(self) -> list[CaseScores]:
        """Scores of all its cases."""
        return scores_of(self.folds)


def weigh_members(
    run: ValidationRun,
    candidates: tuple[Candidate, ...],
    validated: Mapping[Names, Sequence[ValidatedFold]],
    bar: ProgressBar,
    *,
    wanted: bool,
) -> tuple[tuple[Candidate, ...], tuple[ValidatedFold, ...], tuple[str, ...]]:
    """Try a few weights of the best pair's members; see `validate_weights` and `rank_weighted`.

    Args:
        run: Context of the run.
        candidates: Candidates of `rank_candidates`.
        validated: Folds by candidate.
        bar: Progress bars, by title.
        wanted: False: nothing is tried.

    Returns:
        Candidates, the chosen one first; its folds; sentences about the weights.
    """
    folds = tuple(validated[candidates[0].configurations])
    pair = next((candidate.configurations for candidate in candidates if len(candidate.configurations) == 2), None)
    if pair is None or not wanted:
        return candidates, folds, ()
    if fault := why_not_again(run, pair, validated[pair]):
        return candidates, folds, (f"No weights of {format_names(pair)} were tried: {fault}.",)
    with bar("weights of members") as progress:
        weighted = validate_weights(run, pair, validated[pair], progress)
    cases = {names: scores_of(of) for names, of in validated.items()}
    candidates, sentence = rank_weighted(candidates, cases, weighted, foreground_names(run.plan.encoding))
    chosen = [item.folds for item in weighted if item.weights == candidates[0].member_weights]
    return candidates, chosen[0] if chosen else folds, (sentence,)


def validate_weights(
    run: ValidationRun, pair: Names, folds: Sequence[ValidatedFold], progress: Progress = no_progress
) -> list[WeightedPair]:
    """Predict and score the validation cases of a pair with each of a few weights of its members.

    Args:
        run: Context of the run; its workspace has the preprocessed cases of both configurations.
        pair: Names of two configurations.
        folds: Folds of the pair, half and half.
        progress: Called after every case that had to be predicted.

    Raises:
        UsageError: If the preprocessed data of a case, or label maps of a cascade's previous step are missing.
        ImageFileError: If an image or reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.
    """
    runs = {
        first: replace(run, member_weights=dict(zip(pair, _weights(first), strict=True))) for first in FIRST_WEIGHTS
    }
    wanted = {
        fold.fold: {
            first: FoldMaps(weighted, pair, fold.fold, fold.cases, fold.folder / f"weighted_{first:g}")
            for first, weighted in runs.items()
        }
        for fold in folds
    }
    for by_weight in wanted.values():
        for maps in by_weight.values():
            maps.remove_outdated()
    pending = {fold: _pending_cases(by_weight) for fold, by_weight in wanted.items()}
    total, done = sum(map(len, pending.values())), 0
    for fold, items in pending.items():
        for _ in predict_each(run, fold, pair, items, _write_weighted):
            done += 1
            progress(done, total)
    return [
        WeightedPair(_weights(first), tuple(by_weight[first].evaluate() for by_weight in wanted.values()))
        for first in FIRST_WEIGHTS
    ]


def rank_weighted(
    candidates: Sequence[Candidate],
    cases: Mapping[Names, Sequence[CaseScores]],
    weighted: Sequence[WeightedPair],
    label_names: Sequence[str],
) -> tuple[tuple[Candidate, ...], str]:
    """Rank the best weights of a pair among the candidates; first if they are ahead of the first one by the margin.

    Args:
        candidates: Candidates of `rank_candidates`; the pair with equal weights is one of them.
        cases: Validation scores by candidate.
        weighted: One pair with several weights, on the same cases as with equal ones.
        label_names: Foreground labels and regions.

    Returns:
        All candidates, the chosen one first, then by score; and a sentence.
    """
    pair = next(candidate for candidate in candidates if len(candidate.configurations) == 2)
    scored = {item.weights: comparable_cases({**cases, pair.configurations: item.cases})[0][pair.configurations]
              for item in weighted}  # fmt: skip
    found = [
        pair.model_copy(
            update={
                "member_weights": weights,
                "mean_foreground_dice": summarize(own, label_names).mean_foreground_dice,
                "interval": bootstrap_interval(dice_table(own, label_names)),
            }
        )
        for weights, own in scored.items()
    ]
    best, winner = max(found, key=_score), candidates[0]
    gain = _score(best) - _score(winner)
    is_ahead = gain >= ENSEMBLE_MARGIN - ROUNDING
    tables = [
        dice_table(own, label_names)
        for own in (scored[best.member_weights], comparable_cases(cases)[0][winner.configurations])
    ]
    sentence = (
        f"Best weights, {format_names(best.configurations, best.member_weights)}, against "
        f"{format_names(winner.configurations)}: Dice {gain:+.4f}, and {ENSEMBLE_MARGIN} is required; "
        f"{'chosen' if is_ahead else 'not chosen'}.{describe_difference(bootstrap_interval(tables[0] - tables[1]))}"
    )
    if is_ahead:
        return (best, *candidates), sentence
    return (winner, *sorted([*candidates[1:], best], key=lambda candidate: -_score(candidate))), sentence


def _write_weighted(
    run: ValidationRun, predict: PredictCase, item: tuple[str, Names, Sequence[tuple[Weights, Path]]]
) -> None:
    """Write a case's label maps with several weights, each into its folder."""
    case, pair, wanted = item
    streams = [predict(name, case) for name in pair]
    weights = [own for own, _ in wanted]
    labels = restore_combinations(streams, [(0, 1)] * len(wanted), run.plan.encoding, weights)
    write_validation_maps(run, case, [(own, folder) for own, (_, folder) in zip(labels, wanted, strict=True)])


def _pending_cases(by_weight: Mapping[float, FoldMaps]) -> list[tuple[str, Names, list[tuple[Weights, Path]]]]:
    """Cases without some of their label maps, with the weights and folders of these."""
    present = {first: find_label_maps(maps.folder) for first, maps in by_weight.items()}
    maps = next(iter(by_weight.values()))
    found = []
    for case in maps.cases:
        wanted = [
            (_weights(first), own.folder.absolute()) for first, own in by_weight.items() if case not in present[first]
        ]
        if wanted:
            found.append((case, maps.names, wanted))
    return found


def _weights(first: float) -> Weights:
    return first, round(1 - first, 6)


def _score(candidate: Candidate) -> float:
    return -1.0 if candidate.mean_foreground_dice is None else candidate.mean_foreground_dice
