"""Label maps of a series as a structure set (RTSTRUCT): contours in the planes of its slices.

Contours run half a voxel outside of the outer voxels, so that exactly the voxels of a label lie inside. A hole is cut
out by a keyhole: the contour runs from the outer border to the border of the hole, around it, and the same way back.

Tested in tests/imaging/formats/dicom/test_structures.py.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours

from autoseg import DISTRIBUTION
from autoseg.imaging.formats.dicom.codes import Code
from autoseg.imaging.formats.dicom.frames import Header
from autoseg.imaging.formats.dicom.library import import_dicom
from autoseg.imaging.formats.dicom.segments import (
    MANUFACTURER,
    SERIES_NUMBER,
    Algorithm,
    Segment,
    read_source_headers,
    save_object,
)
from autoseg.imaging.formats.dicom.series import DicomSeries, SourceSlice

STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached study management, which structure sets name for historical reasons."""

_COPIED = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)  # fmt: skip

_ROUNDING = 1e-9

_DECIMALS = 4
"""Decimals of coordinates in mm."""

Points = NDArray[np.float64]
"""Points (N, 2) of a closed contour: row and column, in voxels; the last one is joined to the first."""


def write_structures(
    labels: NDArray[np.unsignedinteger],
    series: DicomSeries,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    path: Path,
) -> Path:
    """Write a label map as a structure set, atomically.

    Args:
        labels: Label values on the grid of the image, (Z, Y, X).
        series: The series that the image was read from (`Template.series`); its files must still be there.
        segments: Regions of interest in order, also those without a voxel.
        algorithm: What made the label map.
        path: File to write, `.dcm`.

    Raises:
        UsageError: If the extra `dicom` is not installed.
        ImageFileError: If the files of the series cannot be read any more, or the file cannot be written.
    """
    headers = read_source_headers(series)
    structures = _make_object(headers[0])
    structures.ReferencedFrameOfReferenceSequence = [_reference(headers[0], series)]
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    on_slices = series.slices_of(labels)
    for number, segment in enumerate(segments, start=1):
        structures.StructureSetROISequence.append(_region(number, segment, algorithm, structures.FrameOfReferenceUID))
        structures.ROIContourSequence.append(_contours(number, segment, on_slices, series))
        structures.RTROIObservationsSequence.append(_observation(number, segment))
    return save_object(structures, path)


def find_keyhole_contours(mask: NDArray[np.bool_]) -> Iterator[Points]:
    """Closed contours of a mask (Y, X), one for each component of voxels that share edges, with holes cut out."""
    components, count = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(components, count), start=1):
        component = np.pad(components[box] == number, 1).astype(np.float64)
        offset = np.array([box[0].start - 1, box[1].start - 1])
        # voxels that share only a corner lie in different contours: level 0.5, "low"
        found = [points[:-1] + offset for points in find_contours(component, 0.5, fully_connected="low")]
        # the outermost contour reaches the smallest row; above a hole lies this contour, or a hole that comes earlier
        contour, *holes = sorted(found, key=lambda points: float(points[:, 0].min()))
        for hole in holes:
            contour = _with_keyhole(contour, hole)
        yield _without_points_on_the_way(contour)


def _with_keyhole(contour: Points, hole: Points) -> Points:
    """A contour that leads straight down to the top of a hole, around the hole, and back.

    The way down begins at the middle of an edge, so that it passes between the centres of voxels.
    """
    top = int(hole[:, 0].argmin())
    around = np.roll(hole, -(top + 1), axis=0)
    end = (hole[top] + around[0]) / 2
    following = np.roll(contour, -1, axis=0)
    crossed = np.flatnonzero((contour[:, 1] > end[1]) != (following[:, 1] > end[1]))
    first, second = contour[crossed], following[crossed]
    rows = first[:, 0] + (end[1] - first[:, 1]) / (second[:, 1] - first[:, 1]) * (second[:, 0] - first[:, 0])
    above = np.flatnonzero(rows < end[0])
    nearest = above[rows[above].argmax()]
    begin, edge = np.array([rows[nearest], end[1]]), int(crossed[nearest])
    return np.concatenate([contour[: edge + 1], [begin, end], around, [end, begin], contour[edge + 1 :]])


def _without_points_on_the_way(contour: Points) -> Points:
    """A contour without points at which it goes straight on."""
    before, after = contour - np.roll(contour, 1, axis=0), np.roll(contour, -1, axis=0) - contour
    is_straight = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) < _ROUNDING
    turns: Points = contour[~(is_straight & ((before * after).sum(axis=1) > 0))]
    return turns


