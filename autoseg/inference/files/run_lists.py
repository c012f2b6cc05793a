"""The lists that a run over files writes beside its label maps: failures, statistics, instances, colours.

Tested in tests/records/test_part.py, tests/stages/test_predict_files.py and tests/cli/test_predict.py.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.errors import ImageFileError, RecordError
from autoseg.imaging.formats.reading import read_label_map
from autoseg.inference.files.input_cases import InputCase, read_input
from autoseg.inference.files.label_maps import read_named_prediction
from autoseg.inference.files.outputs import CaseOutcome, OutputFile
from autoseg.inference.files.tables import (
    INSTANCES_FILE,
    STATISTICS_FILE,
    CaseTable,
    LabelStatistics,
    instance_rows,
    instance_table,
    measure_labels,
    statistics_rows,
    statistics_table,
    written_at_the_end,
)
from autoseg.inference.models.label_colors import name_label_values, value_names, write_color_tables
from autoseg.inference.predictor.instances import measure_instances
from autoseg.progress import Progress, no_progress
from autoseg.records.files import read_json, write_text
from autoseg.records.part import Part
from autoseg.records.plan import Plan
from autoseg.records.prediction import INSTANCES, Instance, OutputChoices

logger = logging.getLogger("autoseg.predict")

FAILURES_FILE = "failures.json"


@dataclass(frozen=True)
class PredictionFailure:
    """A case without a label map, and the reason."""

    case: str
    files: tuple[str, ...]
    error: str


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
        self._done: dict[int, CaseOutcome | None] = {}

    def add(self, index: int, outcome: CaseOutcome, *, is_kept: bool = False) -> None:
        """Log a case's notes, and its error if it failed; add its rows to the tables.

        Args:
            index: Position of the case in the run.
            outcome: Notes, error and measurements of the case.
            is_kept: Whether its label map existed and stays.
        """
        case = self._outputs[index].item.case
        for note in outcome.notes:
            logger.warning("%s: %s", case, note)
        if outcome.error:
            logger.error("%s: %s", case, outcome.error)
        else:
            self._tables.put(case, outcome)
        # measurements are in the tables, and would add up here
        self._done[index] = None if is_kept else replace(outcome, statistics=(), instances=None)
        self._progress(len(self._done), len(self._outputs))

    @property
    def done(self) -> list[InputCase]:
        """Cases whose outcomes are known, in the order of the run."""
        return [self._outputs[index].item for index in sorted(self._done)]

    @property
    def failures(self) -> list[PredictionFailure]:
        """Cases that failed, in the order of the run."""
        return [
            PredictionFailure(file.item.case, tuple(str(path) for path in file.item.images), outcome.error)
            for file, outcome in self.outcomes
            if outcome is not None and outcome.error
        ]

    @property
    def outcomes(self) -> list[tuple[OutputFile, CaseOutcome | None]]:
        """Cases whose outcomes are known, without measurements, in the order of the run; None: it was kept."""
        return [(self._outputs[index], outcome) for index, outcome in sorted(self._done.items())]


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
                lists.add(index, _outcome_of_kept(outputs[index], tables, plan), is_kept=True)
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


def part_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The lists of this name that parts of a run left in a folder, in order of name.

    Examples:
        `part_files(folder, "failures.json")` finds `failures_part_1_of_2.json` and `failures_part_2_of_2.json`.
    """
    stem, dot, ending = name.partition(".")
    pattern = re.compile(re.escape(f"{stem}_part_") + r"\d+_of_\d+" + re.escape(dot + ending))
    return tuple(sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name)))


def write_failures(failures: Sequence[PredictionFailure], cases: Sequence[InputCase], path: Path) -> None:
    """Bring the JSON array of failed cases up to date; remove the file when none is left.

    Args:
        failures: Failures of this run.
        cases: All cases of this run; entries of other cases stay.
        path: The file; left as it is if something else wrote it.
    """
    earlier = _read_failures(path)
    if earlier is None:
        logger.warning("%s: left as it is, because it is not a list of failed cases", path)
        return
    names = {item.case for item in cases}
    entries = [entry for entry in earlier if entry["case"] not in names] + [asdict(failure) for failure in failures]
    if entries:
        write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", path)
    else:
        path.unlink(missing_ok=True)


def _read_failures(path: Path) -> list[dict[str, object]] | None:
    """Entries of an earlier run, empty without a file; None if the file holds something else."""
    if not path.exists():
        return []
    try:
        entries = read_json(path)
    except RecordError:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "case" in entry for entry in entries):
        return None
    return entries


def measure_written(file: OutputFile, plan: Plan) -> tuple[LabelStatistics, ...]:
    """Statistics of a label map that an earlier run wrote.

    Raises:
        ImageFileError: If image or label map cannot be read.
        ValueError: If they differ in shape, or values of the label map are not whole numbers.
    """
    volume, labels = read_input(file.item), read_named_prediction(file.target, plan.labels, None).array[0]
    if labels.shape != volume.grid.shape or labels.dtype.kind not in "ui":
        raise ValueError(f"{file.target}: is not a label map of {file.item.images[0]}; predict this case again")
    return measure_labels(file.item.case, labels, volume, plan.labels, file.item.absent_channels)


def measure_written_instances(file: OutputFile, plan: Plan) -> tuple[Instance, ...]:
    """Instances of a map that an earlier run wrote; their mean probabilities are not known any more.

    Raises:
        ImageFileError: If the label map or the map of instances cannot be read.
        ValueError: If they do not belong together.
    """
    path = file.side_map(INSTANCES)
    volume, labels = read_label_map(path), read_named_prediction(file.target, plan.labels, None).array[0]
    ids = volume.array[0]
    if labels.shape != ids.shape or labels.dtype.kind not in "ui" or ids.dtype.kind not in "ui":
        raise ValueError(f"{path}: is not a map of instances of {file.target}; predict this case again")
    owners = np.zeros(int(ids.max(initial=0)) + 1, dtype=labels.dtype)
    for plane, values in zip(ids, labels, strict=True):
        owners[plane] = values
    names = value_names(plan.encoding)
    unknown = sorted(set(owners[1:].tolist()) - set(names))
    if unknown:
        raise ValueError(f"{path}: instances lie on the values {unknown} of {file.target}; predict this case again")
    is_flat = volume.template.file_dimensions == 2
    return measure_instances(ids, owners[1:].tolist(), names, volume.grid, None, is_flat=is_flat)
