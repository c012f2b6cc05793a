"""The record `provenance.json` of a run over files: what made the label maps, and how each case went.

Tested in tests/inference/files/test_run_provenance.py.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import RecordError
from autoseg.imaging.formats.dicom.addresses import read_address
from autoseg.inference.files.outputs import CaseOutcome, OutputFile
from autoseg.inference.files.run_lists import RunLists, part_files
from autoseg.provenance import PROVENANCE_NAME
from autoseg.records.files import hash_file, read_record, write_record
from autoseg.records.part import Part
from autoseg.records.provenance import CaseProvenance, InputFile, Provenance

logger = logging.getLogger("autoseg.predict")

DECIMALS = 3
"""Decimals of the seconds in the record."""


@contextmanager
def keep_provenance(lists: RunLists, made_by: Provenance, folder: Path, part: Part) -> Iterator[None]:
    """Write the record of a run when it ends; if it is stopped, with the cases that were done until then.

    A kept case has the entry that the run that predicted it wrote, if that is there.

    Args:
        lists: Outcomes of the cases.
        made_by: The record without cases.
        folder: Folder of the label maps.
        part: Part of the run that this process predicts.

    Raises:
        OSError: If the file cannot be written.
    """
    earlier = _earlier_cases(folder, part)
    try:
        yield
    finally:
        cases = tuple(
            earlier.get(file.item.case, _describe_kept(file)) if outcome is None else _describe_case(file, outcome)
            for file, outcome in lists.outcomes
        )
        write_record(made_by.model_copy(update={"cases": cases}), folder / part.file_name(PROVENANCE_NAME))


def hash_inputs(file: OutputFile) -> tuple[InputFile, ...]:
    """The images of a case with their hashes.

    Raises:
        OSError: If one of them cannot be read any more.
    """
    return tuple(InputFile(path=str(path), sha256=digest) for path, digest in hash_images(file.item.images).items())


def hash_images(images: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of each image by its path.

    Raises:
        OSError: If one of them cannot be read.
    """
    return {path: _hash_image(read_address(path).path) for path in images}


def _hash_image(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the names and hashes of all its files."""
    if not path.is_dir():
        return hash_file(path)
    found = sorted(file for file in path.rglob("*") if file.is_file())
    lines = (f"{hash_file(file)}  {file.relative_to(path).as_posix()}\n" for file in found)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _earlier_cases(folder: Path, part: Part) -> dict[str, CaseProvenance]:
    """Entries of earlier runs by case; a whole run also takes those of the parts."""
    paths = [*(part_files(folder, PROVENANCE_NAME) if part.is_whole else ()), folder / part.file_name(PROVENANCE_NAME)]
    found: dict[str, CaseProvenance] = {}
    for path in paths:
        if not path.exists():
            continue
        try:
            found |= {entry.case: entry for entry in read_record(Provenance, path).cases if entry.state != "failed"}
        except RecordError as error:
            logger.warning("entries of an earlier run are lost: %s", error)
    return {case: entry.model_copy(update={"state": "kept"}) for case, entry in found.items()}


def _describe_kept(file: OutputFile) -> CaseProvenance:
    paths = tuple(InputFile(path=str(path)) for path in file.item.images)
    return CaseProvenance(case=file.item.case, state="kept", inputs=paths, output=file.target.name)


def _describe_case(file: OutputFile, outcome: CaseOutcome) -> CaseProvenance:
    described = _describe_kept(file)
    if outcome.error:
        return described.model_copy(update={"state": "failed", "output": "", "error": outcome.error})
    return CaseProvenance(
        case=described.case,
        state="predicted",
        inputs=outcome.inputs or described.inputs,
        output=described.output,
        warnings=outcome.notes,
        seconds={step: round(seconds, DECIMALS) for step, seconds in outcome.seconds.items()},
    )
