"""Find out which post-processing helps, on the cross-validated label maps of one model.

    keep the largest component (all foreground, each label) -> remove small ones (each label, all foreground)
    -> fill holes (each label)

A step is kept only if the score rises and no label's falls; what helps is written into the selection.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

import blosc2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import ImageFileError
from autoseg.imaging.geometry import grid_difference, measurable_spacing
from autoseg.imaging.labels import encode_label_map
from autoseg.imaging.reading import Volume, read_label_map
from autoseg.metrics.component_overlap import ComponentTable, no_components, tabulate_components
from autoseg.metrics.component_removal import CaseComponents, Means, Verdict, judge, remove_below, sweep_volumes
from autoseg.metrics.overlap import BACKGROUND, IGNORE, score_case
from autoseg.metrics.step_reports import StepReport, describe_steps, describe_sweep
from autoseg.metrics.summary import mean_of_known, summarize
from autoseg.postprocessing import apply_postprocessing, find_components, indices_of, smallest_kept_voxels
from autoseg.records.case import Spacing
from autoseg.records.dataset import LabelEncoding, LabelValues, indices_by_label
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import Progress
from autoseg.records.postprocessing import FillHoles, KeepLargestComponent, PostprocessingStep, RemoveSmallComponents

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CaseMapFiles:
    """Label maps of one validation case."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class TunedPostprocessing:
    """What was found to help."""

    steps: tuple[PostprocessingStep, ...]
    """In the order in which they were accepted."""
    evaluation: Evaluation
    """After all steps."""
    reasons: tuple[str, ...]
    """A sentence per step tried; steps that would change nothing share one."""
    before: Evaluation
    """Before any step."""


@dataclass(frozen=True)
class _CaseMaps:
    """One validation case in memory: label indices (Z, Y, X), compressed, cut to the surroundings of all foreground."""

    case: str
    prediction: blosc2.NDArray
    reference: blosc2.NDArray
    spacing: Spacing
    """mm, of the arrays' axes; its product is a voxel's volume."""
    scores: CaseScores


def tune_postprocessing(
    maps: Sequence[CaseMapFiles], encoding: LabelEncoding, *, workers: int = 1, progress: Progress | None = None
) -> TunedPostprocessing:
    """Find out which steps help, each on top of those that were accepted before.

    1. Keep only the largest component: of the union of all foreground, then label by label (region by region) in
       declaration order.
    2. Remove components below a volume: label by label, then of all foreground; the volume is chosen by
       `metrics.component_removal.sweep_volumes`.
    3. Fill holes, label by label.

    A step is accepted only if its own score rises (all foreground: the mean foreground Dice; one label: that label's
    mean Dice) and no label's mean falls. Dice of steps that remove components follows from tables of components; what
    is accepted is then carried out and scored in full.

    Args:
        maps: Every validation case of the model.
        encoding: Of the model.
        workers: Cases worked on at the same time, in threads.
        progress: Called after each case that was read, and after each step that was tried.

    Raises:
        ImageFileError: If a label map cannot be read, has values that no label declares, or does not lie on its
            reference's grid.

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing: the first of these and its order. Differs: a step for one
        label must not harm another, which it can when regions overlap.
    """
    names = foreground_names(encoding)
    alone = [(name,) for name in names]
    all_foreground = [tuple(names)] if len(names) > 1 else []
    total = len(maps) + 3 * len(alone) + 2 * len(all_foreground)
    search = _Search(encoding, workers, _counter(progress, total))
    search.load(maps)
    before = search.evaluate()
    search.run("Keep only the largest component", search.keep_largest, [*all_foreground, *alone])
    search.run("Remove small components", search.remove_small, [*alone, *all_foreground])
    search.run("Fill holes", search.fill_holes, alone)
    return TunedPostprocessing(tuple(search.steps), search.evaluate(), tuple(search.reasons), before)


