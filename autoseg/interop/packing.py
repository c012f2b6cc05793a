"""Write a folder or a zip file as a whole: it is there complete, or not at all."""

import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import InteropError
from autoseg.records.files import replacing
from autoseg.records.manifest import MANIFEST_NAME

ZIP_ENDING = ".zip"

COMPRESSED_ENDINGS = (".json",)
"""Weights are noise to a compressor."""


def refuse_output(output: Path, source: Path, *, overwrite: bool) -> None:
    """Say before the work what would stop `staged_output` after it.

    Args:
        output: What is to be written: a folder, or a zip file if it ends with .zip.
        source: Folder or file of the model that is exported.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        InteropError: If the output is there and may not be replaced, because it was not asked for, because it is
            something else than an earlier export, or because the model itself lies in it.
    """
    if not output.exists():
        return
    real, model = output.resolve(), source.resolve()
    if real == model or real in model.parents:
        raise InteropError(f"{output}: holds the model that is to be exported; choose another output")
    if not overwrite:
        raise InteropError(f"{output}: is there already; give --overwrite to replace it, or choose another output")
    is_zip = output.suffix.lower() == ZIP_ENDING
    if is_zip != output.is_file():
        found = "a folder" if output.is_dir() else "a file"
        raise InteropError(f"{output}: is {found}; a name with {ZIP_ENDING} is for a file, any other for a folder")
    if not is_zip and not (output / MANIFEST_NAME).is_file() and any(output.iterdir()):
        raise InteropError(
            f"{output}: has no {MANIFEST_NAME}, so it is no earlier export and is not replaced; choose another output"
        )


@contextmanager
def staged_output(output: Path) -> Iterator[Path]:
    """Give an empty folder beside `output`; on success it becomes `output`, on failure it is removed.

    Args:
        output: A folder, or a zip file if it ends with .zip; replaced if it is there, see `refuse_output`.

    Yields:
        The folder to write to.
    """
    folder = output.with_name(f".{secrets.token_hex(4)}.{output.name}")
    folder.mkdir(parents=True)
    try:
        yield folder
        if output.suffix.lower() == ZIP_ENDING:
            with replacing(output) as temporary:
                _zip(folder, temporary)
        else:
            _put_in_place(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _zip(folder: Path, archive: Path) -> None:
    """All files below a folder, the manifest first, so that a reader of the stream meets it first."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    paths.sort(key=lambda path: (path.name != MANIFEST_NAME or path.parent != folder, path.as_posix()))
    with zipfile.ZipFile(archive, "w") as opened:
        for path in paths:
            is_text = path.suffix in COMPRESSED_ENDINGS
            method = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            opened.write(path, path.relative_to(folder).as_posix(), method)


def _put_in_place(folder: Path, output: Path) -> None:
    """Rename; an earlier folder is moved aside first and comes back when that fails."""
    if not output.exists():
        folder.rename(output)
        return
    earlier = output.with_name(f".{secrets.token_hex(4)}.{output.name}")
    output.rename(earlier)
    try:
        folder.rename(output)
    except OSError:
        earlier.rename(output)
        raise
    shutil.rmtree(earlier)
