"""Headers of DICOM files: every frame with its place in the patient and how its stored values become intensities.

Tested in tests/imaging/formats/dicom/test_reading.py.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.library import dicom_errors, import_dicom, quiet
from autoseg.imaging.formats.dicom.sources import DicomSource
from autoseg.imaging.formats.volume import AnyArray

Header = Any
"""A pydicom data set."""

Vector = tuple[float, float, float]

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of segmentations: binary and fractional ones, label maps."""

_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"

_UNITS_MODALITIES = ("CT", "PT")
"""Modalities whose intensities have a unit, which does not depend on how they are displayed."""

_HALF_RANGE = 1 << 15

_TOLD = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
    "Modality", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "SegmentationType",
    "MaximumFractionalValue",
)  # fmt: skip
"""Attributes that are asked for by many functions."""

_VARYING = (
    "AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue",
    "DiffusionGradientOrientation", "ImageType", "TriggerTime", "InversionTime", "AcquisitionTime", "Exposure",
    "ContentTime", "StackID", "TemporalPositionIndex", "EffectiveEchoTime", "FrameType",
    "ComplexImageComponent", "NominalCardiacTriggerDelayTime",
)  # fmt: skip
"""Attributes that tell images of one series at the same positions apart, the most telling first."""


MAX_FRAMES = 100_000
"""Largest number of frames in one file: a damaged or malicious header may claim any."""


@dataclass(frozen=True)
class Intensities:
    """How the stored values of a frame become intensities."""

    slope: float = 1.0
    intercept: float = 0.0
    lookup: tuple[int, tuple[float, ...]] | None = None
    """Table of intensities with the stored value that its first entry belongs to; None: slope and intercept count."""
    padding: tuple[int, int] | None = None
    """First and last stored value outside of the image; None: every voxel is inside."""
    inverted_sum: int | None = None
    """Sum of a stored value and its inverse, where low values mean bright ones; None: high values mean bright ones."""


@dataclass(frozen=True)
class Frame:
    """One slice of a file."""

    file: str
    """Name in the source."""
    index: int
    """Number of the frame in its file, from 0."""
    class_uid: str
    instance_uid: str
    series_uid: str
    series_number: str
    modality: str
    reference_uid: str
    """Frame of reference; empty if the file has none."""
    shape: tuple[int, int]
    """Rows and columns."""
    channels: int
    is_localizer: bool
    position: Vector | None
    """Centre of the first voxel in mm, left-posterior-superior; None: the file has no place in the patient."""
    orientation: tuple[float, ...]
    """Direction along a row and along a column, three numbers each; empty without a place in the patient."""
    spacing: tuple[float, float]
    """Distance of rows and of columns in mm; zeros if the file has none."""
    thickness: float
    """Thickness of the slice or distance of slices in mm, 0 if the file has neither."""
    distance: float
    """Distance of the slices of the stack in mm, 0 if the file does not say it."""
    intensities: Intensities
    varying: tuple[tuple[str, str], ...]
    """What may tell it from another frame at the same position."""
    instance_number: int = 0


def read_header(source: DicomSource, name: str) -> Header | None:
    """Read everything but the voxels of a file.

    Returns:
        The header; None for a file that is not DICOM.

    Raises:
        ImageFileError: If the file is damaged.
        UsageError: If the extra is not installed.
    """
    if not source.is_dicom(name):
        return None
    pydicom = import_dicom("pydicom")
    with source.open(name) as file, quiet():
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            for key in _TOLD:  # converts them, so that a damaged one is found here
                header.get(key)
        except dicom_errors() as error:
            raise ImageFileError(f"{source.describe(name)}: cannot be read as DICOM: {describe(error)}") from error
    if "SOPClassUID" not in header:
        return None
    return None if str(header.SOPClassUID) == _DICOMDIR_CLASS else header


def describe(error: Exception) -> str:
    """The kind of an error of pydicom; its text may quote values of the patient, and stays out of messages."""
    return f"it is damaged, truncated or of an unusual kind ({type(error).__name__})"


def frames_of(header: Header, source: DicomSource, name: str) -> tuple[Frame, ...]:
    """Every frame of an image; empty for files without voxels and for segmentations.

    Raises:
        ImageFileError: If the header is damaged.
    """
    if (
        "Rows" not in header
        or "Columns" not in header
        or str(header.SOPClassUID) in SEGMENTATION_CLASSES
        or header.get("Modality") == "RTDOSE"
    ):
        return ()
    _check_number_of_frames(header, source.describe(name))
    with quiet():
        try:
            count = int(header.get("NumberOfFrames") or 1)
            return tuple(make_frame(header, name, index) for index in range(count))
        except dicom_errors() as error:
            raise ImageFileError(f"{source.describe(name)}: cannot be read as DICOM: {describe(error)}") from error


def _check_number_of_frames(header: Header, file: str) -> None:
    found = str(header.get("NumberOfFrames") or 1)
    if found.isdecimal() and int(found) > MAX_FRAMES:
        raise ImageFileError(f"{file}: claims to have {found} frames, expected up to {MAX_FRAMES}; save it again")


