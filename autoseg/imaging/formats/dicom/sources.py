"""The files of a DICOM image: of a folder with everything below it, of a zip archive, or one file alone.

A zip archive is read where it lies: nothing is unpacked to the disk, so that no name in it leads anywhere.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from autoseg.errors import ImageFileError

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
"""Endings of DICOM files, lower case, with dot; many have none."""

ZIP_ENDING = ".zip"

MAX_FILES = 100_000
"""Largest number of files in one folder or zip archive: studies have thousands."""

MAX_ZIP_BYTES = 16 * 1024**3
"""Largest size of the files of a zip archive together, unpacked."""

_MAGIC_OFFSET = 128
_MAGIC = b"DICM"

_LITTER = ("__MACOSX", "DICOMDIR")
"""First folder or name of files in archives and on discs that hold no images."""

_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for archives that are damaged, cut off, packed by unknown means, or encrypted (RuntimeError)."""


class DicomSource:
    """Files that may be opened by name; use `open_source`."""

    def __init__(self, path: Path, names: tuple[str, ...], archive: zipfile.ZipFile | None) -> None:
        """Keep what `open_source` found."""
        self.path = path
        self.names = names
        """Names of the files, sorted: relative to the folder, or as they stand in the archive."""
        self._archive = archive

    def describe(self, name: str) -> str:
        """The path of a file as a message names it."""
        if self._archive is not None:
            return f"{self.path} ({name})"
        return str(self.path / name) if name else str(self.path)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file, open for reading; of an archive unpacked in memory.

        Raises:
            ImageFileError: If it cannot be read.
        """
        if self._archive is None:
            try:
                with (self.path / name if name else self.path).open("rb") as file:
                    yield file
            except OSError as error:
                raise ImageFileError(f"{self.describe(name)}: cannot be read: {error}") from error
            return
        try:
            content = self._archive.read(name)
        except _ZIP_ERRORS as error:
            raise ImageFileError(f"{self.describe(name)}: cannot be unpacked: {error}. Zip the files again") from error
        yield io.BytesIO(content)

    def is_dicom(self, name: str) -> bool:
        """Whether a file has the mark of DICOM, or the ending of one (old files lack the mark)."""
        if Path(name or self.path.name).suffix.lower() in DICOM_ENDINGS:
            return True
        if self._archive is None:
            return _has_mark(self.path / name if name else self.path)
        try:
            with self._archive.open(name) as file:
                return _is_marked(file.read(_MAGIC_OFFSET + len(_MAGIC)))
        except _ZIP_ERRORS:
            return False


@contextmanager
def open_source(path: Path) -> Iterator[DicomSource]:
    """The files of a folder (with its subfolders), of a zip archive, or one file.

    Raises:
        ImageFileError: If there is no such file or folder, it has too many files, or the archive is damaged, encrypted
            or unpacks to more than `MAX_ZIP_BYTES`.
    """
    if path.is_dir():
        yield DicomSource(path, _names_in_folder(path), None)
    elif path.suffix.lower() == ZIP_ENDING:
        try:
            archive = zipfile.ZipFile(path)
        except (OSError, *_ZIP_ERRORS) as error:
            raise ImageFileError(f"{path}: cannot be read as a zip archive: {error}. Zip the files again") from error
        with archive:
            yield DicomSource(path, _names_in_archive(path, archive), archive)
    elif path.is_file():
        yield DicomSource(path, ("",), None)
    else:
        raise ImageFileError(f"{path}: no such file or folder")


def has_dicom_files(path: Path) -> bool:
    """Whether a folder itself, a zip archive or a file holds DICOM files; the first ones are looked at."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if _is_kept(file.name))
            return any(_looks_like_dicom(file) for file in files[:_LOOKED_AT] if file.is_file())
        if path.suffix.lower() != ZIP_ENDING:
            return path.is_file() and _looks_like_dicom(path)
        with zipfile.ZipFile(path) as archive:
            source = DicomSource(path, (), archive)
            names = sorted(name for name in archive.namelist() if _is_kept(name))
            return any(source.is_dicom(name) for name in names[:_LOOKED_AT])
    except (OSError, *_ZIP_ERRORS):
        return False


_LOOKED_AT = 20
"""Files of a folder that are looked at before it counts as one without DICOM files."""


def _looks_like_dicom(path: Path) -> bool:
    return path.suffix.lower() in DICOM_ENDINGS or _has_mark(path)


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _is_marked(file.read(_MAGIC_OFFSET + len(_MAGIC)))
    except OSError:
        return False


def _is_marked(start: bytes) -> bool:
    return start[_MAGIC_OFFSET:] == _MAGIC


def _is_kept(name: str) -> bool:
    parts = name.split("/")
    return (
        bool(parts[-1])
        and parts[0] not in _LITTER
        and not any(part.strip(".") and part.startswith(".") for part in parts)
    )


def _names_in_folder(folder: Path) -> tuple[str, ...]:
    names: list[str] = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if _is_kept(name) and Path(name).name != _LITTER[1] and path.is_file():
            names.append(name)
        if len(names) > MAX_FILES:
            raise ImageFileError(f"{folder}: has more than {MAX_FILES} files. Give the folder of one study")
    return tuple(sorted(names))


def _names_in_archive(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    files = [info for info in archive.infolist() if not info.is_dir() and _is_kept(info.filename)]
    if len(files) > MAX_FILES:
        raise ImageFileError(f"{path}: has {len(files)} files, more than {MAX_FILES}. Zip the files of one study")
    if any(info.flag_bits & 1 for info in files):
        raise ImageFileError(f"{path}: is encrypted. Zip the files without a password")
    size = sum(info.file_size for info in files)
    if size > MAX_ZIP_BYTES:
        raise ImageFileError(
            f"{path}: unpacks to {size / 1e9:.1f} GB, more than {MAX_ZIP_BYTES / 1e9:.1f} GB. Zip one series alone"
        )
    return tuple(sorted({info.filename for info in files if Path(info.filename).name != _LITTER[1]}))
