"""Open a model in any form: a workspace, an exported folder, or an exported zip file; compare it with its manifest.

Tested in tests/interop/test_models.py and tests/stages/test_export.py.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import InteropError
from autoseg.interop.archives import errors_naming, extract_safely, list_safely
from autoseg.records.files import hash_file, read_record, scratch_folder
from autoseg.records.manifest import MANIFEST_NAME, FileFacts, Manifest
from autoseg.records.workspace import Workspace

MAX_MANIFEST = 16 * 2**20
"""Largest size of a manifest in bytes; it has about 200 for each file."""

MAX_FAULTS_SHOWN = 5


@contextmanager
def open_model(path: Path) -> Iterator[Workspace]:
    """Give a model as a workspace to read from.

    A zip file is checked, unpacked to a temporary folder and checked again there; the folder is removed on leaving the
    context, so everything has to be read inside. Its last part is the name of the zip file; errors inside the context
    name the zip file instead of the folder. An exported folder is checked in place. A folder without a manifest is a
    workspace, whose content is checked when it is read.

    Args:
        path: A workspace, or the output of `autoseg export`.

    Yields:
        The workspace; do not write to it.

    Raises:
        InteropError: If a file is not a zip file or not an exported model; if it is damaged or was altered: a file is
            missing, is not listed, or has another size or hash; or if it holds ONNX networks.
        RecordError: If the manifest is damaged.
    """
    if not path.is_file():
        if (path / MANIFEST_NAME).is_file():
            _check_folder(path, path)
        yield Workspace(path)
        return
    with scratch_folder("model") as temporary:
        folder = temporary / path.name
        with errors_naming(path, folder):
            _unpack(path, folder)
            _check_folder(folder, path)
            yield Workspace(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an exported model's folder; None for a folder without a manifest.

    Raises:
        RecordError: If the manifest is damaged.
    """
    path = folder / MANIFEST_NAME
    return read_record(Manifest, path) if path.is_file() else None


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the files that the manifest lists; the archive may not contain others, nor any of another size."""
    if not zipfile.is_zipfile(archive):
        raise InteropError(
            f"{archive}: is a file that cannot be read as a zip file. Give a folder with plan.json, or a zip file that "
            "autoseg export wrote."
        )
    sizes = list_safely(archive)
    if MANIFEST_NAME not in sizes:
        raise InteropError(
            f"{archive}: has no {MANIFEST_NAME} at its top level, so autoseg export did not write it. Import models of "
            "nnU-Net with autoseg import-nnunet."
        )
    if sizes[MANIFEST_NAME] > MAX_MANIFEST:
        raise InteropError(
            f"{archive}: its {MANIFEST_NAME} has {sizes[MANIFEST_NAME]} bytes, expected at most {MAX_MANIFEST}; the "
            "archive is damaged or was altered. Copy or download it again."
        )
    extract_safely(archive, folder, [MANIFEST_NAME])
    manifest = read_record(Manifest, folder / MANIFEST_NAME)
    refuse_altered(archive, _find_undeclared(sizes, manifest))
    extract_safely(archive, folder, sizes.keys() & manifest.files.keys())


def _find_undeclared(sizes: Mapping[str, int], manifest: Manifest) -> Iterator[str]:
    """Files of an archive that its manifest does not list, or with another size."""
    for name, size in sorted(sizes.items()):
        if name == MANIFEST_NAME:
            continue
        if name not in manifest.files:
            yield f"{name} is not in its {MANIFEST_NAME}"
        elif size != (expected := manifest.files[name].bytes):
            yield f"{name} has {size} bytes, expected {expected}"


def _check_folder(folder: Path, name: Path) -> None:
    manifest = read_record(Manifest, folder / MANIFEST_NAME)
    if manifest.format != "autoseg":
        raise InteropError(
            f"{name}: holds networks in {manifest.format} format for other programs. Give the model that they were "
            f"exported from{', or import them with autoseg import-nnunet' * (manifest.format == 'nnunet')}."
        )
    check_files(folder, manifest, name)


def describe_files(folder: Path) -> dict[str, FileFacts]:
    """Size and hash of every file below a folder except the manifest, by POSIX path, in order of the paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _describe(path) for name, path in facts.items() if name != MANIFEST_NAME}


def check_files(folder: Path, manifest: Manifest, name: Path) -> None:
    """Compare a model's files with its manifest; files that it does not list are ignored.

    Args:
        folder: Folder of the files.
        manifest: Manifest of the model.
        name: Path of the model as the user gave it, for the message.

    Raises:
        InteropError: If a file is missing, or has another size or content; names the files.
    """
    refuse_altered(name, _find_altered(folder, manifest.files))


def refuse_altered(name: Path, faults: Iterator[str]) -> None:
    """Raise InteropError if there is any fault."""
    found = list(faults)
    if found:
        more = f"; and {len(found) - MAX_FAULTS_SHOWN} more" if len(found) > MAX_FAULTS_SHOWN else ""
        raise InteropError(
            f"{name}: differs from what was exported: {'; '.join(found[:MAX_FAULTS_SHOWN])}{more}. It is damaged or "
            "was altered. Copy or download it again, or export it again."
        )


def _find_altered(folder: Path, files: Mapping[str, FileFacts]) -> Iterator[str]:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif (size := path.stat().st_size) != expected.bytes:
            yield f"{name} has {size} bytes, expected {expected.bytes}"
        elif _describe(path) != expected:
            yield f"{name} has a different content (sha256) from that in {MANIFEST_NAME}"


def _describe(path: Path) -> FileFacts:
    return FileFacts(bytes=path.stat().st_size, sha256=hash_file(path))