def _counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Called once for every piece of work that is done."""
    done = count(1)
    return lambda: None if progress is None else progress(next(done), total)


def foreground_names(encoding: LabelEncoding) -> list[str]:
    """Labels or regions that are scored, in declaration order."""
    return [name for name in indices_by_label(encoding) if name != BACKGROUND]


class _Search:
    """The maps of all cases after the steps accepted so far, and what was found."""

    def __init__(self, encoding: LabelEncoding, workers: int, progress: Callable[[], None]) -> None:
        self.encoding, self.workers, self.progress = encoding, workers, progress
        self.names = foreground_names(encoding)
        self.cases: list[_CaseMaps] = []
        self.means: Means = {}
        """Dice by label."""
        self.tables: dict[tuple[int, ...], list[ComponentTable]] = {}
        """By indices of a union, by case, of the maps as they are now."""
        self.steps: list[PostprocessingStep] = []
        self.reasons: list[str] = []

    def load(self, maps: Sequence[CaseMapFiles]) -> None:
        """Read and score all cases."""
        for case in self._on_each(partial(_load_case, encoding=self.encoding), maps):
            self.cases.append(case)
            self.progress()
        self.means = self._means_of(self.cases)

    def evaluate(self) -> Evaluation:
        """The maps as they are now."""
        return summarize([case.scores for case in self.cases], self.names)

    def run(
        self, kind: str, attempt: Callable[[tuple[str, ...]], StepReport], unions: Sequence[tuple[str, ...]]
    ) -> None:
        """Try one kind of step on unions of labels, one after the other, and say what came of it."""
        reports = []
        for labels in unions:
            reports.append(attempt(labels))
            self.progress()
        self.reasons += describe_steps(kind, reports)

    def keep_largest(self, labels: tuple[str, ...]) -> StepReport:
        """Of a union of labels."""
        cases = self._components_of(labels)
        largest = [int(case.table.sizes.max(initial=0)) for case in cases]
        removal = remove_below(cases, largest)
        if not removal.is_change:
            return StepReport(self._subject(labels), None)
        expected = judge(self.means, {**self.means, **removal.means}, self._own(labels))
        step = KeepLargestComponent(labels=labels)
        return StepReport(self._subject(labels), self._carry_out(step, labels) if expected.is_accepted else expected)

    def remove_small(self, labels: tuple[str, ...]) -> StepReport:
        """Of a union of labels, below the best of several volumes."""
        cases = self._components_of(labels)
        sweep = sweep_volumes(cases, self.means, self._own(labels), smallest_kept_voxels)
        if not sweep.tried:
            return StepReport(self._subject(labels), None)
        verdict = sweep.verdict
        if sweep.volume_mm3 is not None:
            verdict = self._carry_out(RemoveSmallComponents(labels=labels, min_volume_mm3=sweep.volume_mm3), labels)
        return StepReport(self._subject(labels), verdict, describe_sweep(sweep))

    def fill_holes(self, labels: tuple[str, ...]) -> StepReport:
        """Of one label."""
        return StepReport(labels[0], self._carry_out(FillHoles(label=labels[0]), labels))

    def _carry_out(self, step: PostprocessingStep, labels: tuple[str, ...]) -> Verdict | None:
        """Apply a step to all maps and keep it if that helps; None when no map changes. The maps have the last word."""
        changed = list(self._on_each(partial(_apply_step, step=step, encoding=self.encoding), self.cases))
        if all(new is old for new, old in zip(changed, self.cases, strict=True)):
            return None
        means = self._means_of(changed)
        verdict = judge(self.means, means, self._own(labels))
        if verdict.is_accepted:
            self.steps.append(step)
            self.cases, self.means = changed, means
            touched = set(indices_of(labels, self.encoding))
            self.tables = {union: of for union, of in self.tables.items() if touched.isdisjoint(union)}
        return verdict

    def _components_of(self, labels: tuple[str, ...]) -> list[CaseComponents]:
        indices = indices_of(labels, self.encoding)
        every = indices_by_label(self.encoding)
        sharing = {name: every[name] for name in self.names if not set(every[name]).isdisjoint(indices)}
        if indices not in self.tables:
            work = partial(_tabulate, indices=indices, labels=list(sharing.values()), encoding=self.encoding)
            self.tables[indices] = list(self._on_each(work, self.cases))
        return [
            CaseComponents(table, {name: case.scores.labels[name] for name in sharing}, case.spacing)
            for case, table in zip(self.cases, self.tables[indices], strict=True)
        ]

    def _on_each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of the items, as they come."""
        pool = Parallel(n_jobs=self.workers, prefer="threads", return_as="generator")
        results: Iterator[Result] = pool(delayed(work)(item) for item in items)
        return results

    def _means_of(self, cases: Sequence[_CaseMaps]) -> Means:
        return {name: mean_of_known(case.scores.labels[name].dice for case in cases) for name in self.names}

    def _own(self, labels: tuple[str, ...]) -> str | None:
        """The label whose score has to rise; None for all foreground."""
        return labels[0] if len(labels) == 1 else None

    def _subject(self, labels: tuple[str, ...]) -> str:
        return labels[0] if len(labels) == 1 else "all foreground"


