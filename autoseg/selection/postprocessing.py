"""Choose post-processing steps on the cross-validated label maps of one model.

    keep the largest component (all foreground, each label) -> remove small ones (each label, all foreground)
    -> fill holes (each label)

A step is kept only if its score rises and no label's falls; steps that are kept become part of the selection.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TypeVar

from joblib import Parallel, delayed

from autoseg.cluster.dask_workers import DaskCluster, Workers
from autoseg.errors import WorkerError
from autoseg.metrics.summary import mean_of_known, summarize
from autoseg.postprocessing import indices_of, smallest_kept_voxels
from autoseg.processes import WorkerDeath
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import LabelEncoding, foreground_names, indices_by_label
from autoseg.records.evaluation import Evaluation
from autoseg.records.selection import FillHoles, KeepLargestComponent, PostprocessingStep, RemoveSmallComponents
from autoseg.selection.case_maps import CaseMapFiles, CaseMaps, load_case_maps
from autoseg.selection.component_removal import (
    CaseComponents,
    ComponentTable,
    describe_sweep,
    remove_below,
    sweep_volumes,
)
from autoseg.selection.verdicts import Means, StepReport, Verdict, describe_steps, judge_step

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TunedPostprocessing:
    """Steps that help, with the scores before and after."""

    steps: tuple[PostprocessingStep, ...]
    """Accepted steps, in the order in which they are applied."""
    evaluation: Evaluation
    """Every metric after all steps."""
    reasons: tuple[str, ...]
    """One sentence for each step that was tried; steps that would change nothing share one."""
    before: Evaluation
    """Scores before any step: Dice and the other metrics that follow from counts."""


def tune_postprocessing(
    maps: Sequence[CaseMapFiles],
    encoding: LabelEncoding,
    *,
    workers: Workers = 1,
    progress: Progress = no_progress,
    tries_steps: bool = True,
) -> TunedPostprocessing:
    """Try steps one after the other, each on top of those that were accepted before.

    1. Keep only the largest component: of the union of all foreground, then label by label (region by region) in
       declaration order.
    2. Remove components below a volume: label by label, then of all foreground; the volume is chosen by
       `selection.component_removal.sweep_volumes`.
    3. Fill holes, label by label.

    A step is accepted only if its own score rises (all foreground: the mean foreground Dice; one label: that label's
    mean Dice) and no label's mean falls. Dice of steps that remove components follows from tables of components; what
    is accepted is then carried out and scored in full.

    Args:
        maps: Label maps of every validation case of the model.
        encoding: Labels and regions of the model.
        workers: Cases worked on at the same time, in threads. Or a cluster, whose workers read the files and are given
            the packed label maps for each step.
        progress: Called after each case that was read, and after each step that was tried.
        tries_steps: Whether any step is tried; else label maps are scored as they are.

    Raises:
        ImageFileError: If a label map cannot be read, has values that no label declares, or does not lie on its
            reference's grid.

    References:
        nnU-Net v2 (Isensee et al. 2021), post-processing: keeping the largest component, in this order. Differs: a step
        for one label must not harm another, which it can when regions overlap.
    """
    names = foreground_names(encoding)
    alone = [(name,) for name in names]
    all_foreground = [tuple(names)] if len(names) > 1 else []
    total = len(maps) + 3 * len(alone) + 2 * len(all_foreground)
    search = _Search(encoding, workers, _counter(progress, total))
    search.load(maps)
    before = search.overlap()
    if not tries_steps:
        return TunedPostprocessing((), search.evaluate(), (), before)
    search.run("Keep only the largest component", search.keep_largest, [*all_foreground, *alone])
    search.run("Remove small components", search.remove_small, [*alone, *all_foreground])
    search.run("Fill holes", search.fill_holes, alone)
    return TunedPostprocessing(tuple(search.steps), search.evaluate(), tuple(search.reasons), before)


def _counter(progress: Progress, total: int) -> Callable[[], None]:
    """Function to call after every case and step that is done."""
    done = count(1)
    return lambda: progress(next(done), total)


class _Search:
    """Label maps of all cases after the steps accepted so far, with their scores."""

    def __init__(self, encoding: LabelEncoding, workers: Workers, progress: Callable[[], None]) -> None:
        self.encoding, self.workers, self.progress = encoding, workers, progress
        self.names = foreground_names(encoding)
        self.case_ids: list[str] = []
        self.cases: list[CaseMaps] = []
        self.means: Means = {}
        """Mean Dice by label."""
        self.tables: dict[tuple[int, ...], list[ComponentTable]] = {}
        """Components of the current maps, one table for each case, by the indices of a union."""
        self.steps: list[PostprocessingStep] = []
        self.reasons: list[str] = []

    def load(self, maps: Sequence[CaseMapFiles]) -> None:
        """Read and score all cases."""
        self.case_ids = [files.case for files in maps]
        if isinstance(self.workers, DaskCluster):
            maps = [files.absolute() for files in maps]
        for case in self._on_each(partial(load_case_maps, encoding=self.encoding), maps):
            self.cases.append(case)
            self.progress()
        self.means = self._means_of(self.cases)

    def overlap(self) -> Evaluation:
        """Dice and the other metrics that follow from counts, of the current maps."""
        return summarize([case.scores for case in self.cases], self.names)

    def evaluate(self) -> Evaluation:
        """Every metric of the current maps."""
        measured = self._on_each(CaseMaps.measure, self.cases)
        return summarize(list(measured), self.names)

    def run(
        self, kind: str, attempt: Callable[[tuple[str, ...]], StepReport], unions: Sequence[tuple[str, ...]]
    ) -> None:
        """Try one kind of step on unions of labels, one after the other, and describe the results."""
        reports = []
        for labels in unions:
            reports.append(attempt(labels))
            self.progress()
        self.reasons += describe_steps(kind, reports)

    def keep_largest(self, labels: tuple[str, ...]) -> StepReport:
        """Try to keep only the largest component of a union of labels."""
        cases = self._components_of(labels)
        largest = [int(case.table.sizes.max(initial=0)) for case in cases]
        removal = remove_below(cases, largest)
        if not removal.is_change:
            return StepReport(self._subject(labels), None)
        expected = judge_step(self.means, {**self.means, **removal.means}, self._own(labels))
        step = KeepLargestComponent(labels=labels)
        return StepReport(self._subject(labels), self._carry_out(step, labels) if expected.is_accepted else expected)

    def remove_small(self, labels: tuple[str, ...]) -> StepReport:
        """Try to remove components of a union of labels below the best of several volumes."""
        cases = self._components_of(labels)
        sweep = sweep_volumes(cases, self.means, self._own(labels), smallest_kept_voxels)
        if not sweep.tried:
            return StepReport(self._subject(labels), None)
        verdict = sweep.verdict
        if sweep.volume_mm3 is not None:
            verdict = self._carry_out(RemoveSmallComponents(labels=labels, min_volume_mm3=sweep.volume_mm3), labels)
        return StepReport(self._subject(labels), verdict, describe_sweep(sweep))

    def fill_holes(self, labels: tuple[str, ...]) -> StepReport:
        """Try to fill the holes of one label."""
        return StepReport(labels[0], self._carry_out(FillHoles(label=labels[0]), labels))

    def _carry_out(self, step: PostprocessingStep, labels: tuple[str, ...]) -> Verdict | None:
        """Apply a step to all maps and keep it if their scores say that it helps; None when no map changes."""
        changed = list(self._on_each(partial(CaseMaps.apply, step=step), self.cases))
        if all(new.prediction == old.prediction for new, old in zip(changed, self.cases, strict=True)):
            return None
        means = self._means_of(changed)
        verdict = judge_step(self.means, means, self._own(labels))
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
            work = partial(CaseMaps.tabulate, indices=indices, labels=list(sharing.values()))
            self.tables[indices] = list(self._on_each(work, self.cases))
        return [
            CaseComponents(
                table, {name: case.scores.labels[name] for name in sharing}, case.volume_spacing, case.annotated
            )
            for case, table in zip(self.cases, self.tables[indices], strict=True)
        ]

    def _on_each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of the items, each as soon as it is there."""
        if isinstance(self.workers, DaskCluster):
            yield from self._on_cluster(self.workers, work, items)
            return
        pool = Parallel(n_jobs=self.workers, prefer="threads", return_as="generator")
        yield from pool(delayed(work)(item) for item in items)

    def _on_cluster(
        self, cluster: DaskCluster, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        for number, result in enumerate(cluster.map(work, items, task="post-processing")):
            if isinstance(result, WorkerDeath):
                raise WorkerError(f"{self.case_ids[number]}: {result.describe()}")
            yield result

    def _means_of(self, cases: Sequence[CaseMaps]) -> Means:
        return {name: mean_of_known(case.scores.labels[name].dice for case in cases) for name in self.names}

    def _own(self, labels: tuple[str, ...]) -> str | None:
        """The label whose score has to rise; None for all foreground."""
        return labels[0] if len(labels) == 1 else None

    def _subject(self, labels: tuple[str, ...]) -> str:
        return labels[0] if len(labels) == 1 else "all foreground"
