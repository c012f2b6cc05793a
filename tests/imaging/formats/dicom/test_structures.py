import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from autoseg.imaging.formats.dicom.codes import find_code
from autoseg.imaging.formats.dicom.segments import Algorithm, Segment
from autoseg.imaging.formats.dicom.structures import find_keyhole_contours, write_structures
from autoseg.imaging.formats.reading import read_image
from tests.dicom_builders import COLUMN_SPACING, GEOMETRIES, ROW_SPACING, Series, pydicom

SEGMENTS = [
    Segment("liver", (3,), (230, 159, 0), find_code("liver")),
    Segment("kidney_left", (300,), (86, 180, 233), find_code("kidney_left")),
    Segment("empty", (7,), (0, 158, 115), find_code("empty")),
]


def fill(contours, shape):
    """Pixels whose centres lie inside an odd number of contours (N, 2) of rows and columns, by crossing edges."""
    mask = np.zeros(shape, dtype=int)
    for points in contours:
        first, second = points, np.roll(points, -1, axis=0)
        for row, column in np.ndindex(shape):
            is_crossed = (first[:, 0] > row) != (second[:, 0] > row)
            a, b = first[is_crossed], second[is_crossed]
            crossing = a[:, 1] + (row - a[:, 0]) / (b[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
            mask[row, column] ^= int(np.count_nonzero(crossing > column) % 2)
    return mask.astype(bool)


MASKS = {
    "one voxel": ["000", "010", "000"],
    "at the border": ["110", "110"],
    "everything": ["11", "11"],
    "hole": ["11111", "10001", "10101", "10001", "11111"],
    "two holes": ["1111111", "1011011", "1111111", "1101101", "1111111"],
    "corners that touch": ["1000", "0100", "0011", "0011"],
    "holes that touch by corners": ["11111", "10111", "11011", "11101", "11111"],
    "hole beside a corner": ["0111", "1011", "1111"],
    "empty": ["000"],
}


@pytest.mark.parametrize("name", MASKS)
def test_contours_enclose_exactly_the_voxels(name):
    mask = np.array([[int(letter) for letter in row] for row in MASKS[name]], dtype=bool)
    np.testing.assert_array_equal(fill(find_keyhole_contours(mask), mask.shape), mask)


@pytest.mark.parametrize("seed", range(8))
def test_contours_of_random_masks(seed):
    mask = np.random.default_rng(seed).random((11, 14)) < 0.2 + 0.08 * seed
    np.testing.assert_array_equal(fill(find_keyhole_contours(mask), mask.shape), mask)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_contours_lie_around_the_labelled_voxels_of_their_slices(tmp_path, geometry, modality):
    series = Series(modality, geometry)
    volume = read_image([series.write(tmp_path / "a")])
    assert volume.template.series is not None
    slices = np.random.default_rng(1).choice([0, 3, 300], (5, 7, 9), p=[0.3, 0.4, 0.3]).astype(np.uint16)
    by_file = {source.instance_uid: plane for source, plane in zip(volume.template.series.slices, slices, strict=True)}
    labels = volume.template.series.put_slices(slices, volume.grid)
    path = write_structures(labels, volume.template.series, SEGMENTS, Algorithm("abc"), tmp_path / "rt.dcm")
    header = pydicom.dcmread(path)
    assert [roi.ROIName for roi in header.StructureSetROISequence] == ["liver", "kidney_left", "empty"]
    assert header.FrameOfReferenceUID == f"{series.study_uid}.5"
    row, column, _ = (np.array(direction) for direction in GEOMETRIES[geometry])
    for region, segment in zip(header.ROIContourSequence, SEGMENTS, strict=True):
        contours: dict[str, list[np.ndarray]] = {}
        for contour in region.get("ContourSequence", []):
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            assert contour.NumberOfContourPoints == len(points)
            offsets = points - series.position(int(uid.rpartition(".")[2]) - 1)
            assert np.abs(offsets @ np.cross(row, column)).max() < 1e-3  # in the plane of the slice
            pixels = np.stack([offsets @ column / ROW_SPACING, offsets @ row / COLUMN_SPACING], axis=1)
            contours.setdefault(uid, []).append(pixels)
        for uid, plane in by_file.items():
            np.testing.assert_array_equal(fill(contours.get(uid, []), plane.shape), np.isin(plane, segment.values))


def test_straight_edges_have_no_points_between_their_ends():
    mask = np.zeros((9, 12), dtype=bool)
    mask[2:7, 3:10] = True
    (contour,) = find_keyhole_contours(mask)
    assert len(contour) == 8  # each corner is cut


def test_contour_that_is_longer_than_64_kilobytes(tmp_path):
    comb = np.zeros((3, 200, 120), dtype=np.uint8)
    comb[:, 0], comb[:, :, ::4], comb[:, ::2, 1::4] = 1, 1, 1
    series = Series(stored=comb.astype(np.uint16) * 100)
    volume = read_image([series.write(tmp_path / "a")])
    assert volume.template.series is not None
    labels = np.zeros(volume.grid.shape, np.uint16)
    labels[1] = comb[1] * 3
    path = write_structures(labels, volume.template.series, SEGMENTS, Algorithm("abc"), tmp_path / "rt.dcm")
    (contour,) = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints > 5_000
    assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints


def test_matplotlib_finds_the_same_voxels_inside():
    mask = np.zeros((12, 12), dtype=bool)
    mask[2:10, 1:11] = True
    mask[4:6, 3:5] = False
    (contour,) = find_keyhole_contours(mask)
    centres = np.indices((12, 12)).reshape(2, -1).T
    inside = Polygon(contour).contains_points(centres).reshape(12, 12)
    np.testing.assert_array_equal(inside, mask)


def test_frames_of_a_multi_frame_file_are_named(tmp_path):
    series, order = Series("MR"), [3, 0, 4, 2, 1]
    volume = read_image([series.write_enhanced(tmp_path / "a.dcm", order)])
    assert volume.template.series is not None
    labels = np.zeros(volume.grid.shape, np.uint8)
    labels[2, 1:3, 1:3] = 3
    path = write_structures(labels, volume.template.series, SEGMENTS, Algorithm("abc"), tmp_path / "rt.dcm")
    (contour,) = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == order.index(2) + 1
