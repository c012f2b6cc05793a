"""Choose a threshold for each region's probability, on the cross-validated predictions of one model.

    networks of the winner, again --quantised probabilities, slab by slab--> counts by threshold --best per region-->
    label maps with it --kept only if the region's Dice rises and no other falls--> thresholds, label maps

Each region has a sigmoid of its own, and its Dice is not always best at one half. Quantised probabilities (in steps of
the sweep) are stored on disk, one byte a voxel, until the sweep ends; an interrupted run resumes with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import blosc2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from autoseg.imaging.arrays.cropping import crop_slices
from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.datasets.cases import choose_orientation
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.volume import orient_array
from autoseg.inference.restoring.restore import restore_labels
from autoseg.inference.sinks.quantized import open_quantized, quantized_file
from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.progress import Progress, no_progress
from autoseg.records.case import PreprocessedCase
from autoseg.records.dataset import LabelEncoding, indices_after_painting, label_values
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import read_record, write_record
from autoseg.records.partial_labels import is_looked_for
from autoseg.records.plan import hash_of
from autoseg.records.selection import Names, ThresholdSweep
from autoseg.records.workspace import EVALUATION_NAME
from autoseg.selection.validation_run import (
    PredictCase,
    ValidatedFold,
    ValidationRun,
    predict_each,
    weights_origin,
    write_validation_maps,
)
from autoseg.text import format_score

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))
"""Thresholds that are tried: 0.1, 0.15, ..., 0.9."""
HALF_INDEX = THRESHOLDS.index(0.5)
MIN_GAIN = 0.001
"""Smallest rise of a region's mean Dice that counts: the best of 17 thresholds is slightly ahead by chance alone."""
QUANTIZED_ENDING = ".b2nd"
SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class TunedThresholds:
    """Thresholds that help, and the predictions with them."""

    thresholds: dict[str, float]
    """Thresholds by region; empty: one half is best for all."""
    folds: tuple[ValidatedFold, ...]
    """Folds whose label maps follow these thresholds."""
    reasons: tuple[str, ...]
    """One sentence per region."""


@dataclass(frozen=True)
class QuantizedCase:
    """One validation case: quantised probabilities on disk, the reference compressed in memory."""

    name: str
    fold: str
    quantized: Path
    """File of the quantised probabilities."""
    reference: blosc2.NDArray
    """Label indices of the whole image, (Z, Y, X) in the plan's order of axes."""
    encoding: LabelEncoding
    annotated: tuple[str, ...] | None = None
    """Regions that were looked for; None: all."""

    def dice_by_threshold(self) -> NDArray[np.float64]:
        """Dice (thresholds, regions) from counts of each region's own probabilities.

        It is NaN where both are empty, and for regions that were not looked for.
        """
        quantized, record = open_quantized(self.quantized)
        reference = self.reference[:]
        counted = reference != len(self.encoding.values)  # without ignored voxels, if there are any
        box = crop_slices(record)
        dice = np.full((len(THRESHOLDS), len(self.encoding.heads)), np.nan)
        for region, head in enumerate(self.encoding.heads):
            if not is_looked_for(head.name, self.annotated):
                continue
            is_region = np.isin(reference, head.indices)
            own, inside = quantized[region][counted[box]], is_region[box][counted[box]]
            right, wrong = (np.bincount(own[mask], minlength=len(THRESHOLDS) + 1) for mask in (inside, ~inside))
            exceeding = [np.cumsum(counts[::-1])[::-1][1:] for counts in (right, wrong)]  # above each threshold
            total = exceeding[0] + exceeding[1] + np.count_nonzero(is_region & counted)
            np.divide(2 * exceeding[0], total, out=dice[:, region], where=total > 0)
        return dice

    def decide(self, thresholds: Mapping[str, float]) -> tuple[NDArray[np.unsignedinteger], PreprocessedCase]:
        """Label indices of the whole image in the plan's order of axes, one region in memory at a time."""
        quantized, record = open_quantized(self.quantized)
        labels = np.zeros(record.original_shape, dtype=np.min_scalar_type(len(self.encoding.values)))
        inside = labels[crop_slices(record)]
        painted = np.array(indices_after_painting(self.encoding), dtype=labels.dtype)
        for region, head in enumerate(self.encoding.heads):
            mask = quantized[region] > THRESHOLDS.index(thresholds.get(head.name, 0.5))
            inside[mask] = painted[region][inside[mask]]
        return labels, record

    def score(self, thresholds: Mapping[str, float]) -> CaseScores:
        """Scores of the label map that these thresholds give."""
        labels = self.decide(thresholds)[0]
        scores = score_case(self.name, labels, self.reference[:], label_values(self.encoding))
        return keep_annotated(scores, self.annotated)


