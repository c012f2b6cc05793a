"""DICOM series made by code, and what their voxels are by hand; nothing of autoseg is used for that.

Each geometry is the direction of rows and columns, the step from one slice to the next, and an origin, in DICOM's
world (left-posterior-superior, mm).
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra `dicom`)")

ROWS, COLUMNS, SLICES = 7, 9, 5
ROW_SPACING, COLUMN_SPACING, STEP = 0.8, 1.25, 2.5
"""mm; rows lie ROW_SPACING apart, columns COLUMN_SPACING."""

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
ENHANCED = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1", "PT": "1.2.840.10008.5.1.4.1.1.130",
}  # fmt: skip

IDENTITY = "Secret^Patient"


def _oblique() -> np.ndarray:
    """Columns: direction along a row, along a column, and the normal."""
    first = np.array([0.9, 0.3, -0.2])
    first /= np.linalg.norm(first)
    second = np.cross([0.1, -0.4, 0.9], first)
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)], axis=1)


X, Y, Z = np.eye(3)
GEOMETRIES = {
    "axial": (X, Y, Z),
    "axial from the head": (X, Y, -Z),
    "prone": (-X, -Y, Z),
    "columns flipped": (X, -Y, Z),
    "rows flipped": (-X, Y, Z),
    "coronal": (X, -Z, Y),
    "sagittal": (Y, -Z, X),
    "oblique": tuple(_oblique().T),
    "oblique backwards": (_oblique()[:, 1], _oblique()[:, 0], _oblique()[:, 2]),
}
"""Directions of rows, of columns and of the steps from file to file."""


@dataclass
class Series:
    """Files of a series with the stored values that they hold."""

    modality: str = "CT"
    geometry: str = "axial"
    number: int = 3
    study_uid: str = "1.2.826.0.1.3680043.8.498.1"
    series_uid: str = "1.2.826.0.1.3680043.8.498.3"
    stored: np.ndarray = field(
        default_factory=lambda: np.random.default_rng(5).integers(0, 2000, (SLICES, ROWS, COLUMNS)).astype(np.uint16)
    )
    step_mm: float = STEP
    tilt: tuple[float, float] = (0.0, 0.0)
    """Shift of each slice along its rows and its columns, mm."""

    @property
    def is_signed(self) -> bool:
        return bool(self.stored.dtype == np.int16)

    def position(self, index: int) -> np.ndarray:
        row, column, step = (np.array(direction) for direction in GEOMETRIES[self.geometry])
        origin = np.array([-31.5, 12.25, 40.0])
        return origin + index * (self.step_mm * step + self.tilt[0] * row + self.tilt[1] * column)

    def slope(self, index: int) -> float:
        return {"CT": 1.0, "MR": 2.0, "PT": 0.5 + 0.25 * index}[self.modality]

    def intercept(self) -> float:
        return {"CT": -1024.0, "MR": 0.0, "PT": 0.0}[self.modality]

    def value(self, index: int) -> np.ndarray:
        """Intensities of a slice, by hand."""
        values: np.ndarray = self.stored[index].astype(np.float64) * self.slope(index) + self.intercept()
        return values

    def worlds(self, index: int) -> np.ndarray:
        """World positions (rows, columns, 3) of a slice's voxels, right-anterior-superior as in NIfTI."""
        row, column, _ = (np.array(direction) for direction in GEOMETRIES[self.geometry])
        r, c = np.mgrid[: self.stored.shape[1], : self.stored.shape[2]]
        lps = self.position(index) + r[..., None] * ROW_SPACING * column + c[..., None] * COLUMN_SPACING * row
        ras: np.ndarray = lps * np.array([-1, -1, 1])
        return ras

    def data_set(self, index: int = 0):
        """The file of one slice."""
        row, column, _ = GEOMETRIES[self.geometry]
        header = _common(self, CLASSES[self.modality], f"{self.series_uid}.{index + 1}")
        header.InstanceNumber = index + 1
        header.ImagePositionPatient = [f"{number:.6f}" for number in self.position(index)]
        header.ImageOrientationPatient = [f"{number:.8f}" for number in (*row, *column)]
        header.PixelSpacing = [ROW_SPACING, COLUMN_SPACING]
        header.SliceThickness = self.step_mm
        header.RescaleSlope, header.RescaleIntercept = self.slope(index), self.intercept()
        if self.modality == "PT":
            header.Units = "BQML"
        header.PixelData = self.stored[index].tobytes()
        return header

    def write(self, folder: Path, *, shuffled: bool = True) -> Path:
        """Write a file for each slice, with names that say nothing about the order."""
        folder.mkdir(parents=True, exist_ok=True)
        names = np.random.default_rng(1).permutation(len(self.stored)) if shuffled else range(len(self.stored))
        for index, name in enumerate(names):
            save(self.data_set(index), folder / f"{self.number:02d}_{name:03d}.dcm")
        return folder

    def write_enhanced(self, path: Path, order=None) -> Path:
        """Write one multi-frame file; its frames have another order than their positions."""
        order = list(np.random.default_rng(2).permutation(len(self.stored))) if order is None else order
        row, column, _ = GEOMETRIES[self.geometry]
        header = _common(self, ENHANCED[self.modality], f"{self.series_uid}.9")
        header.InstanceNumber = 1
        header.NumberOfFrames = len(order)
        orientation, measures = pydicom.Dataset(), pydicom.Dataset()
        orientation.ImageOrientationPatient = [float(number) for number in (*row, *column)]
        measures.PixelSpacing, measures.SliceThickness = [ROW_SPACING, COLUMN_SPACING], self.step_mm
        shared = pydicom.Dataset()
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
        header.SharedFunctionalGroupsSequence = [shared]
        header.PerFrameFunctionalGroupsSequence = [self._functional_groups(index, number) for number, index in
                                                   enumerate(order, start=1)]  # fmt: skip
        header.PixelData = self.stored[np.array(order)].tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        return save(header, path)

    def write_times(self, path: Path, times: int = 2) -> Path:
        """Write one multi-frame file with all slices of several times; each time has values one higher."""
        header = pydicom.dcmread(self.write_enhanced(path, range(len(self.stored))))
        slices, frames = list(header.PerFrameFunctionalGroupsSequence), []
        for time in range(1, times + 1):
            for groups in slices:
                frames.append(copy.deepcopy(groups))
                frames[-1].FrameContentSequence[0].TemporalPositionIndex = time
        header.PerFrameFunctionalGroupsSequence, header.NumberOfFrames = frames, len(frames)
        header.PixelData = b"".join((self.stored + time).tobytes() for time in range(times))
        return save(header, path)

    def _functional_groups(self, index: int, number: int):
        place, values, content = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [float(value) for value in self.position(index)]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = self.slope(index), self.intercept(), "US"
        content.DimensionIndexValues = [number]
        groups = pydicom.Dataset()
        groups.PlanePositionSequence, groups.PixelValueTransformationSequence = [place], [values]
        groups.FrameContentSequence = [content]
        return groups


