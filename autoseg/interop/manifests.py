"""Comparison of the files of an exported model with its manifest.

Tested in tests/interop/test_models.py and tests/stages/test_export.py.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from autoseg.errors import InteropError
from autoseg.records.manifest import MANIFEST_NAME, FileFacts, Manifest

MAX_FAULTS_SHOWN = 5


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
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileFacts(bytes=path.stat().st_size, sha256=digest)
