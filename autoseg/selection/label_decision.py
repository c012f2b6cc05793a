"""Try whether labels are better decided by their expected Dice in each case, on the cross-validated predictions.

    networks of the winner, again --probabilities--> label maps with the largest expected Dice --score--> kept if better

Label maps are kept beside those of the folds, so that an interrupted run resumes and a repeated one predicts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.predictor.expected_dice import restore_by_expected_dice
from autoseg.metrics.summary import summarize
from autoseg.progress import Progress, ProgressBar, no_bar
from autoseg.records.dataset import foreground_names
from autoseg.records.selection import LabelDecision, Names, Refinement
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
from autoseg.selection.verdicts import judge_decision


@dataclass(frozen=True)
class TriedDecision:
    """The better decision, and the predictions with it."""

    decision: LabelDecision
    folds: tuple[ValidatedFold, ...]
    """Folds whose label maps follow this decision."""
    reasons: tuple[str, ...]


def try_expected_dice(
    run: ValidationRun,
    names: Names,
    folds: Sequence[ValidatedFold],
    refinement: Refinement | None = None,
    bar: ProgressBar = no_bar,
) -> TriedDecision:
    """Decide all validation cases by their expected Dice, and keep that if it is better.

    Args:
        run: Context of the run; its workspace has the preprocessed cases.
        names: Names of one configuration, or of two whose probabilities are averaged.
        folds: All validated folds of the model, predicted as far as it is chosen.
        refinement: Refinement of boundaries that was chosen, with which nothing is tried; None: none was.
        bar: Progress bars, by title.

    Returns:
        The decision, and the folds predicted with it; argmax and the given folds where cases cannot be predicted again.

    Raises:
        ImageFileError: If an image or reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.
    """
    fault = "boundaries are refined" if refinement is not None else why_not_again(run, names, folds)
    if fault:
        return TriedDecision("argmax", tuple(folds), (f"Expected Dice was not tried: {fault}.",))
    with bar("expected Dice") as progress:
        decided = _predict(run, names, folds, progress)
    labels = foreground_names(run.plan.encoding)
    before, after = (summarize(scores_of(of), labels) for of in (folds, decided))
    is_accepted, sentence = judge_decision(before, after)
    kept = decided if is_accepted else folds
    return TriedDecision("expected-dice" if is_accepted else "argmax", tuple(kept), (sentence,))


def _predict(
    run: ValidationRun, names: Names, folds: Sequence[ValidatedFold], progress: Progress
) -> list[ValidatedFold]:
    """The folds with label maps of the largest expected Dice; existing ones of the same weights stay."""
    wanted = [
        FoldMaps(run, names, fold.fold, fold.cases, run.workspace.expected_dice(names, fold.fold)) for fold in folds
    ]
    for maps in wanted:
        maps.remove_outdated()
    pending = {maps.fold: [case for case in maps.cases if case not in find_label_maps(maps.folder)] for maps in wanted}
    total, done = sum(map(len, pending.values())), 0
    decided = []
    for maps in wanted:
        items = [(case, maps.folder.absolute()) for case in pending[maps.fold]]
        for _ in predict_each(run, maps.fold, names, items, partial(_write_decided, names=names)):
            done += 1
            progress(done, total)
        decided.append(maps.evaluate())
    return decided


def _write_decided(run: ValidationRun, predict: PredictCase, item: tuple[str, Path], *, names: Names) -> None:
    """Write the label map of a case."""
    case, folder = item
    labels = restore_by_expected_dice([predict(name, case) for name in names], run.plan.encoding)
    write_validation_maps(run, case, [(labels, folder)])