def _make_object(source: Header) -> Header:
    pydicom = import_dicom("pydicom")
    made, now = pydicom.Dataset(), datetime.now().astimezone()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    # explicit VR has no room for contours of more than 64 KB
    made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    for key in _COPIED:
        if key in source:
            setattr(made, key, source.get(key))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = STRUCTURE_SET_CLASS
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = pydicom.uid.generate_uid(), SERIES_NUMBER + 1, 1
    made.Modality, made.SeriesDescription = "RTSTRUCT", "automatic segmentation"
    made.Manufacturer = made.ManufacturerModelName = MANUFACTURER
    made.SoftwareVersions, made.OperatorsName = version(DISTRIBUTION), ""
    made.StructureSetLabel, made.ApprovalStatus = "SEGMENTATION", "UNAPPROVED"
    made.StructureSetDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.StructureSetTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    return made


def _reference(source: Header, series: DicomSeries) -> Header:
    """The frame of reference with all images of the series."""
    pydicom = import_dicom("pydicom")
    study, of_series, reference = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    images = {(image.instance_uid, image.class_uid): image for image in series.slices}
    of_series.SeriesInstanceUID = series.series_uid
    of_series.ContourImageSequence = [_image(image, with_frame=False) for image in images.values()]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, source.StudyInstanceUID
    study.RTReferencedSeriesSequence = [of_series]
    reference.FrameOfReferenceUID = source.FrameOfReferenceUID
    reference.RTReferencedStudySequence = [study]
    return reference


def _image(source: SourceSlice, *, with_frame: bool) -> Header:
    image = import_dicom("pydicom").Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.class_uid, source.instance_uid
    if with_frame:
        image.ReferencedFrameNumber = source.frame + 1
    return image


def _region(number: int, segment: Segment, algorithm: Algorithm, reference_uid: str) -> Header:
    region = import_dicom("pydicom").Dataset()
    region.ROINumber, region.ROIName = number, segment.name[:64]
    region.ReferencedFrameOfReferenceUID = reference_uid
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = f"{algorithm.name} {version(DISTRIBUTION)} model {algorithm.model_hash[:32]}"[:64]
    return region


def _contours(number: int, segment: Segment, on_slices: NDArray[np.unsignedinteger], series: DicomSeries) -> Header:
    pydicom = import_dicom("pydicom")
    of_region = pydicom.Dataset()
    of_region.ReferencedROINumber, of_region.ROIDisplayColor = number, list(segment.rgb)
    contours = []
    is_multi_frame = len({source.instance_uid for source in series.slices}) < len(series.slices)
    for plane, source in zip(on_slices, series.slices, strict=True):
        for points in find_keyhole_contours(np.isin(plane, segment.values)):
            contour = pydicom.Dataset()
            contour.ContourImageSequence = [_image(source, with_frame=is_multi_frame)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            _set_numbers(contour, "ContourData", _in_patient(points, source, series))
            contours.append(contour)
    if contours:
        of_region.ContourSequence = contours
    return of_region


def _set_numbers(item: Header, key: str, numbers: NDArray[np.float64]) -> None:
    """Set decimal numbers as the text that is stored; pydicom takes minutes to check each of a million."""
    pydicom = import_dicom("pydicom")
    text = "\\".join(f"{number:.{_DECIMALS}f}" for number in numbers.ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    tag = pydicom.tag.Tag(key)
    item[tag] = pydicom.dataelem.RawDataElement(
        tag, "DS", len(text), text, value_tell=0, is_implicit_VR=True, is_little_endian=True
    )


def _in_patient(points: Points, source: SourceSlice, series: DicomSeries) -> NDArray[np.float64]:
    """Coordinates (N, 3) of points in a slice, left-posterior-superior, mm."""
    row, column = np.array(series.orientation[:3]), np.array(series.orientation[3:])
    coordinates: NDArray[np.float64] = (
        np.array(source.position) + points[:, :1] * series.spacing[0] * column + points[:, 1:] * series.spacing[1] * row
    )
    return coordinates


def _observation(number: int, segment: Segment) -> Header:
    pydicom = import_dicom("pydicom")
    observation = pydicom.Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.ROIObservationLabel = segment.name[:16]
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
    if segment.code.is_known:
        observation.RTROIIdentificationCodeSequence = [_coded(segment.code.kind)]
    return observation


def _coded(code: Code) -> Header:
    item = import_dicom("pydicom").Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning[:64]
    return item
