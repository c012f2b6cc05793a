from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.formats.dicom.codes import find_code
from autoseg.imaging.formats.dicom.segments import Algorithm, Segment, write_fractions, write_segmentation
from autoseg.imaging.formats.reading import read_image
from tests.dicom_builders import COLUMNS, GEOMETRIES, IDENTITY, ROWS, SLICES, Series, change_files, pydicom

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (extra `dicom`)")

SEGMENTS = [
    Segment("liver", (3,), (230, 159, 0), find_code("liver")),
    Segment("kidney_left", (300,), (86, 180, 233), find_code("kidney_left")),
    Segment("nothing here", (7,), (0, 158, 115), find_code("nothing here")),
]
ALGORITHM = Algorithm("abc123")


def read_series(path):
    volume = read_image([path])
    assert volume.template.series is not None
    return volume, volume.template.series


def labels_by_world(series, volume, seed=0):
    """Random labels in the files' voxels, (slices, rows, columns), and the same on the grid of the image."""
    slices = np.random.default_rng(seed).choice([0, 3, 300], series.stored.shape).astype(np.uint16)
    on_grid = np.zeros(volume.grid.shape, np.uint16)
    inverse = np.linalg.inv(np.array(volume.grid.affine))
    for index, plane in enumerate(slices):
        worlds = np.concatenate([series.worlds(index), np.ones((ROWS, COLUMNS, 1))], axis=2)
        on_grid[tuple(np.rint(worlds @ inverse.T)[..., :3].astype(int).transpose(2, 0, 1))] = plane
    return slices, on_grid


