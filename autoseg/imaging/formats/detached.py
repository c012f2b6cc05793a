"""Voxel files beside MetaImage and NRRD headers: which ones a header names, and which names are refused.

A header comes from somebody else. It may name files in its own folder or below, by a relative name, and nothing else:
neither an absolute path nor one with `..` leads anywhere. Symbolic links are followed wherever they lead, because only
the owner of a folder makes them (DataLad's annex consists of them), but they must end at a regular file.
"""

import glob
import os
import re
from pathlib import Path, PureWindowsPath

from autoseg.errors import ImageFileError

DETACHABLE_ENDINGS = (".mhd", ".mha", ".nhdr", ".nrrd")
"""Endings of files whose header may name other files: also those that usually hold their own voxels."""

_NRRD_ENDINGS = (".nhdr", ".nrrd")

_MAX_HEADER_BYTES = 2**20
"""Largest size of a header in text; a usual one has a few hundred bytes."""

_DATA_FILE_FIELD = re.compile(r"(?:ElementDataFile\s*[=:]|data ?file:)\s*(?P<value>.*)", re.IGNORECASE)
"""Field of a MetaImage or NRRD header that names the voxel file."""

_NUMBERED_FILES = re.compile(r"(?P<name>[^%]*%\d*d[^%]*?)(?:\s+-?\d+){0,4}")
"""Name pattern, first and last number, step; NRRD: also the number of axes in a file."""


def detached_data_files(path: Path) -> tuple[Path, ...]:
    """The voxel files that a MetaImage or NRRD header names; empty when the voxels follow in the same file.

    A numbered series (`slice%03d.raw 1 20 1`) gives all files on disk that fit its pattern.

    Raises:
        ImageFileError: If the header cannot be read, or names a file outside its folder.

    References:
        MetaIO, ElementDataFile; Teem's NRRD format, "data file".
    """
    lines = _header_lines(path)
    fields = ((index, match["value"]) for index, line in enumerate(lines) if (match := _data_file_field(line, path)))
    index, value = next(fields, (0, "LOCAL"))
    if value.upper() == "LOCAL":
        return ()
    if value.startswith("LIST"):
        return tuple(_inside(name, path) for name in lines[index + 1 :] if name)
    numbered = _NUMBERED_FILES.fullmatch(value)
    if numbered is None:
        return (_inside(value, path),)
    pattern = _inside(numbered["name"], path)
    return tuple(sorted(pattern.parent.glob(re.sub(r"%\d*d", "*", glob.escape(pattern.name)))))


def _header_lines(path: Path) -> list[str]:
    """Lines of the header, stripped; for a header that ends before the voxels, only those."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_HEADER_BYTES + 1)
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read: {error}") from error
    lines = [os.fsdecode(line).strip() for line in content.split(b"\n")]
    is_nrrd = path.suffix.lower() in _NRRD_ENDINGS
    ends = [index for index, line in enumerate(lines) if (not line if is_nrrd else _DATA_FILE_FIELD.fullmatch(line))]
    if len(content) > _MAX_HEADER_BYTES and not ends:
        raise ImageFileError(
            f"{path}: the header does not end within {_MAX_HEADER_BYTES} bytes; it is damaged or has another format"
        )
    return lines[: ends[0]] if is_nrrd and ends else lines


def _data_file_field(line: str, path: Path) -> re.Match[str] | None:
    """The field in a line; other readers may find one in a line that only contains its name."""
    match = _DATA_FILE_FIELD.fullmatch(line)
    if match is None and "elementdatafile" in line.lower() and path.suffix.lower() not in _NRRD_ENDINGS:
        raise ImageFileError(f"{path}: ElementDataFile does not stand at the beginning of its line; correct the header")
    return match


def _inside(name: str, path: Path) -> Path:
    """The path of a file in the header's folder or below."""
    parts = re.split(r"[/\\]", name)
    leaves = ".." in parts or parts[0].startswith("~") or bool(PureWindowsPath(name).drive) or parts[0] == ""
    if leaves and not _is_absolute_inside(name, parts, path.parent):
        raise ImageFileError(
            f"{path}: its header names {name!r} as the file with its voxels, expected a file in the header's own "
            "folder. Move that file beside the header, and correct the header."
        )
    if "%" in name and _NUMBERED_FILES.fullmatch(name) is None:
        raise ImageFileError(
            f"{path}: its header names {name!r} as the file with its voxels, expected a name without %, or a numbered "
            "series such as slice%03d.raw. Rename that file, and correct the header."
        )
    return path.parent / name


def _is_absolute_inside(name: str, parts: list[str], folder: Path) -> bool:
    return ".." not in parts and Path(name).is_absolute() and Path(name).is_relative_to(folder.absolute())
