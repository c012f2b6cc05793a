"""The lists that a run over files keeps beside its label maps: failures, statistics, colours."""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from autoseg.errors import ImageFileError
from autoseg.inference.inputs import InputCase
from autoseg.inference.label_colors import name_label_values, write_color_tables
from autoseg.inference.label_statistics import STATISTICS_FILE, StatisticsTable, open_statistics
from autoseg.inference.outputs import OutputFile, PredictionFailure, write_failures
from autoseg.inference.parts import Part, part_files
from autoseg.inference.side_files import CaseOutcome, OutputChoices, measure_written
from autoseg.records.files import Progress
from autoseg.records.plan import Plan

logger = logging.getLogger("autoseg.predict")

FAILURES_FILE = "failures.json"


class RunLists:
    """Takes what came of each case, in any order; see `keep_lists`."""

    def __init__(self, outputs: Sequence[OutputFile], table: StatisticsTable | None, progress: Progress | None) -> None:
        self._outputs = outputs
        self._table = table
        self._progress = progress
        self._done: dict[int, str] = {}

    def add(self, index: int, outcome: CaseOutcome) -> None:
        """Log a case's notes, and its error if it failed; take in its statistics.

        Args:
            index: Of the case among those of the run.
            outcome: What came of it.
        """
        case = self._outputs[index].item.case
        for note in outcome.notes:
            logger.warning("%s: %s", case, note)
        if outcome.error:
            logger.error("%s: %s", case, outcome.error)
        elif self._table is not None:
            self._table.add(outcome.statistics)
        self._done[index] = outcome.error
        if self._progress is not None:
            self._progress(len(self._done), len(self._outputs))

    @property
    def done(self) -> list[InputCase]:
        """Cases that were taken in."""
        return [self._outputs[index].item for index in sorted(self._done)]

    @property
    def failures(self) -> list[PredictionFailure]:
        """Those that failed, in the order of the cases."""
        return [
            PredictionFailure(item.case, tuple(str(path) for path in item.images), error)
            for item, error in ((self._outputs[index].item, error) for index, error in sorted(self._done.items()))
            if error
        ]


@contextmanager
def keep_lists(
    outputs: Sequence[OutputFile],
    kept: Collection[int],
    plan: Plan,
    choices: OutputChoices,
    part: Part,
    progress: Progress | None = None,
) -> Iterator[RunLists]:
    """Keep the lists of a run; when it is stopped, they tell what was done until then.

    Of a case that is kept, statistics are taken from the table that is there or, in a run over all cases, from tables
    of earlier parts; else its label map is measured. A run over all cases takes its cases out of the parts' lists of
    failures.

    Args:
        outputs: All cases of this part of the run, at least one.
        kept: Indices of those whose label maps are there and stay.
        plan: Of the model.
        choices: What is wanted.
        part: Of the run.
        progress: Called after every case.

    Raises:
        UsageError: If a file that is to be written holds something else.
    """
    folder = outputs[0].target.parent
    if choices.colors:
        write_color_tables(name_label_values(plan.encoding), plan.encoding.values[0], folder)
    path = folder / part.file_name(STATISTICS_FILE)
    with open_statistics(path, plan.channel_names) if choices.statistics else nullcontext() as table:
        lists = RunLists(outputs, table, progress)
        try:
            if table is not None and part.is_whole:
                table.take_over([outputs[index].item.case for index in kept], part_files(folder, STATISTICS_FILE))
            for index in kept:
                lists.add(index, _outcome_of_kept(outputs[index], table, plan))
            yield lists
        finally:
            write_failures(lists.failures, lists.done, folder / part.file_name(FAILURES_FILE))
            for path in part_files(folder, FAILURES_FILE) if part.is_whole else ():
                write_failures([], lists.done, path)


def _outcome_of_kept(file: OutputFile, table: StatisticsTable | None, plan: Plan) -> CaseOutcome:
    if table is None or file.item.case in table:
        return CaseOutcome()
    try:
        return CaseOutcome(statistics=measure_written(file, plan))
    except (ImageFileError, OSError, ValueError) as error:
        return CaseOutcome(notes=(f"no statistics of the label map that is there: {error}",))
