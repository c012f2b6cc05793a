"""Records as strict JSON files, and the one way in which autoseg replaces a file.

Every file is written under a temporary name in its own folder and then renamed, so a reader never sees half a
file and a killed run never leaves one behind under the final name.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.errors import RecordError

Progress = Callable[[int, int], None]
"""Called with (done, total) while long work goes on."""


class Record(BaseModel):
    """A frozen, strictly validated piece of data; unknown keys, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


RecordType = TypeVar("RecordType", bound=Record)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    The temporary name keeps the file's ending, because image libraries choose the format by it. The content is
    flushed to disk before the rename (write, fsync, rename), so the new file survives a power cut.

    Args:
        path: The final file; its folder is made when missing.

    Yields:
        The path to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(record: Record, path: Path) -> None:
    """Write a record as indented JSON, atomically."""
    write_text(record.model_dump_json(indent=1) + "\n", path)


def read_record(record_type: type[RecordType], path: Path) -> RecordType:
    """Read a record and check every field.

    Raises:
        RecordError: If the file is missing, is not JSON, or a field is wrong; the message names the file, the
            path of each wrong field, and what was found there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read as a JSON record: {error}") from error
    try:
        return record_type.model_validate_json(text)
    except ValidationError as error:
        faults = "\n".join(f"  {_field_path(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise RecordError(
            f"{path}: not a valid {record_type.__name__}:\n{faults}\n"
            "Mend the fields named above, or delete the file and run the step that writes it again."
        ) from error


def _field_path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"
