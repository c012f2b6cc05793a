"""Predict validation cases by pairs of configurations, so that `select` can compare pairs with single configurations.

    fold k of every configuration: one pass each per case --mean probabilities, slab by slab--> a label map per pair

Each case is predicted by the networks that did not train on it. Only label maps are kept, in models/ensembles; existing
ones that were made from the same weights are not made again, so an interrupted run resumes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.restoring.restore import restore_combinations
from autoseg.progress import Progress, no_progress
from autoseg.records.selection import Names
from autoseg.selection.validation_run import (
    FoldMaps,
    PredictCase,
    ValidatedFold,
    ValidationRun,
    predict_each,
    write_validation_maps,
)


def validate_pairs(
    run: ValidationRun, validated: Mapping[str, Sequence[ValidatedFold]], progress: Progress = no_progress
) -> dict[Names, list[ValidatedFold]]:
    """Predict and score every pair of configurations on the validation cases that both have in the same fold.

    Args:
        run: Context of the run; its workspace has the preprocessed cases of every configuration.
        validated: Folds by configuration.
        progress: Called after every case that had to be predicted.

    Returns:
        Folds by pair, in the order of `validated`; pairs without a common case are left out.

    Raises:
        UsageError: If the preprocessed data of a case is missing, or label maps of a cascade's previous step are
            missing or outdated.
        ImageFileError: If an image or reference cannot be read.
        PredictionError: If weights are damaged or belong to another plan.

    References:
        nnU-Net v2 (Isensee et al. 2021): all unordered pairs, mean of probabilities. Differs: probabilities are
        averaged while they stream and never stored.
    """
    wanted = _find_pair_folds(run, validated)
    for pair_fold in wanted:
        pair_fold.remove_outdated()
    pending = {fold: _pending_cases(wanted, fold) for fold in dict.fromkeys(pair_fold.fold for pair_fold in wanted)}
    total = sum(map(len, pending.values()))
    done = 0
    found: dict[Names, list[ValidatedFold]] = {pair_fold.names: [] for pair_fold in wanted}
    for fold, cases in pending.items():
        for _ in _predict_fold(run, fold, cases):
            done += 1
            progress(done, total)
        for pair_fold in wanted:
            if pair_fold.fold == fold:
                found[pair_fold.names].append(pair_fold.evaluate())
    return found


def _find_pair_folds(run: ValidationRun, validated: Mapping[str, Sequence[ValidatedFold]]) -> list[FoldMaps]:
    found = []
    for first, second in combinations(validated, 2):
        others = {other.fold: set(other.cases) for other in validated[second]}
        for validated_fold in validated[first]:
            fold, common = validated_fold.fold, others.get(validated_fold.fold, set())
            cases = tuple(case for case in validated_fold.cases if case in common)
            if cases:
                pair = (first, second)
                found.append(FoldMaps(run, pair, fold, cases, run.workspace.validation(pair, fold)))
    return found


def _pending_cases(wanted: Sequence[FoldMaps], fold: str) -> dict[str, list[FoldMaps]]:
    """Pairs that have no label map of a case yet, by case."""
    pending: dict[str, list[FoldMaps]] = {}
    for pair_fold in wanted:
        if pair_fold.fold == fold:
            present = find_label_maps(pair_fold.folder)
            for case in pair_fold.cases:
                if case not in present:
                    pending.setdefault(case, []).append(pair_fold)
    return pending


def _predict_fold(run: ValidationRun, fold: str, cases: Mapping[str, Sequence[FoldMaps]]) -> Iterator[None]:
    """Write the label maps of all pending cases; every configuration runs once for each."""
    names = list(dict.fromkeys(name for pairs in cases.values() for pair_fold in pairs for name in pair_fold.names))
    items = [(case, [(item.names, item.folder.absolute()) for item in pairs]) for case, pairs in cases.items()]
    return predict_each(run, fold, names, items, _write_pairs)


def _write_pairs(run: ValidationRun, predict: PredictCase, item: tuple[str, Sequence[tuple[Names, Path]]]) -> None:
    """Write a case's label maps of several pairs, each into its folder."""
    case, pairs = item
    needed = list(dict.fromkeys(name for pair, _ in pairs for name in pair))
    positions = [tuple(needed.index(name) for name in pair) for pair, _ in pairs]
    labels = restore_combinations([predict(name, case) for name in needed], positions, run.plan.encoding)
    write_validation_maps(run, case, [(own, folder) for own, (_, folder) in zip(labels, pairs, strict=True)])
