"""Files of the label maps of a run over files, and the list of failed cases.

Tested in tests/stages/test_predict.py.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.imaging.formats.reading import IMAGE_ENDINGS, split_ending
from autoseg.imaging.formats.volume import PICTURE_ENDINGS
from autoseg.imaging.formats.writing import label_map_ending
from autoseg.inference.files.inputs import InputCase
from autoseg.records.files import write_text

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True)
class PredictionFailure:
    """A case without a label map, and the reason."""

    case: str
    files: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class OutputFile:
    """One case and the file of its label map."""

    item: InputCase
    target: Path
    fault: str = ""
    """Reason why nothing may be written there; empty if there is none."""


def assign_outputs(cases: Sequence[InputCase], output: Path) -> tuple[OutputFile, ...]:
    """Give every case the file of its label map; make the folder and check that files can be written there.

    A case gets a fault if its own files are faulty, if its label map would replace an image of any case, or if an
    earlier case has the same file.

    Args:
        cases: All cases of the run.
        output: Folder for `CASE.ext`, in the image's format (2D images: PNG); for a single case also a file name.

    Raises:
        UsageError: If `output` names a file for several cases, is a file but not a label map, or its folder cannot
            be written to.
    """
    names_file = split_ending(output.name)[1] in IMAGE_ENDINGS and not output.is_dir()
    if names_file and len(cases) > 1:
        raise UsageError(f"{output}: names one file for {len(cases)} cases; give a folder for several images")
    if output.is_file() and not names_file:
        raise UsageError(
            f"{output}: is a file, but not one for a label map; give a folder, or a file that ends in one of "
            f"{' '.join(IMAGE_ENDINGS)}"
        )
    _prepare_folder(output.parent if names_file else output)
    targets = [_written_path(output) if names_file else output / _label_map_name(item) for item in cases]
    faults = _find_faults(cases, targets)
    return tuple(OutputFile(*parts) for parts in zip(cases, targets, faults, strict=True))


def write_failures(failures: Sequence[PredictionFailure], cases: Sequence[InputCase], path: Path) -> None:
    """Bring the JSON array of failed cases up to date; remove the file when none is left.

    Args:
        failures: Failures of this run.
        cases: All cases of this run; entries of other cases stay.
        path: The file; left as it is if something else wrote it.
    """
    earlier = _read_failures(path)
    if earlier is None:
        logger.warning("%s: left as it is, because it is not a list of failed cases", path)
        return
    names = {item.case for item in cases}
    entries = [entry for entry in earlier if entry["case"] not in names] + [asdict(failure) for failure in failures]
    if entries:
        write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", path)
    else:
        path.unlink(missing_ok=True)


def _label_map_name(item: InputCase) -> str:
    """File name of a case's label map: the image's format, PNG for 2D images."""
    _, ending = split_ending(item.images[0].name)
    return item.case + label_map_ending(ending)


def _written_path(path: Path) -> Path:
    """The path that `write_label_map` writes to: 2D images become PNG."""
    stem, ending = split_ending(path.name)
    return path.with_name(stem + label_map_ending(ending)) if ending in PICTURE_ENDINGS else path


def _prepare_folder(folder: Path) -> None:
    """Make the folder and try to write in it: better to fail now than after the first case."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error}); choose another output folder") from error


def _find_faults(cases: Sequence[InputCase], targets: Sequence[Path]) -> Iterator[str]:
    images = {image.resolve() for item in cases for image in item.images}
    taken: set[Path] = set()
    for item, target in zip(cases, targets, strict=True):
        real = target.resolve()
        if item.fault:
            yield f"case {item.case}: {item.fault}"
        elif real in images:
            yield f"{target}: the label map would overwrite an image; choose another output folder"
        elif real in taken:
            yield f"{target}: another case of this run has the same name; rename one of them"
        else:
            yield ""
        taken.add(real)


def _read_failures(path: Path) -> list[dict[str, object]] | None:
    """Entries of an earlier run, empty without a file; None if the file holds something else."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    is_ours = isinstance(entries, list) and all(isinstance(entry, dict) and "case" in entry for entry in entries)
    return entries if is_ours else None