def masks_by_instance(path):
    """Frames of a segmentation by hand: (segment number, SOP instance, frame of it) -> mask, with their positions."""
    header = pydicom.dcmread(path)
    frames = {}
    for groups, mask in zip(header.PerFrameFunctionalGroupsSequence, header.pixel_array, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        key = (number, source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber") or 0))
        assert key not in frames
        frames[key] = mask, np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    return header, frames


def assert_on_slices(path, series, slices, *, order=None):
    header, frames = masks_by_instance(path)
    assert len(frames) == len(SEGMENTS) * SLICES
    for number, segment in enumerate(SEGMENTS, start=1):
        for index in range(SLICES):
            uid = f"{series.series_uid}.{index + 1}" if order is None else f"{series.series_uid}.9"
            mask, position = frames[number, uid, 0 if order is None else order.index(index) + 1]
            np.testing.assert_array_equal(mask, np.isin(slices[index], segment.values))
            np.testing.assert_allclose(position, series.position(index), atol=1e-4)
    return header


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_voxel_lies_on_its_own_slice(tmp_path, geometry, modality):
    series = Series(modality, geometry)
    volume, source = read_series(series.write(tmp_path / "a"))
    slices, labels = labels_by_world(series, volume)
    path = write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    header = assert_on_slices(path, series, slices)
    assert header.FrameOfReferenceUID == f"{series.study_uid}.5"
    assert header.StudyInstanceUID == series.study_uid
    assert header.PatientID == IDENTITY
    assert [item.SegmentNumber for item in header.SegmentSequence] == [1, 2, 3]
    references = header.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == series.series_uid
    assert len(references.ReferencedInstanceSequence) == SLICES


@pytest.mark.parametrize("geometry", ["axial", "coronal", "oblique backwards"])
def test_frames_of_a_multi_frame_file(tmp_path, geometry):
    series, order = Series("MR", geometry), [3, 0, 4, 2, 1]
    volume, source = read_series(series.write_enhanced(tmp_path / "a.dcm", order))
    slices, labels = labels_by_world(series, volume)
    path = write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    assert_on_slices(path, series, slices, order=order)


def test_one_time_of_several(tmp_path):
    series = Series("MR")
    series.write_times(tmp_path / "a.dcm")
    volume, source = read_series(tmp_path / "a.dcm#3-2")
    slices, labels = labels_by_world(series, volume)
    np.testing.assert_array_equal(volume.array[0, 0], (series.stored[0] + 1) * 2)
    path = write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    order = [*([None] * SLICES), *range(SLICES)]  # the frames of the second time
    assert_on_slices(path, series, slices, order=order)


def test_tilted_slices_get_their_own_labels(tmp_path):
    series = Series(tilt=(0.0, 1.1))
    volume, source = read_series(series.write(tmp_path / "a"))
    slices = np.random.default_rng(1).choice([0, 3, 300], series.stored.shape).astype(np.uint16)
    labels = source.put_slices(slices, volume.grid)
    path = write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    assert_on_slices(path, series, slices)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_highdicom_reads_the_same_voxels(tmp_path, kind):
    series = Series("CT", "oblique")
    volume, source = read_series(series.write(tmp_path / "a"))
    slices, labels = labels_by_world(series, volume)
    path = write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm", kind)
    found = highdicom.seg.segread(path)
    uids = [f"{series.series_uid}.{index + 1}" for index in range(SLICES)]
    pixels = found.get_pixels_by_source_instance(uids, combine_segments=True, skip_overlap_checks=True)
    np.testing.assert_array_equal(pixels, np.where(slices == 300, 2, slices // 3))
    assert found.segmentation_type.value == kind.upper()


def test_itk_reads_the_same_frames(tmp_path):
    series = Series("CT", "coronal")
    volume, source = read_series(series.write(tmp_path / "a"))
    _, labels = labels_by_world(series, volume)
    path = write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    expected = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(frames[:-1] > 0, expected[:-1] > 0)  # ITK misreads the bits of the last, filled byte


def test_what_a_segment_is(tmp_path):
    series = Series()
    volume, source = read_series(series.write(tmp_path / "a"))
    path = write_segmentation(np.zeros(volume.grid.shape, np.uint8), source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    liver, kidney, other = pydicom.dcmread(path).SegmentSequence
    assert (liver.SegmentLabel, liver.SegmentAlgorithmType) == ("liver", "AUTOMATIC")
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Left"
    assert other.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    algorithm = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmParameters) == ("autoseg", "model=abc123")
    lab = np.array(liver.RecommendedDisplayCIELabValue) / 65535 * [100, 255, 255] - [0, 128, 128]
    np.testing.assert_allclose(lab, [72.4, 17.2, 75.4], atol=3)  # orange of Okabe and Ito in CIELab


def test_overlapping_labels(tmp_path):
    series = Series()
    volume, source = read_series(series.write(tmp_path / "a"))
    slices, labels = labels_by_world(series, volume)
    segments = [Segment("whole", (3, 300), (1, 2, 3), SEGMENTS[0].code), *SEGMENTS[1:]]
    path = write_segmentation(labels, source, segments, ALGORITHM, tmp_path / "seg.dcm")
    _, frames = masks_by_instance(path)
    np.testing.assert_array_equal(frames[1, f"{series.series_uid}.1", 0][0], slices[0] > 0)
    np.testing.assert_array_equal(frames[2, f"{series.series_uid}.1", 0][0], slices[0] == 300)
    with pytest.raises(UsageError, match=r"labels overlap.*--seg-type binary"):
        write_segmentation(labels, source, segments, ALGORITHM, tmp_path / "seg.dcm", "labelmap")


def test_probabilities(tmp_path):
    series = Series()
    volume, source = read_series(series.write(tmp_path / "a"))
    fractions = np.random.default_rng(2).random((3, *volume.grid.shape)).astype(np.float16)
    path = write_fractions(lambda number: fractions[number], source, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    header, frames = masks_by_instance(path)
    assert (header.SegmentationType, header.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    expected = np.rint(fractions[1, 2].astype(float) * 255)
    np.testing.assert_allclose(frames[2, f"{series.series_uid}.3", 0][0], expected, atol=1)


def test_headers_without_what_they_should_have(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a")

    def strip(header):
        for key in ("PatientBirthDate", "AccessionNumber", "FrameOfReferenceUID", "StudyDate", "Manufacturer"):
            delattr(header, key)

    change_files(folder, strip)
    volume, source = read_series(folder)
    slices, labels = labels_by_world(series, volume)
    assert_on_slices(write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "s.dcm"), series, slices)


def test_series_that_is_gone_or_replaced(tmp_path):
    series = Series()
    folder = series.write(tmp_path / "a")
    volume, source = read_series(folder)
    labels = np.zeros(volume.grid.shape, np.uint8)
    change_files(folder, lambda header: setattr(header, "SeriesInstanceUID", "1.2.3"))
    with pytest.raises(ImageFileError, match="was replaced while its image was segmented"):
        write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "s.dcm")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(ImageFileError, match="cannot be read"):
        write_segmentation(labels, source, SEGMENTS, ALGORITHM, tmp_path / "s.dcm")
    assert not Path(tmp_path / "s.dcm").exists()
