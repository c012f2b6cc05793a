"""The steps that are tried on the winner, each on top of those before, and the scores of what comes out.

    winner --thresholds--> --refinement--> --expected Dice--> --adaptation--> --post-processing--> label maps, scores
    their scores, and probabilities again --> confidence, suspects of wrong labels

Tested in tests/stages/test_select.py and tests/stages/test_select_networks.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.inference.predictor.instance_maps import finds_instances
from autoseg.progress import ProgressBar
from autoseg.records.contrast import Adaptation
from autoseg.records.selection import LabelDecision, Names, Refinement
from autoseg.records.suspects import Suspects
from autoseg.selection.adaptation import TriedAdaptation, try_adaptation
from autoseg.selection.case_maps import CaseMapFiles
from autoseg.selection.confidence import ConfidenceOutcome, learn_confidence
from autoseg.selection.label_decision import TriedDecision, try_expected_dice
from autoseg.selection.options import SelectionOptions
from autoseg.selection.postprocessing import TunedPostprocessing, tune_postprocessing
from autoseg.selection.refinement import RefinementOutcome, refine_model
from autoseg.selection.suspects import find_suspects
from autoseg.selection.thresholds import TunedThresholds, tune_thresholds
from autoseg.selection.validated_folds import find_validation_maps
from autoseg.selection.validation_run import ValidatedFold, ValidationRun
from autoseg.training.refinement import RefinementOptions


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done with the winner's probabilities, and what its held-out cases say of it."""

    region_thresholds: dict[str, float]
    decision: LabelDecision
    adaptation: Adaptation
    refinement: Refinement | None
    tuned: TunedPostprocessing
    """Post-processing, with the scores of all cases after it."""
    confidence: ConfidenceOutcome
    suspects: Suspects
    reasons: tuple[str, ...]


def find_recipe(
    run: ValidationRun, winner: Names, folds: Sequence[ValidatedFold], options: SelectionOptions, bar: ProgressBar
) -> Recipe:
    """Try each step on the winner's validation cases, and keep it if it helps.

    Args:
        run: Context of the run, with the weights of the winner's members.
        winner: Names of one configuration, or of two whose probabilities are averaged.
        folds: All validated folds of the winner.
        options: Which steps are tried.
        bar: Progress bars, by title.

    Raises:
        UsageError: If a label map, a reference or preprocessed data of a case is missing.
        ImageFileError: If an image or label map cannot be read.
        PredictionError: If weights that are needed again are damaged.
        DatasetError: If a file of measurements is damaged.
    """
    swept = _tune_thresholds(run, winner, folds, options, bar)
    refined = _refine(run, winner, swept, options.refinement, bar)
    decided = TriedDecision("argmax", swept.folds, ())
    if options.expected_dice:
        decided = try_expected_dice(run, winner, swept.folds, refined.refinement, bar)
    thresholds = swept.thresholds if decided.decision == "argmax" else {}
    adapted = TriedAdaptation("none", ())
    if options.adaptation != "none":
        adapted = try_adaptation(run, winner, decided, thresholds, options.adaptation, bar)
    maps = refined.maps or find_validation_maps(run, decided.folds)
    tuned = _tune_maps(run, maps, bar)
    scores = tuned.evaluation.cases
    learnt = ConfidenceOutcome(None, None, ())
    if options.confidence:
        learnt = learn_confidence(run, winner, swept.folds, scores, thresholds, bar)
    tried = (swept, refined, decided, adapted, tuned, learnt)
    return Recipe(
        region_thresholds=thresholds,
        decision=decided.decision,
        adaptation=adapted.adaptation,
        refinement=refined.refinement,
        tuned=tuned,
        confidence=learnt,
        suspects=find_suspects(run.plan, maps, scores, learnt.promised, bar),
        reasons=tuple(reason for step in tried for reason in step.reasons),
    )


def _tune_thresholds(
    run: ValidationRun, winner: Names, folds: Sequence[ValidatedFold], options: SelectionOptions, bar: ProgressBar
) -> TunedThresholds:
    """Try thresholds of regions; labels that exclude each other have none."""
    if not options.thresholds or run.plan.encoding.activation != "sigmoid":
        return TunedThresholds({}, tuple(folds), ())
    with bar("thresholds") as progress:
        return tune_thresholds(run, winner, folds, progress)


def _refine(
    run: ValidationRun, winner: Names, swept: TunedThresholds, options: RefinementOptions | None, bar: ProgressBar
) -> RefinementOutcome:
    """Try to refine the winner's boundaries if there are settings for it."""
    if options is None:
        return RefinementOutcome(None, (), ())
    held_out = {fold.fold: fold.cases for fold in swept.folds}
    with bar("refinement") as progress:
        return refine_model(run, winner, held_out, options, thresholds=swept.thresholds, progress=progress)


def _tune_maps(run: ValidationRun, maps: Sequence[CaseMapFiles], bar: ProgressBar) -> TunedPostprocessing:
    """Try steps of post-processing; instances get scores alone."""
    workers, tries_steps = run.cluster or run.workers, not finds_instances(run.plan)
    with bar("post-processing") as progress:
        return tune_postprocessing(maps, run.plan.encoding, workers=workers, progress=progress, tries_steps=tries_steps)
