"""Label maps of one validation case, predicted and reference: their files, and both in memory, changed and scored.

Tested in tests/selection/test_postprocessing.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import ImageFileError
from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.reading import Volume
from autoseg.imaging.formats.volume import measurable_spacing
from autoseg.inference.files.label_maps import read_prediction
from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.overlap import score_case
from autoseg.postprocessing import apply_postprocessing, find_components
from autoseg.records.case import Slices, Spacing, Triple
from autoseg.records.dataset import CaseFiles, LabelEncoding, label_values
from autoseg.records.evaluation import CaseScores
from autoseg.records.selection import PostprocessingStep
from autoseg.selection.component_removal import ComponentTable, no_components, tabulate_components


@dataclass(frozen=True)
class CaseMapFiles:
    """Label maps of one validation case."""

    prediction: Path
    folder: Path
    """Dataset folder."""
    files: CaseFiles
    """Files of the case in it, with the reference."""

    @property
    def case(self) -> str:
        """The case's id."""
        return self.files.case

    def absolute(self) -> "CaseMapFiles":
        """The same files for processes that work in other folders."""
        return replace(self, prediction=self.prediction.absolute(), folder=self.folder.absolute())


@dataclass(frozen=True, kw_only=True)
class CaseMaps:
    """One validation case in memory: label indices (Z, Y, X), packed, cut to the surroundings of all foreground."""

    case: str
    encoding: LabelEncoding
    prediction: bytes
    reference: bytes
    spacing: Spacing
    """Voxel size in mm along the arrays' axes."""
    volume_spacing: Spacing
    """Lengths in mm whose product is a voxel's volume, see `measurable_spacing`."""
    shape: Triple
    """Shape of the whole image, voxels."""
    box: Slices
    """Slices that cut the arrays from the whole image."""
    scores: CaseScores
    """Metrics that follow from counts of voxels."""
    annotated: tuple[str, ...] | None = None
    """Labels that were looked for; None: all."""

    def apply(self, step: PostprocessingStep) -> "CaseMaps":
        """The case after a step, scored again; the same object when nothing changes."""
        before = _unpack(self.prediction)
        after = apply_postprocessing(before, [step], self.encoding, self.volume_spacing)
        if np.array_equal(before, after):
            return self
        scores = score_case(self.case, after, _unpack(self.reference), label_values(self.encoding))
        return replace(self, prediction=_pack(after), scores=keep_annotated(scores, self.annotated))

    def tabulate(self, indices: Sequence[int], labels: Sequence[tuple[int, ...]]) -> ComponentTable:
        """Components of the union of some indices, with counts for the labels or regions that share voxels with it."""
        prediction = _unpack(self.prediction)
        found = find_components(prediction, indices)
        if found is None:
            return no_components(len(labels))
        box, components = found
        ignore = None if self.encoding.ignore_value is None else len(self.encoding.values)
        return tabulate_components(components, prediction[box], _unpack(self.reference)[box], labels, ignore)

    def measure(self) -> CaseScores:
        """Compute every metric, in the whole image."""
        whole = []
        for array in map(_unpack, (self.prediction, self.reference)):
            labels = np.zeros(self.shape, dtype=array.dtype)
            labels[self.box] = array
            whole.append(labels)
        scores = measure_case(
            self.case, whole[0], whole[1], label_values(self.encoding), self.spacing,
            voxel_mm3=prod(self.volume_spacing),
        )  # fmt: skip
        return keep_annotated(scores, self.annotated)


def load_case_maps(files: CaseMapFiles, encoding: LabelEncoding) -> CaseMaps:
    """Read and score a case.

    Raises:
        ImageFileError: If a label map cannot be read, has values that no label declares, or does not lie on its
            reference's grid.
    """
    reference = read_reference(files.folder, files.files, encoding)
    prediction = read_prediction(files.files.case, files.prediction, reference)
    predicted, expected = (_encode(volume, encoding) for volume in (prediction, reference))
    box = _surroundings((predicted != 0) | (expected != 0))
    annotated = files.files.annotated
    scores = score_case(files.files.case, predicted[box], expected[box], label_values(encoding))
    return CaseMaps(
        case=files.files.case,
        encoding=encoding,
        prediction=_pack(predicted[box]),
        reference=_pack(expected[box]),
        spacing=prediction.grid.spacing,
        volume_spacing=measurable_spacing(prediction.grid),
        shape=prediction.grid.shape,
        box=box,
        scores=keep_annotated(scores, annotated),
        annotated=annotated,
    )


def _encode(volume: Volume, encoding: LabelEncoding) -> NDArray[np.int16]:
    try:
        return encode_label_map(volume.array[0], encoding)
    except ValueError as error:
        raise ImageFileError(f"{volume.path}: {error}") from error


def _surroundings(foreground: NDArray[np.bool_]) -> Slices:
    """Slices around the foreground with a margin of one voxel.

    So foreground touches the border of the box only where it touches that of the image.
    """
    boxes = ndimage.find_objects(foreground.view(np.uint8))
    box = boxes[0] if boxes else (slice(0, 1),) * 3
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)


def _pack(labels: NDArray[np.integer]) -> bytes:
    """A compressed array, in a form that can be sent to other processes."""
    packed: bytes = blosc2.asarray(np.ascontiguousarray(labels)).to_cframe()
    return packed


def _unpack(packed: bytes) -> NDArray[np.int16]:
    labels: NDArray[np.int16] = blosc2.ndarray_from_cframe(packed)[:]
    return labels
