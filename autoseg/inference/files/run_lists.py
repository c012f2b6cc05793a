"""The lists that a run over files writes beside its label maps: failures, statistics, instances, colours.

Tested in tests/inference/files/test_parts.py and tests/stages/test_predict.py.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import ImageFileError
from autoseg.inference.files.case_table import CaseTable, written_at_the_end
from autoseg.inference.files.inputs import InputCase
from autoseg.inference.files.instance_table import INSTANCES_FILE, instance_rows, instance_table
from autoseg.inference.files.label_statistics import STATISTICS_FILE, statistics_rows, statistics_table
from autoseg.inference.files.outputs import OutputFile, PredictionFailure, write_failures
from autoseg.inference.files.parts import Part, part_files
from autoseg.inference.files.side_files import CaseOutcome, measure_written, measure_written_instances
from autoseg.inference.models.label_colors import name_label_values, write_color_tables
from autoseg.progress import Progress, no_progress
from autoseg.records.output_choices import OutputChoices
from autoseg.records.plan import Plan

logger = logging.getLogger("autoseg.predict")

FAILURES_FILE = "failures.json"


@dataclass(frozen=True)
class _Tables:
    """The tables that were asked for."""

    statistics: CaseTable | None = None
    instances: CaseTable | None = None

    def put(self, case: str, outcome: CaseOutcome) -> None:
        """Add the measurements of one case."""
        if self.statistics is not None and outcome.statistics:
            self.statistics.put(case, statistics_rows(outcome.statistics))
        if self.instances is not None and outcome.instances is not None:
            self.instances.put(case, instance_rows(case, outcome.instances))


class RunLists:
    """Collects the outcomes of cases, in any order; see `keep_lists`."""

    def __init__(self, outputs: Sequence[OutputFile], tables: _Tables, progress: Progress) -> None:
        self._outputs = outputs
        self._tables = tables
        self._progress = progress
        self._done: dict[int, str] = {}

    def add(self, index: int, outcome: CaseOutcome) -> None:
        """Log a case's notes, and its error if it failed; add its rows to the tables.

        Args:
            index: Position of the case in the run.
            outcome: Notes, error and measurements of the case.
        """
        case = self._outputs[index].item.case
        for note in outcome.notes:
            logger.warning("%s: %s", case, note)
        if outcome.error:
            logger.error("%s: %s", case, outcome.error)
        else:
            self._tables.put(case, outcome)
        self._done[index] = outcome.error
        self._progress(len(self._done), len(self._outputs))

    @property
    def done(self) -> list[InputCase]:
        """Cases whose outcomes are known, in the order of the run."""
        return [self._outputs[index].item for index in sorted(self._done)]

    @property
    def failures(self) -> list[PredictionFailure]:
        """Cases that failed, in the order of the run."""
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
    progress: Progress = no_progress,
) -> Iterator[RunLists]:
    """Keep the lists of a run; if it is stopped, they hold what was done until then.

    The rows of a kept case are taken from the existing table or, in a run over all cases, from the tables of earlier
    parts; otherwise its maps are measured. A run over all cases removes its cases from the parts' lists of failures.

    Args:
        outputs: All cases of this part of the run, at least one.
        kept: Positions of the cases whose label maps exist and stay.
        plan: Plan of the model.
        choices: Outputs besides label maps.
        part: Part of the run that this process predicts.
        progress: Called after every case.

    Raises:
        UsageError: If a file to be written exists and holds something else.
    """
    folder = outputs[0].target.parent
    if choices.colors:
        write_color_tables(name_label_values(plan.encoding), plan.encoding.values[0], folder)
    with _open_tables(folder, plan, choices, part) as tables:
        lists = RunLists(outputs, tables, progress)
        try:
            cases = [outputs[index].item.case for index in kept]
            for table, name in ((tables.statistics, STATISTICS_FILE), (tables.instances, INSTANCES_FILE)):
                if table is not None and part.is_whole:
                    table.take_over(cases, part_files(folder, name))
            for index in kept:
                lists.add(index, _outcome_of_kept(outputs[index], tables, plan))
            yield lists
        finally:
            write_failures(lists.failures, lists.done, folder / part.file_name(FAILURES_FILE))
            for path in part_files(folder, FAILURES_FILE) if part.is_whole else ():
                write_failures([], lists.done, path)


@contextmanager
def _open_tables(folder: Path, plan: Plan, choices: OutputChoices, part: Part) -> Iterator[_Tables]:
    with ExitStack() as stack:
        statistics = instances = None
        if choices.statistics:
            table = statistics_table(folder / part.file_name(STATISTICS_FILE), plan.channel_names)
            statistics = stack.enter_context(written_at_the_end(table))
        if choices.instances:
            table = instance_table(folder / part.file_name(INSTANCES_FILE))
            instances = stack.enter_context(written_at_the_end(table))
        yield _Tables(statistics, instances)


def _outcome_of_kept(file: OutputFile, tables: _Tables, plan: Plan) -> CaseOutcome:
    outcome = CaseOutcome()
    try:
        if tables.statistics is not None and file.item.case not in tables.statistics:
            outcome = replace(outcome, statistics=measure_written(file, plan))
        if tables.instances is not None and file.item.case not in tables.instances:
            outcome = replace(outcome, instances=measure_written_instances(file, plan))
    except (ImageFileError, OSError, ValueError) as error:
        what = "statistics" if tables.statistics is not None and not outcome.statistics else "rows of instances"
        return replace(outcome, notes=(f"no {what} of the existing label map: {error}",))
    return outcome