def tune_thresholds(
    run: ValidationRun, names: Names, folds: Sequence[ValidatedFold], progress: Progress = no_progress
) -> TunedThresholds:
    """Choose the regions for which a threshold other than one half helps.

    Regions are tried in the order in which they are written, each on top of the thresholds accepted before. The best
    threshold of a region by the counts of its own probabilities is accepted only if, in label maps written with it,
    the region's mean Dice rises by MIN_GAIN or more and no other region's falls.

    Args:
        run: Context of the run; its plan has regions, and its workspace the preprocessed cases.
        names: Names of one configuration, or of two whose probabilities are averaged.
        folds: All validated folds of the model.
        progress: Called after every case that had to be predicted.

    Returns:
        Thresholds, and the folds predicted with them; the given folds when no threshold helps.

    Raises:
        UsageError: If the preprocessed data of a case, or label maps of a cascade's previous step are missing.
        ImageFileError: If an image or reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.
    """
    folders = {fold.fold: run.workspace.thresholds(names, fold.fold) for fold in folds}
    sweep = _begin(run, names, folds, list(folders.values()))
    if not sweep.finished:
        cases = _predict_quantized(run, names, folds, folders, progress)
        sweep = _sweep(run, cases, sweep)
        if sweep.thresholds:
            _write_maps(run, cases, sweep.thresholds, folders)
        write_record(sweep, next(iter(folders.values())) / SWEEP_FILE)
    for folder in folders.values():
        for path in folder.glob(f"*{QUANTIZED_ENDING}"):
            path.unlink()
    kept = [_with_maps_of(fold, folders[fold.fold]) for fold in folds] if sweep.thresholds else folds
    return TunedThresholds(dict(sweep.thresholds), tuple(kept), sweep.reasons)


def _begin(run: ValidationRun, names: Names, folds: Sequence[ValidatedFold], folders: Sequence[Path]) -> ThresholdSweep:
    """Sweep that an earlier run with the same weights finished or began; else a new one in empty folders."""
    origins = [weights_origin(run, names, fold.fold, fold.cases) for fold in folds]
    begun = ThresholdSweep(origin=hash_of([origins, THRESHOLDS, MIN_GAIN]), finished=False)
    path = folders[0] / SWEEP_FILE
    if path.exists() and (found := read_record(ThresholdSweep, path)).origin == begun.origin:
        return found
    path.unlink(missing_ok=True)  # first, so that files left by an interruption here do not count
    for folder in folders:
        for old in folder.glob("*"):
            old.unlink()
    write_record(begun, path)
    return begun


def _predict_quantized(
    run: ValidationRun,
    names: Names,
    folds: Sequence[ValidatedFold],
    folders: Mapping[str, Path],
    progress: Progress,
) -> list[QuantizedCase]:
    """All cases; those without stored probabilities are predicted first."""
    paths = [(fold, case, folders[fold.fold] / (case + QUANTIZED_ENDING)) for fold in folds for case in fold.cases]
    pending = {path for _, _, path in paths if not path.exists()}
    done = 0
    for fold in folds:
        own = [(case, path.absolute()) for owner, case, path in paths if owner is fold and path in pending]
        for _ in predict_each(run, fold.fold, names, own, partial(_write_quantized, names=names)):
            done += 1
            progress(done, len(pending))
    tasks = (delayed(_open_case)(run, fold.fold, case, path) for fold, case, path in paths)
    return list(Parallel(n_jobs=run.workers, prefer="threads")(tasks))


def _write_quantized(run: ValidationRun, predict: PredictCase, item: tuple[str, Path], *, names: Names) -> None:
    """Write a case's probabilities, each as the number of thresholds that it exceeds."""
    case, path = item
    logits = [predict(name, case) for name in names]
    with quantized_file(path, logits[0].record, THRESHOLDS, len(run.plan.encoding.heads)) as sink:
        restore_labels(logits, run.plan.encoding, [sink])


