"""Label maps of a series as DICOM segmentations, on the slices of the series.

Every slice has a frame for each segment, an empty one too, so that viewers put none in a wrong place; segments without
a voxel are described like the others. The segmentation belongs to the patient and the study of the series.

Tested in tests/imaging/formats/dicom/test_segments.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoseg import DISTRIBUTION
from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.formats.dicom.codes import SIDE_CODES, Code, SegmentCode
from autoseg.imaging.formats.dicom.frames import Header, describe
from autoseg.imaging.formats.dicom.library import dicom_errors, import_dicom, quiet
from autoseg.imaging.formats.dicom.series import DicomSeries
from autoseg.imaging.formats.dicom.sources import open_source
from autoseg.records.files import replacing

SegmentationType = Literal["binary", "labelmap", "fractional"]

SERIES_NUMBER = 1000
"""Number of the series of segmentations; scanners number from 1."""

MAX_FRACTION = 255
"""Stored value of the probability 1."""

MANUFACTURER = "autoseg"

_PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer",
)  # fmt: skip
"""Attributes that every object of a study has, be they empty."""

_MAX_LABEL_LENGTH = 64
"""Number of characters that DICOM allows for a label."""


@dataclass(frozen=True)
class Segment:
    """One segment: a label of the model."""

    name: str
    values: tuple[int, ...]
    """Values of the label map that belong to it; segments may share values."""
    rgb: tuple[int, int, int]
    """Recommended colour, 0 to 255."""
    code: SegmentCode


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation."""

    model_hash: str
    """Hash of the weights of the model's networks."""
    name: str = MANUFACTURER


def write_segmentation(
    labels: NDArray[np.unsignedinteger],
    series: DicomSeries,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    path: Path,
    kind: SegmentationType = "binary",
) -> Path:
    """Write a label map as a segmentation object, atomically.

    Args:
        labels: Label values on the grid of the image, (Z, Y, X).
        series: The series that the image was read from (`Template.series`); its files must still be there.
        segments: Segments in order; they get the numbers 1, 2, ...
        algorithm: What made the label map.
        path: File to write, `.dcm`.
        kind: `binary` (one bit for each voxel and segment), `labelmap` (one number for each voxel; smaller, but few
            viewers read it) or `fractional` (here 0 and 1; probabilities are written by `write_fractions`).

    Raises:
        UsageError: If the extra `dicom` is not installed, or overlapping segments are to be one label map.
        ImageFileError: If the files of the series cannot be read any more, or the file cannot be written.
    """
    on_slices = series.slices_of(labels)
    all_values = [value for segment in segments for value in segment.values]
    has_overlap = len(set(all_values)) < len(all_values)
    if has_overlap and kind == "labelmap":
        raise UsageError(f"{path}: labels overlap, which a label map cannot hold. Choose --seg-type binary")
    if has_overlap:
        voxels = np.stack([np.isin(on_slices, segment.values) for segment in segments], axis=-1).astype(np.uint8)
    else:
        largest = max(*all_values, int(on_slices.max()))
        table = np.zeros(largest + 1, dtype=np.min_scalar_type(len(segments)))
        for number, segment in enumerate(segments, start=1):
            table[list(segment.values)] = number
        voxels = table[on_slices]
    return _write(voxels, series, segments, algorithm, path, kind)


def write_fractions(
    fractions: Callable[[int], NDArray[np.floating]],
    series: DicomSeries,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    path: Path,
) -> Path:
    """Write probabilities as a fractional segmentation object, atomically.

    Args:
        fractions: Gives the probabilities of the n-th segment on the grid of the image, (Z, Y, X), in [0, 1].
        series: The series that the image was read from, with its files.
        segments: Segments in order.
        algorithm: What made the probabilities.
        path: File to write, `.dcm`.

    Raises:
        UsageError: If the extra `dicom` is not installed.
        ImageFileError: If the files of the series cannot be read any more, or the file cannot be written.
    """
    voxels = np.empty((len(series.slices), *series.shape, len(segments)), dtype=np.float32)
    for number in range(len(segments)):
        voxels[..., number] = np.clip(series.slices_of(fractions(number)), 0, 1)
    return _write(voxels, series, segments, algorithm, path, "fractional")


def read_source_headers(series: DicomSeries) -> list[Header]:
    """Headers of the files of a series: of each slice in its order, or the one of the file that holds all of them.

    What every object of a study must have is added empty where it is missing.

    Raises:
        ImageFileError: If a file is not there any more, or another one.
    """
    pydicom = import_dicom("pydicom")
    headers: list[Header] = []
    names = list(dict.fromkeys(source.file for source in series.slices))
    with open_source(series.path) as files:
        for name in names:
            with files.open(name) as file, quiet():
                try:
                    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
                except dicom_errors() as error:
                    raise ImageFileError(f"{files.describe(name)}: cannot be read again: {describe(error)}") from error
            if str(header.get("SeriesInstanceUID", "")) != series.series_uid:
                raise ImageFileError(
                    f"{files.describe(name)}: was replaced while its image was segmented. Predict again"
                )
            headers.append(header)
    reference = headers[0].get("FrameOfReferenceUID") or pydicom.uid.generate_uid()
    for header in headers:
        for key in _PATIENT_AND_STUDY:
            if key not in header:
                setattr(header, key, "")
        if not header.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = reference
        if not header.get("StudyInstanceUID"):
            header.StudyInstanceUID = pydicom.uid.generate_uid()
    return headers