def make_segments(values):
    """Segments with these values by name, and what made them, as arguments of the writers."""
    from autoseg.imaging.formats.dicom.codes import find_code
    from autoseg.imaging.formats.dicom.segments import Algorithm, Segment

    colors = [(230, 159, 0), (86, 180, 233), (0, 158, 115)]
    segments = [
        Segment(name, value, color, find_code(name))
        for (name, value), color in zip(values.items(), colors, strict=False)
    ]
    return segments, Algorithm("abc123")


def _common(series: Series, class_uid: str, instance_uid: str):
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = class_uid
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = instance_uid
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = IDENTITY, IDENTITY, "", ""
    header.AccessionNumber, header.StudyID, header.ReferringPhysicianName = "", "", ""
    header.StudyDate, header.StudyTime = "20200101", "120000"
    header.StudyInstanceUID, header.SeriesInstanceUID = series.study_uid, series.series_uid
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = f"{series.study_uid}.5", ""
    header.SeriesNumber, header.Modality = series.number, series.modality
    header.Manufacturer, header.PatientPosition = "", "HFS"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = series.stored.shape[1:]
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = int(series.is_signed)
    return header


def save(header, path: Path) -> Path:
    """Write a data set as a file of DICOM."""
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def change_files(folder: Path, change) -> None:
    """Read every file of a folder, change its data set, and write it again."""
    for path in sorted(folder.iterdir()):
        header = pydicom.dcmread(path)
        change(header)
        save(header, path)