def _load_case(files: CaseMapFiles, encoding: LabelEncoding) -> _CaseMaps:
    prediction, reference = (read_label_map(path) for path in (files.prediction, files.reference))
    difference = grid_difference(prediction.grid, reference.grid)
    if difference is not None:
        raise ImageFileError(
            f"{files.prediction}: case {files.case} does not lie on the grid of its reference {files.reference}: "
            f"{difference}. Validate that fold again."
        )
    predicted, true = (_encode(volume, encoding) for volume in (prediction, reference))
    box = _surroundings((predicted != 0) | (true != 0))
    spacing = measurable_spacing(prediction.grid)
    return _measure(files.case, predicted[box], _compress(true[box]), spacing, encoding)


def _encode(volume: Volume, encoding: LabelEncoding) -> NDArray[np.int16]:
    try:
        return encode_label_map(volume.array[0], encoding)
    except ValueError as error:
        raise ImageFileError(f"{volume.path}: {error}") from error


def _surroundings(foreground: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box of the foreground and a voxel around it, so that nothing but the array's border touches the box's."""
    boxes = ndimage.find_objects(foreground.view(np.uint8))
    box = boxes[0] if boxes else (slice(0, 1),) * 3
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)


def _measure(
    case: str,
    prediction: NDArray[np.integer],
    reference: blosc2.NDArray,
    spacing: Spacing,
    encoding: LabelEncoding,
) -> _CaseMaps:
    labels: dict[str, LabelValues] = {**indices_by_label(encoding)}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    scores = score_case(case, prediction, reference[:], labels)
    return _CaseMaps(case, _compress(prediction), reference, spacing, scores)


def _compress(labels: NDArray[np.integer]) -> blosc2.NDArray:
    return blosc2.asarray(np.ascontiguousarray(labels))


def _apply_step(case: _CaseMaps, step: PostprocessingStep, encoding: LabelEncoding) -> _CaseMaps:
    """The case after a step; the same object when nothing changes."""
    before = case.prediction[:]
    after = apply_postprocessing(before, [step], encoding, case.spacing)
    if np.array_equal(before, after):
        return case
    return _measure(case.case, after, case.reference, case.spacing, encoding)


def _tabulate(
    case: _CaseMaps, indices: tuple[int, ...], labels: Sequence[tuple[int, ...]], encoding: LabelEncoding
) -> ComponentTable:
    """Components of a union, counted for the labels or regions that share voxels with it."""
    prediction = case.prediction[:]
    found = find_components(prediction, indices)
    if found is None:
        return no_components(len(labels))
    box, components = found
    ignore = None if encoding.ignore_value is None else len(encoding.values)
    return tabulate_components(components, prediction[box], case.reference[:][box], labels, ignore)
