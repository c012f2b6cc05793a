"""Validation cases in memory: predicted and reference label map, compressed, with their scores.

Tested in tests/selection/test_postprocessing.py and tests/stages/test_select.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import ImageFileError
from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.formats.geometry import measurable_spacing
from autoseg.imaging.formats.reading import Volume
from autoseg.inference.files.label_maps import read_on_one_grid
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.overlap import BACKGROUND, IGNORE, score_case
from autoseg.records.case import Spacing, Triple
from autoseg.records.dataset import LabelEncoding, LabelValues, indices_by_label
from autoseg.records.evaluation import CaseScores


@dataclass(frozen=True)
class CaseMapFiles:
    """Label maps of one validation case."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True, kw_only=True)
class CaseMaps:
    """One validation case: label indices (Z, Y, X), compressed, cut to the surroundings of all foreground."""

    case: str
    prediction: blosc2.NDArray
    reference: blosc2.NDArray
    spacing: Spacing
    """Voxel size in mm along the arrays' axes; its product is a voxel's volume."""
    shape: Triple
    """Shape of the whole image, voxels."""
    box: tuple[slice, ...]
    """Slices that cut the arrays from the whole image."""
    scores: CaseScores
    """Metrics that follow from counts of voxels."""


def foreground_names(encoding: LabelEncoding) -> list[str]:
    """Labels or regions that are scored, in declaration order."""
    return [name for name in indices_by_label(encoding) if name != BACKGROUND]


def label_values(encoding: LabelEncoding) -> dict[str, LabelValues]:
    """Indices of each label or region by name, and that of ignored voxels, to score arrays of label indices with."""
    labels: dict[str, LabelValues] = {**indices_by_label(encoding)}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    return labels


def load_case_maps(files: CaseMapFiles, encoding: LabelEncoding) -> CaseMaps:
    """Read and score a case.

    Raises:
        ImageFileError: If a label map cannot be read, has values that no label declares, or does not lie on its
            reference's grid.
    """
    prediction, reference = read_on_one_grid(files.case, files.prediction, files.reference)
    predicted, expected = (_encode(volume, encoding) for volume in (prediction, reference))
    box = _surroundings((predicted != 0) | (expected != 0))
    return CaseMaps(
        case=files.case,
        prediction=_compress(predicted[box]),
        reference=_compress(expected[box]),
        spacing=measurable_spacing(prediction.grid),
        shape=prediction.grid.shape,
        box=box,
        scores=score_case(files.case, predicted[box], expected[box], label_values(encoding)),
    )


def replace_prediction(maps: CaseMaps, prediction: NDArray[np.integer], encoding: LabelEncoding) -> CaseMaps:
    """The same case with another prediction, label indices in the same box, scored again."""
    scores = score_case(maps.case, prediction, maps.reference[:], label_values(encoding))
    return replace(maps, prediction=_compress(prediction), scores=scores)


def measure_case_maps(maps: CaseMaps, encoding: LabelEncoding) -> CaseScores:
    """Compute every metric of a case, in the whole image."""
    whole = []
    for array in (maps.prediction, maps.reference):
        labels = np.zeros(maps.shape, dtype=array.dtype)
        labels[maps.box] = array[:]
        whole.append(labels)
    return measure_case(maps.case, whole[0], whole[1], label_values(encoding), maps.spacing)


def _encode(volume: Volume, encoding: LabelEncoding) -> NDArray[np.int16]:
    try:
        return encode_label_map(volume.array[0], encoding)
    except ValueError as error:
        raise ImageFileError(f"{volume.path}: {error}") from error


def _surroundings(foreground: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Slices around the foreground with a margin of one voxel.

    So foreground touches the border of the box only where it touches that of the image.
    """
    boxes = ndimage.find_objects(foreground.view(np.uint8))
    box = boxes[0] if boxes else (slice(0, 1),) * 3
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)


def _compress(labels: NDArray[np.integer]) -> blosc2.NDArray:
    return blosc2.asarray(np.ascontiguousarray(labels))
