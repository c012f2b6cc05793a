"""Label maps of DICOM series: what a model's labels are as segments, and the objects that are written for a case.

Tested in tests/inference/files/test_dicom_outputs.py and tests/stages/test_predict_dicom.py.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.imaging.formats.dicom.codes import find_code, read_codes
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING
from autoseg.imaging.formats.dicom.segments import (
    Algorithm,
    Segment,
    SegmentationType,
    write_fractions,
    write_segmentation,
)
from autoseg.imaging.formats.dicom.series import DicomSeries
from autoseg.imaging.formats.dicom.structures import write_structures
from autoseg.imaging.formats.reading import Template, split_ending
from autoseg.inference.files.outputs import OutputFile
from autoseg.inference.models.label_colors import Color, label_color, name_label_values
from autoseg.records.dataset import LabelEncoding, foreground_names, names_by_value
from autoseg.records.prediction import RTSTRUCT, OutputChoices, Prediction

logger = logging.getLogger("autoseg.predict")


def segments_of(encoding: LabelEncoding, codes: Path | None = None, *, apart: bool = False) -> tuple[Segment, ...]:
    """The segments of a model's label maps: its labels or regions, which may have voxels in common.

    Args:
        encoding: Label encoding of the model.
        codes: The user's file of codes; None: the table of common organs alone.
        apart: Whether each value of the label map is a segment of its own, so that none share voxels.

    Raises:
        UsageError: If the file of codes has another form, or names a label that the model does not have.
    """
    found: list[tuple[str, tuple[int, ...], Color]] = [
        (label.name, (label.value,), label.color) for label in name_label_values(encoding)
    ]
    names_of = names_by_value(encoding)
    if not apart and any(len(names) > 1 for names in names_of.values()):
        found = [
            (name, tuple(value for value, names in names_of.items() if name in names), label_color(place))
            for place, name in enumerate(foreground_names(encoding))
        ]
    own = {} if codes is None else read_codes(codes, [name for name, _, _ in found])
    return tuple(Segment(name, values, rgb, own.get(name) or find_code(name)) for name, values, rgb in found)


def warn_of_unknown_codes(segments: Sequence[Segment]) -> None:
    """Say which labels are written as tissue, because nothing is known of them."""
    unknown = [segment.name for segment in segments if not segment.code.is_known]
    if unknown:
        logger.warning(
            "DICOM: the table of codes does not know %s; written as Tissue. Give their codes with --codes FILE",
            ", ".join(unknown),
        )


def is_on_series(template: Template, file: OutputFile) -> bool:
    """Whether the label map of a case is written as a DICOM segmentation."""
    return template.series is not None and split_ending(file.target.name)[1] == SERIES_ENDING


def write_dicom_maps(
    prediction: Prediction, series: DicomSeries, file: OutputFile, encoding: LabelEncoding, model_hash: str,
    choices: OutputChoices,
) -> None:  # fmt: skip
    """Write the structure set of a case, if asked for, and its segmentation, if that is its label map, atomically.

    Args:
        prediction: Prediction of the image.
        series: Series of the image.
        file: The case and the file of its label map.
        encoding: Label encoding of the model.
        model_hash: Hash of the weights.
        choices: Kind of segmentation, codes, and whether there is a structure set.

    Raises:
        ImageFileError: If the files of the series cannot be read any more, or an object cannot be written.
        UsageError: If the codes are wrong.
    """
    segments, algorithm = segments_of(encoding, choices.codes), Algorithm(model_hash)
    if choices.structures:
        write_structures(prediction.labels, series, segments, algorithm, file.side_map(RTSTRUCT))
    if split_ending(file.target.name)[1] != SERIES_ENDING:
        return
    if choices.segmentation_type == "fractional":
        _write_probabilities(series, segments, algorithm, file, encoding)
        if not choices.probabilities:
            file.probabilities.unlink()
    else:
        kind: SegmentationType = "labelmap" if choices.segmentation_type == "labelmap" else "binary"
        if kind == "labelmap":
            segments = segments_of(encoding, choices.codes, apart=True)
        write_segmentation(prediction.labels, series, segments, algorithm, file.target, kind)


def _write_probabilities(
    series: DicomSeries,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    file: OutputFile,
    encoding: LabelEncoding,
) -> None:
    """Write the probabilities that prediction left in a file, segment by segment."""
    import blosc2  # slow to import, and most predictions do without

    heads = [_heads_of(segment, encoding) for segment in segments]
    stored = blosc2.open(str(file.probabilities), mode="r")

    def read(number: int) -> NDArray[np.float32]:
        total = np.zeros(stored.shape[1:], dtype=np.float32)
        for head in heads[number]:
            total += stored[head]
        return total

    write_fractions(read, series, segments, algorithm, file.target)


def _heads_of(segment: Segment, encoding: LabelEncoding) -> list[int]:
    """Positions of the output classes whose probabilities add up to those of a segment."""
    return [position for position, head in enumerate(encoding.heads) if (head.part_of or head.name) == segment.name]