def _open_case(run: ValidationRun, fold: str, case: str, quantized: Path) -> QuantizedCase:
    files = run.files(case)
    label_map = read_reference(run.dataset_folder, files, run.plan.encoding)
    indices = encode_label_map(label_map.array[0], run.plan.encoding)
    working = orient_array(indices, choose_orientation(label_map.grid, run.plan.orientation))
    reference = np.ascontiguousarray(working.transpose(run.plan.transpose), dtype=np.int16)
    return QuantizedCase(case, fold, quantized, blosc2.asarray(reference), run.plan.encoding, files.annotated)


def _sweep(run: ValidationRun, cases: Sequence[QuantizedCase], begun: ThresholdSweep) -> ThresholdSweep:
    """Find the best threshold of each region by counts, then accept it if scores of label maps agree that it helps."""
    encoding = run.plan.encoding
    names = [head.name for head in encoding.heads]
    pool = Parallel(n_jobs=run.workers, prefer="threads")
    dice = np.array(list(pool(delayed(case.dice_by_threshold)() for case in cases)))
    best = [_best_threshold(dice[:, :, region]) for region in range(len(names))]

    def evaluate(thresholds: Mapping[str, float]) -> Evaluation:
        return summarize(list(pool(delayed(case.score)(thresholds) for case in cases)), names)

    accepted: dict[str, float] = {}
    before, reasons = evaluate(accepted), []
    for region, threshold in zip(names, best, strict=True):
        if threshold == THRESHOLDS[HALF_INDEX]:
            reasons.append(f"Threshold of {region}: one half is best of {THRESHOLDS[0]} to {THRESHOLDS[-1]}.")
            continue
        after = evaluate({**accepted, region: threshold})
        is_accepted, figures = _judge(before, after, region)
        answer = "yes" if is_accepted else "no"
        reasons.append(f"Threshold of {region} {threshold:g} instead of one half: {answer}, {figures}.")
        if is_accepted:
            accepted[region], before = threshold, after
    return begun.model_copy(update={"finished": True, "thresholds": accepted, "reasons": tuple(reasons)})


def _best_threshold(dice: NDArray[np.float64]) -> float:
    """Threshold with the largest mean over cases with a score, of Dice (cases, thresholds).

    Among equals it is the one nearest to one half.
    """
    known = ~np.isnan(dice)
    counts = known.sum(axis=0)
    means = np.divide(np.where(known, dice, 0).sum(axis=0), counts, out=np.zeros(len(counts)), where=counts > 0)
    order = sorted(range(len(means)), key=lambda position: (-means[position], abs(position - HALF_INDEX)))
    return THRESHOLDS[order[0]]


def _judge(before: Evaluation, after: Evaluation, region: str) -> tuple[bool, str]:
    old, new = before.labels[region].dice, after.labels[region].dice
    fallen = [
        name
        for name, label in after.labels.items()
        if label.dice is not None and (earlier := before.labels[name].dice) is not None and label.dice < earlier
    ]
    figures = f"Dice {format_score(old)} before, {format_score(new)} after"
    if fallen:
        figures += f"; lower for {', '.join(fallen)}"
    return old is not None and new is not None and new - old >= MIN_GAIN and not fallen, figures


def _write_maps(
    run: ValidationRun, cases: Sequence[QuantizedCase], thresholds: Mapping[str, float], folders: Mapping[str, Path]
) -> None:
    """Write label maps on the images' own grids, and their scores by fold."""
    names = [head.name for head in run.plan.encoding.heads]
    for case in cases:
        labels, record = case.decide(thresholds)
        working = labels.transpose(np.argsort(record.transpose))
        write_validation_maps(run, case.name, [(working, folders[case.fold])])
    for fold, folder in folders.items():
        scores = [case.score(thresholds) for case in cases if case.fold == fold]
        write_record(summarize(scores, names), folder / EVALUATION_NAME)


def _with_maps_of(fold: ValidatedFold, folder: Path) -> ValidatedFold:
    return ValidatedFold(fold.fold, folder, read_record(Evaluation, folder / EVALUATION_NAME))
