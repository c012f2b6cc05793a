"""Untrusted zip files: no member may be written outside the folder that they are unpacked to."""

import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from autoseg.errors import InteropError

REGULAR_KINDS = (0, stat.S_IFREG, stat.S_IFDIR)
"""Kinds of files that are accepted, by UNIX mode; 0: the archive was written on a system without such modes."""

MAX_FAULTS_SHOWN = 5


def extract_safely(archive: Path, folder: Path) -> None:
    """Unpack a zip file; all members are checked before the first one is written.

    Args:
        archive: A zip file.
        folder: Output folder, created when missing. After an error it may hold some of the members.

    Raises:
        InteropError: If the file is not a zip file or is damaged; if a member would leave the folder (absolute path,
            drive, `..`, backslash), is a link or a device, is encrypted, or occurs twice; or if the members need more
            space than the disk has.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _refuse_members(archive, members)
            folder.mkdir(parents=True, exist_ok=True)
            _check_space(archive, members, folder)
            for member in members:
                opened.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InteropError(
            f"{archive}: cannot be read as a zip file ({error}): it has another format, or copying or downloading it "
            "was interrupted. Copy or download it again."
        ) from error


def _refuse_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    faults = [f"{member.filename!r} {fault}" for member in members if (fault := _find_fault(member))]
    faults += [f"{name!r} occurs {times} times" for name, times in _repeated(members)]
    if faults:
        more = len(faults) - MAX_FAULTS_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise InteropError(
            f"{archive}: nothing was unpacked, because the archive is not safe: "
            f"{'; '.join(faults[:MAX_FAULTS_SHOWN])}{rest}. Ask its author for an archive of plain files."
        )


def _find_fault(member: zipfile.ZipInfo) -> str:
    """Why a member is refused; empty when it is accepted."""
    name = member.orig_filename
    path = PurePosixPath(name)
    if not path.parts or "\0" in name:
        return "has no valid name"
    if path.is_absolute() or PureWindowsPath(name).drive:
        return "has an absolute path"
    if "\\" in name:
        return "has a backslash in its path"
    if ".." in path.parts:
        return "leaves the folder (..)"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in REGULAR_KINDS:
        return "is neither a file nor a folder"
    if member.flag_bits & 0x1:
        return "is encrypted"
    return ""


def _repeated(members: Sequence[zipfile.ZipInfo]) -> Iterator[tuple[str, int]]:
    counts = Counter(str(PurePosixPath(member.filename)) for member in members)
    return ((name, times) for name, times in counts.items() if times > 1)


def _check_space(archive: Path, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    needed = sum(member.file_size for member in members)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InteropError(
            f"{archive}: its {len(members)} files need {needed / 1e9:.1f} GB unpacked, and the disk of {folder} has "
            f"{free / 1e9:.1f} GB free. Free some space, or choose another disk."
        )
