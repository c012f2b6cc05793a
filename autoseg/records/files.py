"""Records as strict JSON files, and atomic replacement of files.

Every file is written under a temporary name in its own folder and then renamed, so readers never see an incomplete
file, and an interrupted run leaves none under the final name.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from os.path import relpath
from pathlib import Path, PurePath
from typing import ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from autoseg import DISTRIBUTION
from autoseg.errors import AutosegError, RecordError, WriteError
from autoseg.records.temporaries import name_temporary, sweep_temporaries


class Record(BaseModel):
    """A frozen, strictly validated piece of data; unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    advice: ClassVar[str] = "Fix the fields listed above, or delete the file and run the command that writes it again."
    """What to do about a file with faults; another sentence for records that people write."""


RecordType = TypeVar("RecordType", bound=Record)

FieldPath = tuple[int | str, ...]
"""Names and indices that lead from a record to one of its fields."""

FieldFault = tuple[FieldPath, str]
"""A field, and its fault: what was found and what was expected."""

MAX_VALUE = 60
"""Largest number of characters of a wrong value that a message shows."""


SPECIAL_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Words for what is not a regular file, by the kind in its mode."""

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of the system for a full disk and for a user's limit on it."""

MIN_FREE_BYTES = 2**20
"""Free space in bytes below which an error of a library that wrote a file is blamed on the disk."""


class FieldFaultsError(ValueError):
    """Fields of a record contradict each other, although each one alone is valid."""

    def __init__(self, faults: tuple[FieldFault, ...]) -> None:
        super().__init__("; ".join(f"{_dotted(path)}: {what}" for path, what in faults))
        self.faults = faults


def refuse_faults(faults: Iterable[FieldFault]) -> None:
    """Raise the faults that a record's own check found.

    Raises:
        FieldFaultsError: If there is any fault. pydantic turns it into a ValidationError, and `read_record` into a line
            per fault, with the path from the top of the file.
    """
    found = tuple(faults)
    if found:
        raise FieldFaultsError(found)


def relative_path(path: PurePath, folder: PurePath) -> str:
    """A path as files record it: relative to a folder, with POSIX separators, so that both can be moved together.

    Args:
        path: Absolute path.
        folder: Absolute path of the folder.

    Returns:
        The relative path; on Windows the absolute one, with POSIX separators, when it is on another drive.
    """
    try:
        return type(path)(relpath(path, folder)).as_posix()
    except ValueError:
        return path.as_posix()


def real_path(path: Path) -> Path:
    """The path without symbolic links; a link that leads back to itself stays in it, where `Path.resolve` raises."""
    return Path(os.path.realpath(path))


def describe_special(path: Path) -> str:
    """What a path leads to that is not a regular file, such as `a folder` or `a FIFO`; empty for files and for nothing.

    Reading a FIFO may wait for ever, and a device may never end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISREG(mode) else SPECIAL_KINDS.get(stat.S_IFMT(mode), "not a regular file")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: If it cannot be read, or is no regular file.
    """
    if kind := describe_special(path):
        raise OSError(f"{path}: is {kind}, expected a regular file")
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    The temporary name keeps the file's ending, because image libraries choose the format by it. The content is
    flushed to disk before the rename (write, fsync, rename), so the new file survives a power cut.

    Args:
        path: The final file; its folder is created when missing.

    Yields:
        The temporary path to write to.

    Raises:
        WriteError: If whatever went wrong inside the context went wrong because the disk is full; libraries do not
            always say so.
    """
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = name_temporary(path)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Say in one sentence that a file could not be written because the disk is full.

    Raises:
        WriteError: Instead of whatever a library raised.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, AutosegError) or not _is_disk_full(error, path.parent):
            raise
        raise WriteError(
            f"{path}: cannot be written, because the disk is full ({error}). Free some space on it and run the "
            "same command again; what was finished stays."
        ) from error


def _is_disk_full(error: Exception, folder: Path) -> bool:
    """Whether an error while a file was written in a folder comes from a full disk."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK_ERRORS
    return os.strerror(errno.ENOSPC) in str(error) or shutil.disk_usage(folder).free < MIN_FREE_BYTES


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `target`; what is not renamed from it inside the context is removed.

    Args:
        target: Folder or file that the content is meant for; its parent is created when missing.

    Yields:
        The temporary folder.
    """
    folder = name_temporary(target)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Give an empty folder among the system's temporary files, removed afterwards; so are those of killed processes.

    Args:
        name: Ending of its name, for whoever looks there.

    Yields:
        The temporary folder.
    """
    place = Path(tempfile.gettempdir())
    sweep_temporaries(place)
    with staged_folder(place / name) as folder:
        yield folder


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def holds_record(path: Path, record: Record) -> bool:
    """Whether a file holds this record; one that is missing, of another version or damaged does not."""
    try:
        return read_record(type(record), path) == record
    except RecordError:
        return False