def make_frame(header: Header, name: str, index: int) -> Frame:
    """One frame of a file, by its header; one of dicom_errors is raised for a damaged one."""
    groups = _functional_groups(header, index)
    position, orientation = _place(header, groups)
    measures = _first(groups, "PixelMeasuresSequence", header)
    spacing = measures.get("PixelSpacing") or (0, 0)
    return Frame(
        file=name,
        index=index,
        class_uid=str(header.SOPClassUID),
        instance_uid=str(header.get("SOPInstanceUID", "")),
        series_uid=str(header.get("SeriesInstanceUID", "")),
        series_number=number if (number := _text(header, "SeriesNumber")).isdecimal() else "",
        modality=modality_of(header),
        reference_uid=str(header.get("FrameOfReferenceUID", "")),
        shape=(int(header.Rows), int(header.Columns)),
        channels=3 if int(header.get("SamplesPerPixel") or 1) > 1 else 1,
        is_localizer="LOCALIZER" in [str(word).upper() for word in header.get("ImageType") or ()],
        position=position,
        orientation=orientation,
        spacing=(float(spacing[0]), float(spacing[1])),
        thickness=float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0),
        distance=float(measures.get("SpacingBetweenSlices") or 0),
        intensities=_intensities(header, groups),
        varying=tuple((key, text) for key in _VARYING if (text := _varying(header, groups, key))),
        instance_number=int(header.get("InstanceNumber") or 0),
    )


def modality_of(header: Header) -> str:
    """Code of the modality, such as CT; empty if there is none, or a damaged one, which a message must not quote."""
    text = _text(header, "Modality")
    return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else ""


def _text(header: Header, key: str) -> str:
    value = header.get(key)
    return "" if value is None else str(value)


def _functional_groups(header: Header, index: int) -> tuple[Header, ...]:
    """What a multi-frame file says of one frame, and of all of them."""
    own = header.get("PerFrameFunctionalGroupsSequence") or ()
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    if own and index >= len(own):
        raise ValueError("fewer functional groups than frames")
    return (*own[index : index + 1], *shared[:1])


def _first(groups: tuple[Header, ...], key: str, otherwise: Header) -> Header:
    """The first item of a sequence that the frame, or all frames, have; else something else."""
    return next((group[key].value[0] for group in groups if group.get(key)), otherwise)


def _place(header: Header, groups: tuple[Header, ...]) -> tuple[Vector | None, tuple[float, ...]]:
    position = _first(groups, "PlanePositionSequence", header).get("ImagePositionPatient")
    orientation = _first(groups, "PlaneOrientationSequence", header).get("ImageOrientationPatient")
    is_classic_stack = not groups and int(header.get("NumberOfFrames") or 1) > 1
    if position is None or orientation is None or len(position) != 3 or len(orientation) != 6 or is_classic_stack:
        return None, ()
    x, y, z = (float(number) for number in position)
    directions = tuple(float(number) for number in orientation)
    row, column = np.array(directions[:3]), np.array(directions[3:])
    is_right_angled = abs(row @ column) < 1e-2 and abs(np.linalg.norm(row) - 1) < 1e-2
    if not np.isfinite([x, y, z, *directions]).all() or not is_right_angled or abs(np.linalg.norm(column) - 1) > 1e-2:
        raise ValueError("no usable position or orientation")
    return (x, y, z), directions


def _varying(header: Header, groups: tuple[Header, ...], key: str) -> str:
    """A value of the frame itself, or of its file; sequences of functional groups are looked through."""
    for group in groups[:1]:
        for element in group:
            if element.VR == "SQ" and element.value and key in element.value[0]:
                return str(element.value[0].get(key))
    return _text(header, key)


def _intensities(header: Header, groups: tuple[Header, ...]) -> Intensities:
    transformation = _first(groups, "PixelValueTransformationSequence", header)
    tables = header.get("ModalityLUTSequence")
    slope, intercept = transformation.get("RescaleSlope"), transformation.get("RescaleIntercept")
    return Intensities(
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        lookup=_lookup(tables[0], header) if tables and slope is None else None,
        padding=_padding(header),
        inverted_sum=_inverted_sum(header),
    )


def _lookup(table: Header, header: Header) -> tuple[int, tuple[float, ...]]:
    _, first, bits = table.LUTDescriptor
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = ">" if not header.original_encoding[1] else "<"
        entries = np.frombuffer(entries, dtype=np.uint8 if int(bits) <= 8 else np.dtype(f"{order}u2")).tolist()
    return int(first), tuple(float(entry) for entry in entries)


def _is_signed(header: Header) -> bool:
    return int(header.get("PixelRepresentation") or 0) == 1


def _padding(header: Header) -> tuple[int, int] | None:
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = [int(number) for number in (value, value if limit is None else limit)]
    if _is_signed(header):  # many files store a negative value as if it had no sign
        ends = [end - 2 * _HALF_RANGE if end >= _HALF_RANGE else end for end in ends]
    return min(ends), max(ends)


def _inverted_sum(header: Header) -> int | None:
    is_inverted = str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1"
    if not is_inverted or str(header.get("Modality", "")) in _UNITS_MODALITIES:
        return None
    return -1 if _is_signed(header) else (1 << int(header.BitsStored)) - 1


def apply_intensities(stored: AnyArray, rules: Intensities) -> tuple[AnyArray, AnyArray | None]:
    """Intensities of stored values, and which of them lie outside of the image.

    Args:
        stored: Stored values, (Y, X) or (Y, X, 3).
        rules: Rules of the frame.

    Returns:
        Intensities of the same shape, float32; and where padding is, None without padding.
    """
    outside = None
    if rules.padding is not None:
        outside = (stored >= rules.padding[0]) & (stored <= rules.padding[1])
    values = stored.astype(np.float64) if rules.inverted_sum is None else rules.inverted_sum - stored.astype(np.float64)
    if rules.lookup is not None:
        first, entries = rules.lookup
        positions = np.clip(values - first, 0, len(entries) - 1).astype(np.int64)
        return np.array(entries, dtype=np.float32)[positions], outside
    return (values * rules.slope + rules.intercept).astype(np.float32), outside
