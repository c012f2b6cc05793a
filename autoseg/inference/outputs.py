"""Where the label maps of a run over files go, and what is written beside them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.imaging.reading import split_ending
from autoseg.imaging.writing import label_map_ending
from autoseg.inference.inputs import InputCase
from autoseg.records.files import replacing, write_text


@dataclass(frozen=True)
class PredictionFailure:
    """A case without a label map, and why."""

    case: str
    files: tuple[str, ...]
    error: str


def label_map_name(item: InputCase) -> str:
    """File name of a case's label map: the image's format, PNG for pictures."""
    _, ending = split_ending(item.images[0].name)
    return item.case + label_map_ending(ending)


def check_target(item: InputCase, target: Path, taken: Collection[Path]) -> None:
    """Refuse a case with faulty files, and a label map that would replace its image or another case's label map.

    Args:
        item: The case.
        target: File of its label map.
        taken: Files of the cases before it.

    Raises:
        PredictionError: If the case must not be predicted.
    """
    if item.fault:
        raise PredictionError(f"case {item.case}: {item.fault}")
    if any(target.resolve() == image.resolve() for image in item.images):
        raise PredictionError(f"{target}: the label map would overwrite the image; choose another output folder")
    if target in taken:
        raise PredictionError(f"{target}: another case of this run has the same name; rename one of them")


def write_probabilities(probabilities: NDArray[np.float16], path: Path) -> None:
    """Write probabilities (K, Z, Y, X) as a chunked, compressed blosc2 array (.b2nd), atomically."""
    with replacing(path) as temporary:
        blosc2.asarray(np.ascontiguousarray(probabilities), urlpath=str(temporary), mode="w")


def write_failures(failures: Sequence[PredictionFailure], path: Path) -> None:
    """Write the failed cases as a JSON array; without any, remove the file of an earlier run."""
    if failures:
        write_text(json.dumps([asdict(failure) for failure in failures], indent=1, ensure_ascii=False) + "\n", path)
    else:
        path.unlink(missing_ok=True)
