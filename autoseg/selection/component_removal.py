"""Scores of all cases after components are removed, and the volume below which removing them helps most.

Everything follows from tables of components (`selection.component_removal`); no label map is touched.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import floor, log10, prod, sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from autoseg.metrics.summary import mean_of_known
from autoseg.records.case import Spacing
from autoseg.records.evaluation import LabelScores
from autoseg.records.partial_labels import is_looked_for
from autoseg.selection.verdicts import Means, Verdict, judge_step

ROUND_NUMBERS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Volumes that are tried, times a power of ten: few, so that a sweep cannot fit a volume to single components."""

ROUNDING = 1e-9
"""Relative tolerance for the rounding of sums that are equal in exact arithmetic."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ComponentTable:
    """Components of one map by size: S different sizes, H labels or regions."""

    sizes: Counts
    """(S,), voxels of a component, ignored ones too; ascending."""
    predicted: Counts
    """(S, H), voxels of all components of this size that are predicted as the label and not ignored."""
    shared: Counts
    """(S, H), those of them that are the label in the reference."""

    def count_below(self, smallest: int) -> int:
        """Number of sizes of fewer than `smallest` voxels."""
        return int(np.searchsorted(self.sizes, smallest))

    def below(self, smallest: int) -> tuple[Counts, Counts]:
        """Sums (H,) of `predicted` and `shared` over the components of fewer than `smallest` voxels."""
        end = self.count_below(smallest)
        return self.predicted[:end].sum(axis=0), self.shared[:end].sum(axis=0)


def no_components(num_labels: int) -> ComponentTable:
    """Table of a map without any component."""
    return ComponentTable(*(np.zeros(shape, dtype=np.int64) for shape in (0, (0, num_labels), (0, num_labels))))


def tabulate_components(
    components: NDArray[np.integer],
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    labels: Sequence[Sequence[int]],
    ignore: int | None,
) -> ComponentTable:
    """Count, for components of each size, what they contribute to the scores of labels.

    Args:
        components: Number of each voxel's component from 1 on, 0 outside, (Z, Y, X).
        prediction: Label indices, (Z, Y, X); of every component, all voxels belong to it.
        reference: Label indices, (Z, Y, X).
        labels: Indices that make up each label or region, H of them.
        ignore: Index of ignored voxels in the reference; None: no voxel is ignored.

    Returns:
        The table; memory beyond it is that of one plane and of the different triples of component, predicted and
        reference index.
    """
    numbers, predicted, expected, counts = _count_triples(components, prediction, reference)
    component_sizes = np.bincount(numbers, weights=counts).astype(np.int64)[1:]  # exact below 2**53
    sizes, positions = np.unique(component_sizes, return_inverse=True)
    rows = positions[numbers - 1]
    is_counted = expected != ignore if ignore is not None else np.ones(len(expected), dtype=bool)
    columns = []
    for indices in labels:
        is_predicted = is_counted & np.isin(predicted, indices)
        both = is_predicted & np.isin(expected, indices)
        columns.append(
            [np.bincount(rows, weights=counts * chosen, minlength=len(sizes)) for chosen in (is_predicted, both)]
        )
    of_labels = np.array(columns, dtype=np.int64).reshape(len(labels), 2, len(sizes))
    return ComponentTable(sizes, of_labels[:, 0].T, of_labels[:, 1].T)


@dataclass(frozen=True)
class CaseComponents:
    """Components of one union of labels in one case, with the scores of the labels that share voxels with it."""

    table: ComponentTable
    scores: Mapping[str, LabelScores]
    """Scores of the labels or regions that share voxels with the union, in the order of the table's columns."""
    spacing: Spacing
    """Lengths in mm whose product is the volume of a voxel."""
    annotated: tuple[str, ...] | None = None
    """Labels that were looked for in the case; None: all."""

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return prod(self.spacing)


@dataclass(frozen=True)
class Removal:
    """Scores of all cases without their small components."""

    dice: Mapping[str, tuple[float | None, ...]]
    """Dice of each case by label; labels that share no voxel with the union are not listed."""
    is_change: bool
    """Whether there is anything to remove."""
    is_loss: bool
    """Whether a structure that was found, at least in part, is missed altogether afterwards."""

    @property
    def means(self) -> Means:
        """Mean Dice over cases by label."""
        return {name: mean_of_known(of_label) for name, of_label in self.dice.items()}


@dataclass(frozen=True)
class Sweep:
    """Volumes tried on one union of labels."""

    tried: tuple[float, ...]
    """mm³, ascending; only those that remove something different."""
    volume_mm3: float | None
    """Chosen volume; None: no volume is accepted."""
    best_mm3: float | None
    """Volume with the highest score, among the accepted ones if there are any; None: nothing was tried."""
    verdict: Verdict | None
    """Verdict on the chosen volume, else on the best one; None when nothing was tried."""
    is_loss: bool = False
    """Whether the best volume is refused because a structure would be missed altogether."""


def remove_below(cases: Sequence[CaseComponents], smallest: Sequence[int]) -> Removal:
    """Score all cases without their components of fewer than `smallest` voxels, given by case."""
    dice: dict[str, list[float | None]] = {name: [] for case in cases[:1] for name in case.scores}
    is_change = is_loss = False
    for case, voxels in zip(cases, smallest, strict=True):
        is_change |= case.table.count_below(voxels) > 0
        for (name, scores), predicted, shared in zip(case.scores.items(), *case.table.below(voxels), strict=True):
            if not is_looked_for(name, case.annotated):
                dice[name].append(None)
                continue
            true_positives = scores.true_positives - int(shared)
            voxels_of_both = scores.predicted_voxels - int(predicted) + scores.reference_voxels
            dice[name].append(2 * true_positives / voxels_of_both if voxels_of_both else None)
            is_loss |= true_positives == 0 < scores.true_positives
    return Removal({name: tuple(of_label) for name, of_label in dice.items()}, is_change, is_loss)


