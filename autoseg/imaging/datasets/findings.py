"""What checking the files of a dataset found: facts and faults of its cases, and which of the cases count.

Tested in tests/stages/test_describe.py and tests/imaging/datasets/test_checks.py.
"""

from collections.abc import Iterable, Sequence

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.checks import CaseFacts
from autoseg.imaging.datasets.labels.part_names import has_parts, name_parts
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.records.dataset import Fault
from autoseg.text import format_count


class Findings:
    """Facts of all cases, and the faults that were found so far; each check reports some more."""

    def __init__(self, found: FoundDataset, facts: Sequence[CaseFacts], remedy: str, *, skip_faulty: bool) -> None:
        self.found = found
        self.facts = facts
        """The facts of every case, as its files were read."""
        self.remedy = remedy
        """How the files are read instead, as the end of an error; empty where they are read as they should be."""
        self.skip_faulty = skip_faulty
        self.faults = [*found.faults, *(fault for case in facts for fault in case.faults)]
        self._named = facts

    @property
    def counted(self) -> list[CaseFacts]:
        """The cases that describe the dataset: all, or only those without errors when the others are left out.

        Where label maps consist of parts, they have values once `name_parts` was called.
        """
        faulty = {fault.case for fault in self.faults if fault.severity == "error"} if self.skip_faulty else set()
        return [case for case in self._named if case.files.case not in faulty]

    def report(self, faults: Iterable[Fault]) -> None:
        """Add what a check found."""
        self.faults += faults

    def name_parts(self) -> None:
        """Give values to the labels of parts, if label maps consist of parts."""
        if has_parts(self.found):
            self.found, self._named = name_parts(self.found, self.counted)

    def take_sound_cases(self) -> tuple[list[CaseFacts], list[Fault]]:
        """Cases without errors, and warnings.

        Raises:
            DatasetError: If there are errors that may not be skipped; lists all faults.
        """
        errors = [fault for fault in self.faults if fault.severity == "error"]
        faulty = {fault.case for fault in errors}
        kept = [case for case in self.facts if case.files.case not in faulty]
        if not kept:
            raise self.refusal(f"Every case has errors.{self.remedy}")
        if "" in faulty:
            raise self.refusal("Fix the errors that concern the whole dataset first.")
        if errors and not self.skip_faulty:
            left_out = format_count(len(faulty), "faulty case")
            raise self.refusal(f"Fix these files, or leave out the {left_out} with --skip-faulty.{self.remedy}")
        warnings = [
            fault
            if fault.severity == "warning"
            else fault.model_copy(update={"severity": "warning", "what": f"left out: {fault.what}"})
            for fault in self.faults
        ]
        return kept, warnings

    def refusal(self, ending: str) -> DatasetError:
        """The error that lists all faults."""
        return DatasetError(fault_table(self.found, self.faults, ending))


def fault_table(found: FoundDataset, faults: Sequence[Fault], ending: str) -> str:
    """All faults, errors first, in columns: severity, case, file, message; without faults the ending alone."""
    if not faults:
        return f"{found.folder}: {ending}"
    ordered = sorted(faults, key=lambda fault: fault.severity != "error")
    rows = [(fault.severity, fault.case or "-", fault.file or "-", fault.what) for fault in ordered]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join((*map(str.ljust, row[:3], widths), row[3])) for row in rows]
    errors = sum(fault.severity == "error" for fault in faults)
    counted = f"{format_count(errors, 'error')} and {format_count(len(faults) - errors, 'warning')}"
    return "\n".join([f"{found.folder}: {counted} in this dataset", *lines, ending])
