"""Write a folder or a zip file atomically: it is complete, or it does not exist.

Tested in tests/stages/test_export.py.
"""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import InteropError
from autoseg.records.files import name_temporary, replacing, staged_folder
from autoseg.records.manifest import MANIFEST_NAME

ZIP_ENDING = ".zip"

COMPRESSED_ENDINGS = (".json",)
"""Endings of files that are compressed in a zip file; weights do not become smaller."""


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
