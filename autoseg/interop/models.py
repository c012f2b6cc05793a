"""Open a model, whichever form it has: a workspace, an exported folder, or an exported zip file."""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import InteropError
from autoseg.interop.archives import extract_safely
from autoseg.interop.manifests import check_files, refuse_altered
from autoseg.records.files import read_record
from autoseg.records.manifest import MANIFEST_NAME, Manifest
from autoseg.records.workspace import Workspace

MAX_MANIFEST = 16 * 2**20
"""Bytes; a manifest has about 200 for each file."""


@contextmanager
def open_model(path: Path) -> Iterator[Workspace]:
    """Give a model as a workspace to read from.

    A zip file is checked, unpacked to a temporary folder, checked again there, and the folder is gone afterwards; so
    everything has to be read inside. Its last part is the name of the zip file, for messages. An exported folder is
    checked where it is. A folder without a manifest is a workspace; whether it holds what is needed, its reader says.

    Args:
        path: A workspace, or what `autoseg export` wrote.

    Yields:
        The workspace; not to be written to.

    Raises:
        InteropError: If a file is no zip file or no exported model; if it is damaged or was altered: a file is
            missing, is there besides, or has another size or hash; or if it holds ONNX networks.
        RecordError: If the manifest is damaged.
    """
    if not path.is_file():
        if (path / MANIFEST_NAME).is_file():
            _check_folder(path, path)
        yield Workspace(path)
        return
    with tempfile.TemporaryDirectory(prefix="autoseg-") as temporary:
        folder = Path(temporary) / path.name
        _unpack(path, folder)
        _check_folder(folder, path)
        yield Workspace(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an exported model's folder; None where there is none.

    Raises:
        RecordError: If it is damaged.
    """
    path = folder / MANIFEST_NAME
    return read_record(Manifest, path) if path.is_file() else None


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack what the manifest names; nothing else may be in the archive."""
    members = _list_members(archive)
    if MANIFEST_NAME not in members:
        raise InteropError(
            f"{archive}: has no {MANIFEST_NAME} at its top, so it is not a model that autoseg export wrote. A model of "
            "nnU-Net is brought in by autoseg import-nnunet."
        )
    if members[MANIFEST_NAME] > MAX_MANIFEST:
        raise InteropError(f"{archive}: its {MANIFEST_NAME} has {members[MANIFEST_NAME]} bytes; that is none")
    extract_safely(archive, folder)
    manifest = read_record(Manifest, folder / MANIFEST_NAME)
    foreign = members.keys() - manifest.files.keys() - {MANIFEST_NAME}
    refuse_altered(archive, (f"{name} is not in its {MANIFEST_NAME}" for name in sorted(foreign)))


def _list_members(archive: Path) -> dict[str, int]:
    """Bytes by name, folders left out."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return {member.filename: member.file_size for member in opened.infolist() if not member.is_dir()}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InteropError(
            f"{archive}: is a file, but no zip file that can be read ({error}); a model is a folder with plan.json, or "
            "a zip file that autoseg export wrote"
        ) from error


def _check_folder(folder: Path, name: Path) -> None:
    manifest = read_record(Manifest, folder / MANIFEST_NAME)
    if manifest.format != "autoseg":
        raise InteropError(
            f"{name}: holds networks in {manifest.format} format, for other programs; give the model that they were "
            "exported from"
        )
    check_files(folder, manifest, name)
