"""Exported folders and zip files: written atomically, so that they are complete or do not exist, and unpacked safely.

Zip files are not trusted: no member may be written outside the folder that they are unpacked to, and none may need more
memory or disk than its archive makes plausible.

Tested in tests/interop/test_archives.py and tests/stages/test_export.py.
"""

import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from autoseg.errors import AutosegError, InteropError
from autoseg.records.files import replacing, staged_folder
from autoseg.records.manifest import MANIFEST_NAME
from autoseg.records.temporaries import name_temporary, sweep_temporaries

REGULAR_KINDS = (0, stat.S_IFREG, stat.S_IFDIR)
"""Kinds of files that are accepted, by UNIX mode; 0: the archive was written on a system without such modes."""

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Accepted compressions. Of the others a few kilobytes may become gigabytes in memory before they are written."""

MAX_RATIO = 100
"""Largest plausible ratio of unpacked to packed bytes: weights reach 2, JSON files 30, zeros 1000."""

MIN_BOMB_BYTES = 2**26
"""Size in bytes up to which any ratio is accepted: small text files are packed well."""

MAX_MEMBERS = 100_000
"""Largest number of files and folders in an archive."""

MAX_FAULTS_SHOWN = 5

ZIP_ENDING = ".zip"

COMPRESSED_ENDINGS = (".json",)
"""Endings of files that are compressed in a zip file; weights do not become smaller."""


def list_safely(archive: Path) -> dict[str, int]:
    """Check all members of a zip file, and list its files; nothing is unpacked.

    Args:
        archive: A zip file.

    Returns:
        Size in bytes of each file by its name.

    Raises:
        InteropError: If the file is not a zip file or is damaged; if a member would leave its folder (absolute path,
            drive, `..`, backslash), is a link or a device, is encrypted, is packed by a method other than deflate, or
            occurs twice; or if the archive unpacks to so much more than it has that it is a zip bomb.
    """
    with _opened(archive) as opened:
        return {member.filename: member.file_size for member in opened.infolist() if not member.is_dir()}


def extract_safely(archive: Path, folder: Path, names: Collection[str] | None = None) -> None:
    """Unpack a zip file; all members are checked before the first one is written.

    Args:
        archive: A zip file.
        folder: Output folder, created when missing. After an error it may hold some of the members.
        names: Files to unpack, all of them in the archive; None: all.

    Raises:
        InteropError: As `list_safely`; or if the members need more space than the disk has.
    """
    with _opened(archive) as opened:
        members = [member for member in opened.infolist() if names is None or member.filename in names]
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(archive, members, folder)
        for member in members:
            opened.extract(member, folder)


@contextmanager
def errors_naming(archive: Path, folder: Path) -> Iterator[None]:
    """Name the archive in errors about files that were unpacked from it, because users do not know the folder."""
    try:
        yield
    except AutosegError as error:
        error.args = (str(error).replace(str(folder), str(archive)), *error.args[1:])
        raise


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members were checked; its damages become errors that name it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            _refuse_members(archive, opened.infolist())
            _refuse_bomb(archive, opened.infolist())
            yield opened
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
    if member.compress_type not in COMPRESSIONS:
        return "is packed by another method than deflate"
    if _is_bomb(member.compress_size, member.file_size):
        return f"would become {member.file_size / 1e9:.1f} GB, more than {MAX_RATIO} times what is packed"
    return ""


def _is_bomb(packed_bytes: int, unpacked_bytes: int) -> bool:
    return unpacked_bytes > max(MIN_BOMB_BYTES, MAX_RATIO * packed_bytes)


def _repeated(members: Sequence[zipfile.ZipInfo]) -> Iterator[tuple[str, int]]:
    counts = Counter(str(PurePosixPath(member.filename)) for member in members)
    return ((name, times) for name, times in counts.items() if times > 1)


def _refuse_bomb(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Compare with the size of the archive itself: members may share their packed bytes."""
    if len(members) > MAX_MEMBERS:
        raise InteropError(
            f"{archive}: nothing was unpacked, because it has {len(members)} files and folders, expected at most "
            f"{MAX_MEMBERS}. Ask its author for an archive with the model alone."
        )
    packed, unpacked = archive.stat().st_size, sum(member.file_size for member in members)
    if _is_bomb(packed, unpacked):
        raise InteropError(
            f"{archive}: nothing was unpacked, because its {packed} bytes would become {unpacked / 1e9:.1f} GB, more "
            f"than {MAX_RATIO} times as much: no model is packed so well, but archives are that are meant to fill the "
            "disk. Ask its author for another archive."
        )


def _check_space(archive: Path, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    needed = sum(member.file_size for member in members)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InteropError(
            f"{archive}: its {len(members)} files need {needed / 1e9:.1f} GB unpacked, and the disk of {folder} has "
            f"{free / 1e9:.1f} GB free. Free some space, or choose another disk."
        )


def refuse_output(output: Path, source: Path, *, overwrite: bool) -> None:
    """Check before the work whether `staged_output` may write.

    Args:
        output: Output: a folder, or a zip file if it ends with .zip.
        source: Folder or file of the model that is exported.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        InteropError: If the output exists and may not be replaced: `overwrite` is False, it is not an earlier export,
            or it contains the model itself.
    """
    if not output.exists():
        return
    real, model = output.resolve(), source.resolve()
    if real == model or real in model.parents:
        raise InteropError(f"{output}: contains the model that is to be exported. Choose another output.")
    if not overwrite:
        raise InteropError(f"{output}: already exists. Replace it with --overwrite, or choose another output.")
    is_zip = output.suffix.lower() == ZIP_ENDING
    if is_zip != output.is_file():
        found = "a folder" if output.is_dir() else "a file"
        raise InteropError(
            f"{output}: is {found}; names ending in {ZIP_ENDING} are files, all others folders. Choose another output."
        )
    if not is_zip and not (output / MANIFEST_NAME).is_file() and any(output.iterdir()):
        raise InteropError(
            f"{output}: has no {MANIFEST_NAME}, so it is not an earlier export and is not replaced. Choose another "
            "output."
        )


@contextmanager
def staged_output(output: Path) -> Iterator[Path]:
    """Give an empty folder beside `output`; on success it becomes `output`, on failure it is removed.

    Args:
        output: A folder, or a zip file if it ends with .zip; an existing one is replaced, see `refuse_output`.

    Yields:
        The folder to write to.
    """
    sweep_temporaries(output.parent)
    with staged_folder(output) as folder:
        yield folder
        if output.suffix.lower() == ZIP_ENDING:
            with replacing(output) as temporary:
                _zip(folder, temporary)
        else:
            _put_in_place(folder, output)


def _zip(folder: Path, archive: Path) -> None:
    """Zip all files below a folder, the manifest first, because readers need it first."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: (path.name != MANIFEST_NAME or path.parent != folder, path.as_posix()))
    with zipfile.ZipFile(archive, "w") as opened:
        for path in paths:
            is_text = path.suffix in COMPRESSED_ENDINGS
            method = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            opened.write(path, path.relative_to(folder).as_posix(), method)


def _put_in_place(folder: Path, output: Path) -> None:
    """Rename the folder; an earlier one is moved aside first and moved back on failure."""
    if not output.exists():
        folder.rename(output)
        return
    earlier = name_temporary(output)
    output.rename(earlier)
    try:
        folder.rename(output)
    except OSError:
        earlier.rename(output)
        raise
    shutil.rmtree(earlier)
