"""Try whether adapting images to the training images does harm, on the cross-validated predictions.

    held-out cases, all adapted --networks of their fold--> label maps --score--> allowed if hardly worse

Held-out cases are like the training images, so that adapting has nothing to gain there. What is allowed is used for
images with another contrast alone (`inference.predictor.contrast`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from autoseg.errors import UsageError
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.reading import read_image
from autoseg.inference.models.image_statistics import has_statistics
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.contrast import Adapting
from autoseg.inference.predictor.training_range import TrainingRange, read_training_range
from autoseg.inference.restoring.decisions import Thresholds
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.progress import ProgressBar, no_bar
from autoseg.records.contrast import Adaptation
from autoseg.records.dataset import foreground_names
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.selection import Names
from autoseg.selection.held_out import HeldOutCases, load_fold
from autoseg.selection.label_decision import TriedDecision
from autoseg.selection.validation_run import ValidationRun, scores_of
from autoseg.text import format_score

MAX_LOSS = 0.005
"""Largest fall of the mean foreground Dice: it befalls only images with another contrast, which lose far more without
it (hippocampus, gamma 2.5: 0.03)."""

MAX_LABEL_LOSS = 0.01
"""Largest fall of the Dice of one label."""

SUBJECTS: Mapping[Adaptation, str] = MappingProxyType(
    {
        "histogram": "Intensities matched to those of the training images",
        "statistics": "Statistics of normalisation from the image",
    }
)
"""Beginning of a reason, by adaptation."""


@dataclass(frozen=True)
class TriedAdaptation:
    """What is done to images with another contrast, and why."""

    adaptation: Adaptation
    reasons: tuple[str, ...]


def try_adaptation(
    run: ValidationRun,
    names: Names,
    decided: TriedDecision,
    thresholds: Thresholds,
    adaptation: Adaptation,
    bar: ProgressBar = no_bar,
) -> TriedAdaptation:
    """Adapt and predict all validation cases, and allow that if it does no harm.

    Args:
        run: Context of the run.
        names: Names of the configurations whose probabilities are averaged.
        decided: Decision of the recipe, with its validated folds.
        thresholds: Thresholds of regions; empty: one half for all.
        adaptation: How they are adapted.
        bar: Progress bars, by title.

    Raises:
        ImageFileError: If an image or reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.
        UsageError: If networks are to take statistics from images, and keep none.
        RecordError: If fingerprint.json is damaged.
    """
    training = read_training_range(run.workspace.fingerprint)
    if training is None or not training.contrasts:
        reason = (
            f"{SUBJECTS[adaptation]}: not tried, {run.workspace.fingerprint.name} has no contrasts; plan the dataset "
            "again."
        )
        return TriedAdaptation("none", (reason,))
    before = scores_of(decided.folds)
    cases = HeldOutCases(
        run=run,
        configurations=names,
        folds={fold.fold: fold.cases for fold in decided.folds},
        thresholds=thresholds,
    )
    after = []
    with bar("adaptation") as progress:
        for scores in _score_adapted(cases, training, decided, adaptation):
            after.append(scores)
            progress(len(after), len(cases))
    labels = foreground_names(run.plan.encoding)
    return judge_adaptation(summarize(before, labels), summarize(after, labels), adaptation)


def judge_adaptation(before: Evaluation, after: Evaluation, adaptation: Adaptation) -> TriedAdaptation:
    """Whether the mean Dice falls by MAX_LOSS or less, and that of no label by more than MAX_LABEL_LOSS.

    Args:
        before: Scores of all cases as they are.
        after: Scores of the same cases, adapted.
        adaptation: How they were adapted.
    """
    old, new = before.mean_foreground_dice, after.mean_foreground_dice
    falls = {
        name: summary.dice - (after.labels[name].dice or 0.0)
        for name, summary in before.labels.items()
        if summary.dice is not None
    }
    worst = max(falls, key=lambda name: falls[name], default="")
    if old is None or new is None:
        return TriedAdaptation("none", (f"{SUBJECTS[adaptation]}: not allowed, there is no Dice to compare.",))
    is_allowed = old - new <= MAX_LOSS and falls[worst] <= MAX_LABEL_LOSS
    answer = "allowed for images with another contrast" if is_allowed else "not allowed"
    most = f", {worst} {-falls[worst]:+.4f}" if falls[worst] > 0 else ""
    figures = f"all held-out cases adapted: Dice {format_score(old)} -> {format_score(new)} ({new - old:+.4f}{most})"
    limits = f"a loss of {MAX_LOSS} is tolerated, of one label {MAX_LABEL_LOSS}"
    reason = f"{SUBJECTS[adaptation]}: {answer}; {figures}; {limits}."
    return TriedAdaptation(adaptation if is_allowed else "none", (reason,))


def _score_adapted(
    cases: HeldOutCases, training: TrainingRange, decided: TriedDecision, adaptation: Adaptation
) -> Iterator[CaseScores]:
    for fold, names in cases.folds.items():
        predictor = load_fold(cases, fold)
        if adaptation == "statistics" and not has_statistics(predictor.members):
            raise UsageError(
                f"{cases.run.workspace.root}: the networks of {' and '.join(cases.configurations)} keep no statistics "
                "of normalisation. Select with --adapt histogram, or without --adapt."
            )
        predictor = replace(
            predictor,
            thresholds=cases.thresholds,
            decision=decided.decision,
            training_range=training,
            adapting=Adapting(adaptation),
        )
        yield from _score_cases(predictor, names, cases.run)


def _score_cases(predictor: CasePredictor, names: Sequence[str], run: ValidationRun) -> Iterator[CaseScores]:
    for case in names:
        files = run.files(case)
        volume = read_image([run.dataset_folder / image for image in files.images])
        predicted = predictor.predict(predictor.prepare(volume, case=case, overwrite=True))
        reference = read_reference(run.dataset_folder, files, run.plan.encoding)
        yield score_case(case, predicted.labels, reference.array[0], run.plan.labels)