def sweep_volumes(
    cases: Sequence[CaseComponents],
    before: Means,
    own_label: str | None,
    smallest_kept: Callable[[float, Spacing], int],
) -> Sweep:
    """Find the volume below which components are best removed.

    Round numbers (1, 1.5, 2, 3, 5, 7 times powers of ten) are tried, from the smallest component of any case to the
    first above the largest, but none above the smallest reference structure of any case (of `own_label`, or any label),
    and none that removes the same as a smaller one. A volume is acceptable if `judge_step` accepts it and no structure
    that was found is lost altogether. Among these the smallest is chosen that is as good as the best within noise: the
    mean difference over cases is not above its standard error, as for example when it is due to a single case.

    Args:
        cases: All cases.
        before: Mean Dice of all labels.
        own_label: Label whose score counts; None: the mean over labels.
        smallest_kept: Gives the voxels of the smallest component that is kept, for a volume in mm³ and a spacing.
    """
    tried: dict[float, Removal] = {}
    seen: set[tuple[int, ...]] = set()
    for volume in _candidates(cases, own_label):
        smallest = [smallest_kept(volume, case.spacing) for case in cases]
        effect = tuple(case.table.count_below(voxels) for case, voxels in zip(cases, smallest, strict=True))
        if any(effect) and effect not in seen:
            seen.add(effect)
            tried[volume] = remove_below(cases, smallest)
    verdicts = {volume: judge_step(before, {**before, **removal.means}, own_label) for volume, removal in tried.items()}
    accepted = [volume for volume in tried if verdicts[volume].is_accepted and not tried[volume].is_loss]
    if not tried:
        return Sweep((), None, None, None)
    best = max(accepted or tried, key=lambda volume: _score(verdicts[volume]))  # the first, smallest, of equals
    if not accepted:
        return Sweep(tuple(tried), None, best, verdicts[best], tried[best].is_loss)
    values = {volume: _values(tried[volume], own_label) for volume in accepted}
    chosen = next(volume for volume in accepted if _is_noise(values[best], values[volume]))
    return Sweep(tuple(tried), chosen, best, verdicts[chosen])


def describe_sweep(sweep: Sweep) -> str:
    """Volumes that were tried, and the chosen or best one."""
    first, last = sweep.tried[0], sweep.tried[-1]
    span = f"{len(sweep.tried)} volumes from {first:g} to {last:g} mm³ tried"
    if len(sweep.tried) == 1:
        span = "the only volume that makes a difference"
    if sweep.volume_mm3 is None:
        loss = "a structure that was found would be lost, " if sweep.is_loss else ""
        return f"{loss}below {sweep.best_mm3:g} mm³ ({span})"
    noise = "" if sweep.best_mm3 == sweep.volume_mm3 else f", {sweep.best_mm3:g} is better by no more than noise"
    return f"below {sweep.volume_mm3:g} mm³ ({span}{noise})"


def _candidates(cases: Sequence[CaseComponents], own_label: str | None) -> Iterator[float]:
    """Round volumes, mm³, ascending."""
    found = [case for case in cases if len(case.table.sizes)]
    sizes = [float(size) * case.voxel_mm3 for case in found for size in case.table.sizes[[0, -1]]]
    structures = [
        scores.reference_voxels * case.voxel_mm3
        for case in cases
        for name, scores in case.scores.items()
        if own_label in (None, name) and scores.reference_voxels > 0
    ]
    if not sizes or not structures:
        return
    for exponent in count(floor(log10(min(sizes)))):
        for number in ROUND_NUMBERS:
            volume = float(f"{number}e{exponent}")
            if volume > min(structures):
                return
            yield volume
            if volume > max(sizes):
                return


def _score(verdict: Verdict) -> float:
    return -1.0 if verdict.after is None else verdict.after


def _values(removal: Removal, own_label: str | None) -> list[float]:
    """Mean Dice of each case; a label that is empty in both maps counts as 1."""
    labels = list(removal.dice.values()) if own_label is None else [removal.dice[own_label]]
    return [fmean(1.0 if dice is None else dice for dice in of_case) for of_case in zip(*labels, strict=True)]


def _is_noise(best: Sequence[float], other: Sequence[float]) -> bool:
    differences = [high - low for high, low in zip(best, other, strict=True)]
    error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    return fmean(differences) <= error * (1 + ROUNDING)


def _count_triples(
    components: NDArray[np.integer], prediction: NDArray[np.integer], reference: NDArray[np.integer]
) -> tuple[Counts, Counts, Counts, Counts]:
    """Different (component, predicted index, reference index) and their voxels; component 0 is left out."""
    radix = 1 + int(max(prediction.max(initial=0), reference.max(initial=0)))
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for numbers, predicted, expected in zip(components, prediction, reference, strict=True):
        inside = numbers != 0
        joint = (numbers[inside].astype(np.int64) * radix + predicted[inside]) * radix + expected[inside]
        found, times = np.unique(joint, return_counts=True)
        keys.append(found)
        counts.append(times)
    triples, positions = np.unique(np.concatenate(keys), return_inverse=True)
    totals = np.bincount(positions, weights=np.concatenate(counts), minlength=len(triples)).astype(np.int64)
    pairs, reference_index = np.divmod(triples, radix)
    component, predicted_index = np.divmod(pairs, radix)
    return component, predicted_index, reference_index, totals
