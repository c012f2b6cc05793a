from dataclasses import replace

import numpy as np
import pytest

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.dicom.segments import write_fractions, write_segmentation
from autoseg.imaging.formats.reading import read_image, read_label_map
from autoseg.imaging.formats.segmentations import place_on_grid, read_layers, read_segments
from autoseg.imaging.formats.volume import grid_difference
from tests.dicom_builders import GEOMETRIES, IDENTITY, SLICES, Series, make_segments, pydicom, save

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (extra `dicom`)")

SEGMENTS, ALGORITHM = make_segments({"liver": (1,), "kidney_left": (2,), "nothing here": (3,)})


def make_labels(tmp_path, series):
    """An image with random labels on its grid."""
    volume = read_image([series.write(tmp_path / "a")])
    slices = np.random.default_rng(0).choice([0, 1, 2], series.stored.shape).astype(np.uint8)
    assert volume.template.series is not None
    return volume, volume.template.series.put_slices(slices, volume.grid)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_written_segmentation_is_read_on_the_grid_of_its_image(tmp_path, geometry, modality):
    volume, labels = make_labels(tmp_path, Series(modality, geometry))
    path = write_segmentation(labels, volume.template.series, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    found = read_label_map(path)
    np.testing.assert_array_equal(found.array[0], labels)
    assert grid_difference(found.grid, volume.grid) is None
    assert [segment.name for segment in read_segments(path)] == ["liver", "kidney_left", "nothing here"]


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.0, 1.1)])
def test_kinds_of_segmentations(tmp_path, kind, tilt):
    volume, labels = make_labels(tmp_path, Series(tilt=tilt))
    path = write_segmentation(labels, volume.template.series, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm", kind)
    found = read_label_map(path)
    np.testing.assert_array_equal(found.array[0], labels)
    assert grid_difference(found.grid, volume.grid) is None


def test_probabilities_count_from_one_half_on(tmp_path):
    volume, _ = make_labels(tmp_path, Series())
    fractions = np.random.default_rng(2).random((3, *volume.grid.shape))
    path = write_fractions(fractions.__getitem__, volume.template.series, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    layers = read_layers(path)
    segments = read_segments(path)
    assert "probabilities" in layers.notes[0]
    for segment, expected in zip(segments, fractions, strict=True):
        sure = np.abs(expected - 0.5) > 0.01
        found = layers.array[segment.layer] == segment.value
        np.testing.assert_array_equal(found[sure], (expected > 0.5)[sure])


def test_segments_that_overlap(tmp_path):
    volume, labels = make_labels(tmp_path, Series())
    segments = [replace(SEGMENTS[0], values=(1, 2)), *SEGMENTS[1:]]
    path = write_segmentation(labels, volume.template.series, segments, ALGORITHM, tmp_path / "seg.dcm")
    layers = read_layers(path)
    whole, kidney, empty = read_segments(path)
    np.testing.assert_array_equal(layers.array[whole.layer] == whole.value, labels > 0)
    np.testing.assert_array_equal(layers.array[kidney.layer] == kidney.value, labels == 2)
    assert not (layers.array[empty.layer] == empty.value).any()
    with pytest.raises(ImageFileError, match="segments overlap, so they are no label map"):
        read_label_map(path)


@pytest.mark.parametrize("geometry", ["axial", "oblique backwards", "coronal"])
@pytest.mark.parametrize("present", [[1, 3], [2], [0, 1, 3], [4]])
def test_segmentation_without_empty_frames(tmp_path, geometry, present):
    """Written by highdicom alone, as most other programs write them."""
    series = Series("MR", geometry)
    volume, labels = make_labels(tmp_path, series)
    assert volume.template.series is not None
    slices = volume.template.series.slices_of(labels)
    slices[[index for index in range(SLICES) if index not in present]] = 0
    headers = [pydicom.dcmread(tmp_path / "a" / source.file) for source in volume.template.series.slices]
    code = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    algorithm = highdicom.AlgorithmIdentificationSequence("x", code, "1")
    made = highdicom.seg.Segmentation(
        headers, slices, "BINARY",
        [highdicom.seg.SegmentDescription(n, f"s{n}", code, code, "AUTOMATIC", algorithm) for n in (1, 2)],
        highdicom.UID(), 1, highdicom.UID(), 1, "x", "x", "x", "x", omit_empty_frames=True,
    )  # fmt: skip
    made.save_as(tmp_path / "seg.dcm")
    placed = place_on_grid(read_layers(tmp_path / "seg.dcm"), volume.grid)
    expected = volume.template.series.put_slices(slices, volume.grid)
    np.testing.assert_array_equal(placed.array[0], expected)


def test_folder_of_one_segmentation(tmp_path):
    volume, labels = make_labels(tmp_path, Series())
    (tmp_path / "label").mkdir()
    write_segmentation(labels, volume.template.series, SEGMENTS, ALGORITHM, tmp_path / "label" / "IM1")
    np.testing.assert_array_equal(read_label_map(tmp_path / "label").array[0], labels)


def test_image_is_no_label_map(tmp_path):
    folder = Series().write(tmp_path / "a")
    with pytest.raises(ImageFileError, match="found no DICOM segmentations, expected one"):
        read_label_map(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda header: header.__delattr__("SegmentSequence"), "cannot be read as a segmentation"),
        (lambda header: header.__delattr__("PerFrameFunctionalGroupsSequence"), "cannot be read as a segmentation"),
        (lambda header: setattr(header, "PixelData", header.PixelData[:10]), "the voxels cannot be read"),
        (lambda header: setattr(header.SegmentSequence[1], "SegmentLabel", "liver"), "two segments have the same name"),
    ],
)
def test_damaged_segmentations(tmp_path, damage, message):
    volume, labels = make_labels(tmp_path, Series())
    path = write_segmentation(labels, volume.template.series, SEGMENTS, ALGORITHM, tmp_path / "seg.dcm")
    header = pydicom.dcmread(path)
    damage(header)
    save(header, path)
    read = read_segments if "same name" in message else read_layers
    with pytest.raises(ImageFileError, match=f"^{path}: .*{message}") as error:
        read(path)
    assert IDENTITY not in str(error.value)