def _write(
    voxels: NDArray[Any],
    series: DicomSeries,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    path: Path,
    kind: SegmentationType,
) -> Path:
    """Write voxels (S, rows, columns) with numbers of segments, or (S, rows, columns, segments), on their slices."""
    highdicom = import_dicom("highdicom")
    headers = read_source_headers(series)
    frames, places = _in_order_of_frames(voxels, series, headers)
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=_coded(Code("123109", "Artificial Intelligence", "DCM")),
        version=version(DISTRIBUTION),
        source=MANUFACTURER,
        parameters={"model": algorithm.model_hash},
    )
    with quiet():
        try:
            made = highdicom.seg.Segmentation(
                source_images=headers,
                pixel_array=frames,
                segmentation_type=kind.upper(),
                segment_descriptions=[
                    _describe_segment(number, segment, identification)
                    for number, segment in enumerate(segments, start=1)
                ],
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=MANUFACTURER,
                software_versions=version(DISTRIBUTION),
                device_serial_number=algorithm.model_hash[:16] or "0",
                max_fractional_value=MAX_FRACTION,
                plane_positions=places,
                omit_empty_frames=False,
                content_label="SEGMENTATION",
                content_creator_name=MANUFACTURER,
                content_description="automatic segmentation",
                series_description="automatic segmentation",
            )
        except dicom_errors() as error:
            raise ImageFileError(
                f"{path}: no segmentation can be made of the headers of {series.path} ({type(error).__name__}). Write "
                "another format: -o FILE.nii.gz"
            ) from error
    if places is not None:
        _keep_references(made, {source.frame + 1 for source in series.slices})
    return save_object(made, path)


def _keep_references(made: Header, numbers: set[int]) -> None:
    """Leave out references to frames at the same places that the image was not made of."""
    for groups in made.PerFrameFunctionalGroupsSequence:
        for derivation in groups.get("DerivationImageSequence") or ():
            derivation.SourceImageSequence = [
                item for item in derivation.SourceImageSequence if item.get("ReferencedFrameNumber") in numbers
            ]


def save_object(made: Header, path: Path) -> Path:
    """Write a DICOM object, atomically.

    Raises:
        ImageFileError: If it cannot be written.
    """
    with replacing(path) as temporary, quiet():
        try:
            made.save_as(temporary, enforce_file_format=True)
        except dicom_errors() as error:
            if isinstance(error, OSError):
                raise
            raise ImageFileError(f"{path}: cannot be written as DICOM ({type(error).__name__})") from error
    return path


def _in_order_of_frames(
    voxels: NDArray[Any], series: DicomSeries, headers: Sequence[Header]
) -> tuple[NDArray[Any], list[Any] | None]:
    """Voxels in the order of the files, or of the frames of the file; and the places of the slices, if they differ.

    Slices that are some of the frames of a file, as one time of several, have places of their own.
    """
    if len(headers) > 1 or len(series.slices) == 1 == int(headers[0].get("NumberOfFrames") or 1):
        return voxels, None
    frames = [source.frame for source in series.slices]
    if sorted(frames) == list(range(int(headers[0].NumberOfFrames))):
        return voxels[np.argsort(frames)], None
    highdicom = import_dicom("highdicom")
    return voxels, [
        highdicom.PlanePositionSequence(coordinate_system="PATIENT", image_position=source.position)
        for source in series.slices
    ]


def _describe_segment(number: int, segment: Segment, identification: Header) -> Header:
    highdicom, code = import_dicom("highdicom"), segment.code
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:_MAX_LABEL_LENGTH],
        segmented_property_category=_coded(code.category),
        segmented_property_type=_coded(code.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
        tracking_uid=highdicom.UID(),
        tracking_id=segment.name[:_MAX_LABEL_LENGTH],
        anatomic_regions=None if code.region is None else [_coded(code.region)],
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.rgb),
    )
    if code.side is not None:
        sequence = "AnatomicRegionSequence" if code.region else "SegmentedPropertyTypeCodeSequence"
        modifiers = "AnatomicRegionModifierSequence" if code.region else "SegmentedPropertyTypeModifierCodeSequence"
        setattr(description[sequence].value[0], modifiers, [_coded(SIDE_CODES[code.side])])
    return description


def _coded(code: Code) -> Header:
    return import_dicom("highdicom").sr.CodedConcept(code.value, code.scheme, code.meaning[:_MAX_LABEL_LENGTH])