def write_record(record: Record, path: Path) -> None:
    """Write a record as indented JSON, atomically."""
    write_text(record.model_dump_json(indent=1) + "\n", path)


def read_json(path: Path) -> object:
    """Read a JSON file that autoseg did not write; whoever calls checks what is in it.

    Raises:
        RecordError: If the file is missing or is no JSON; if it nests more than 200 levels deep, has a whole number of
            more than 4,300 digits, or text that is no Unicode.
    """
    _refuse_special(path)
    try:
        return from_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as JSON: {error}") from error


def read_record(record_type: type[RecordType], path: Path) -> RecordType:
    """Read a record and check every field.

    Raises:
        RecordError: If the file is missing, is not JSON, or a field is wrong; the message names the file, the path of
            each wrong field, and its value.
    """
    return _validate(record_type, _read_text(path), str(path))


def read_records(record_type: type[RecordType], path: Path) -> list[RecordType]:
    """Read a file with one record a line, such as history.jsonl, and check every field; empty lines are left out.

    Raises:
        RecordError: As `read_record`; the message names the line too.
    """
    lines = _read_text(path).splitlines()
    return [_validate(record_type, line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line]


def _refuse_special(path: Path) -> None:
    if kind := describe_special(path):
        raise RecordError(f"{path}: cannot be read as JSON: it is {kind}, expected a regular file")


def _read_text(path: Path) -> str:
    _refuse_special(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read as a JSON record: {error}") from error


def _validate(record_type: type[RecordType], text: str, where: str) -> RecordType:
    try:
        return record_type.model_validate_json(text)
    except ValidationError as error:
        _refuse_newer(record_type, text, where)
        faults = "\n".join(f"  {path}: {what}" for path, what in _describe_faults(error, text))
        raise RecordError(f"{where}: not a valid {record_type.__name__}:\n{faults}\n{record_type.advice}") from error


def _refuse_newer(record_type: type[Record], text: str, where: str) -> None:
    """Name the versions of a record that a newer autoseg wrote: its fields are not wrong, only unknown here."""
    known = record_type.model_fields.get("schema_version")
    try:
        content = from_json(text)
    except ValueError:
        return
    found = content.get("schema_version") if isinstance(content, dict) else None
    newest = 0 if known is None else max(get_args(known.annotation))
    if isinstance(found, int) and known is not None and found > newest:
        raise RecordError(
            f"{where}: written by a newer version of autoseg: its schema_version is {found}, this version "
            f"({version(DISTRIBUTION)}) reads up to {newest}. Install the autoseg that wrote it, or a newer one."
        )


def _describe_faults(error: ValidationError, text: str) -> Iterator[tuple[str, str]]:
    """Dotted path and message of every fault; the alternatives of one field are joined."""
    try:
        content = from_json(text)
    except ValueError:
        content = None
    sentences: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        path = _existing_path(fault["loc"], content, missing=fault["type"] == "missing")
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, FieldFaultsError):
            for inner, what in cause.faults:
                sentences.setdefault(_dotted((*path, *inner)), []).append(what)
            continue
        sentences.setdefault(_dotted(path), []).append(fault["msg"])
        if path and fault["type"] != "missing":
            found[_dotted(path)] = f", found {_shorten(fault['input'])}"
    for dotted, messages in sentences.items():
        yield dotted, " or: ".join(dict.fromkeys(messages)) + found.get(dotted, "")


def _existing_path(location: FieldPath, content: object, *, missing: bool) -> FieldPath:
    """The location without pydantic's names of alternatives, which do not exist in the file."""
    path = []
    for depth, part in enumerate(location):
        try:
            content = _child(content, part)
        except LookupError:
            if not missing or depth < len(location) - 1:
                continue
        path.append(part)
    return tuple(path)


def _child(content: object, part: int | str) -> object:
    if isinstance(content, list) and isinstance(part, int):
        return content[part]
    if isinstance(content, dict):
        return content[part]
    raise LookupError(part)


def _shorten(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}..."


def _dotted(path: FieldPath) -> str:
    return ".".join(str(part) for part in path) or "(whole file)"
