"""3D Slicer's segmentations, with headers written by hand as Slicer writes them."""

import gzip

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import DatasetError, ImageFileError
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.reading import read_image
from autoseg.imaging.formats.segmentations import Segment, place_on_grid, read_layers, read_segments
from autoseg.stages.describe import describe_dataset

SHAPE = (4, 6, 5)
"""Of the images, (z, y, x)."""
SPACING = (0.75, 0.5, 2.0)
"""x, y, z."""
ORIGIN = (10.0, -20.0, 5.0)


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    SimpleITK.WriteImage(image, str(path))


def write_segmentation(path, layers, segments, offset=(0, 0, 0), *, shift=0.0, drop=()):
    """Layers (L, Z, Y, X) of which the first voxel lies at `offset` (z, y, x) of the image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = np.asarray(layers, np.uint8)
    origin = [ORIGIN[axis] + SPACING[axis] * (offset[2 - axis] + shift) for axis in range(3)]
    directions = " ".join(
        str(tuple(SPACING[axis] if axis == other else 0 for other in range(3))).replace(" ", "") for axis in range(3)
    )
    sizes = [*layers.shape[:0:-1]]
    is_flat = len(layers) == 1
    header = [
        "NRRD0004", "type: unsigned char", f"dimension: {3 if is_flat else 4}", "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes if is_flat else [len(layers), *sizes]))}",
        f"space directions: {'' if is_flat else 'none '}{directions}",
        f"kinds: {'' if is_flat else 'list '}domain domain domain", "encoding: gzip",
        f"space origin: ({','.join(map(str, origin))})",
    ]  # fmt: skip
    for number, (name, layer, value) in enumerate(segments):
        fields = {"Name": name, "ID": f"Segment_{number}", "LabelValue": value, "Layer": layer, "Color": "1 0 0"}
        header += [f"Segment{number}_{key}:={text}" for key, text in fields.items() if key not in drop]
    header += ["Segmentation_ReferenceImageExtentOffset:=" + " ".join(str(start) for start in offset[::-1]), "", ""]
    voxels = layers[0] if is_flat else np.moveaxis(layers, 0, -1)
    path.write_bytes("\n".join(header).encode() + gzip.compress(np.ascontiguousarray(voxels).tobytes()))


def box(*slices):
    mask = np.zeros(SHAPE, np.uint8)
    mask[slices] = 1
    return mask


LIVER, TUMOUR = box(slice(0, 3), slice(1, 5), slice(0, 4)), box(slice(1, 2), slice(2, 4), slice(1, 3))
SPLEEN = box(slice(1, 4), slice(4, 6), slice(4, 5))


def mask_of(description, files, folder, name):
    entry = description.labels[name]
    found = read_reference(folder, files, description.encoding).array[0]
    return np.isin(found, entry if isinstance(entry, tuple) else (entry,))


def test_segments_of_a_header(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [LIVER, TUMOUR], [("Leber groß", 0, 3), ("tumour", 1, 1)])
    assert read_segments(path) == (Segment("Leber groß", 0, 3), Segment("tumour", 1, 1))
    write_segmentation(path, [LIVER, TUMOUR], [("a", 0, 1), ("b", 0, 1)], drop=("Name", "Layer", "LabelValue"))
    assert read_segments(path) == (Segment("Segment_0", 0, 1), Segment("Segment_1", 1, 1))  # before Slicer 4.11
    write_segmentation(path, [LIVER], [("a", 0, 1), ("a", 0, 2)])
    with pytest.raises(ImageFileError, match="two segments have the same name"):
        read_segments(path)
    write_segmentation(path, [LIVER], [("a", 0, 1), ("b", 0, 1)])
    with pytest.raises(ImageFileError, match="two segments have the same value in one layer"):
        read_segments(path)


def test_layers_are_those_that_simpleitk_reads(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [LIVER, TUMOUR, SPLEEN], [("liver", 0, 1)])
    found = read_layers(path)
    assert np.array_equal(found.array, [LIVER, TUMOUR, SPLEEN])
    components = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert np.array_equal(np.moveaxis(components, -1, 0), found.array)


def test_a_cut_segmentation_is_placed_in_the_image(tmp_path):
    write_image(tmp_path / "image.nrrd")
    grid = read_image([tmp_path / "image.nrrd"]).grid
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, [LIVER[1:4, 2:, 1:4]], [("liver", 0, 1)], (1, 2, 1))
    placed = place_on_grid(read_layers(path), grid)
    expected = np.zeros(SHAPE)
    expected[1:4, 2:, 1:4] = LIVER[1:4, 2:, 1:4]
    assert np.array_equal(placed.array[0], expected)
    assert placed.grid == grid
    resampled = SimpleITK.Resample(
        SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(tmp_path / "image.nrrd")), SimpleITK.Transform(),
        SimpleITK.sitkNearestNeighbor,
    )  # fmt: skip
    assert np.array_equal(SimpleITK.GetArrayFromImage(resampled), expected)


def test_a_segmentation_beyond_the_image_is_cut_where_it_is_empty(tmp_path):
    write_image(tmp_path / "image.nrrd")
    grid = read_image([tmp_path / "image.nrrd"]).grid
    wide = np.pad(LIVER, ((1, 2), (0, 0), (2, 0)))
    write_segmentation(tmp_path / "a.seg.nrrd", [wide], [("liver", 0, 1)], (-1, 0, -2))
    assert np.array_equal(place_on_grid(read_layers(tmp_path / "a.seg.nrrd"), grid).array[0], LIVER)
    write_segmentation(tmp_path / "a.seg.nrrd", [wide], [("liver", 0, 1)], (-2, 0, -2))
    with pytest.raises(ImageFileError, match="has segments outside of the image"):
        place_on_grid(read_layers(tmp_path / "a.seg.nrrd"), grid)
    write_segmentation(tmp_path / "a.seg.nrrd", [wide], [("liver", 0, 1)], (-1, 0, -2), shift=0.4)
    with pytest.raises(ImageFileError, match="not on the grid of the image"):
        place_on_grid(read_layers(tmp_path / "a.seg.nrrd"), grid)


def test_segments_are_matched_by_name(tmp_path):
    """Values and order differ from case to case, a segment is missing in one, and every file is cut."""
    for case in "abc":
        write_image(tmp_path / f"{case}.nrrd", ord(case))
    write_segmentation(tmp_path / "a.seg.nrrd", [LIVER + 2 * SPLEEN], [("liver", 0, 1), ("spleen", 0, 2)])
    write_segmentation(
        tmp_path / "b.seg.nrrd", [(2 * LIVER + SPLEEN)[:, 1:]], [("spleen", 0, 1), ("liver", 0, 2)], (0, 1, 0)
    )
    write_segmentation(tmp_path / "c.seg.nrrd", [LIVER[:3]], [("liver", 0, 1)])
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "liver": 1, "spleen": 2}
    for files, spleen in zip(description.cases, (SPLEEN, SPLEEN, 0 * SPLEEN), strict=True):
        assert np.array_equal(mask_of(description, files, tmp_path, "liver"), LIVER)
        assert np.array_equal(mask_of(description, files, tmp_path, "spleen"), spleen)
    notes = "\n".join(description.notes)
    assert "recognised 3D Slicer's segmentations; segments are matched by name: liver, spleen" in notes
    assert "masks that are missing count as empty: spleen in 1 of 3 cases" in notes


def test_values_that_agree_are_kept_and_segments_may_overlap(tmp_path):
    for case in "ab":
        write_image(tmp_path / case / "ct.nrrd", ord(case))
        write_segmentation(
            tmp_path / case / "Segmentation.seg.nrrd", [LIVER + 5 * SPLEEN, 3 * TUMOUR],
            [("liver", 0, 1), ("spleen", 0, 5), ("tumour", 1, 3)],
        )  # fmt: skip
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "liver": (1, 6), "spleen": 5, "tumour": (3, 6)}
    assert description.encoding.overlapping
    for files in description.cases:
        for name, mask in {"liver": LIVER, "spleen": SPLEEN, "tumour": TUMOUR}.items():
            assert np.array_equal(mask_of(description, files, tmp_path, name), mask)


def test_labels_that_no_segment_is_called_are_values(tmp_path):
    write_image(tmp_path / "images" / "a.nrrd")
    write_segmentation(tmp_path / "labels" / "a.seg.nrrd", [LIVER + 2 * SPLEEN], [("S1", 0, 1), ("S2", 0, 2)])
    description = describe_dataset(tmp_path, labels={"liver": 1, "spleen": 2})
    assert description.cases[0].parts is None
    chosen = describe_dataset(tmp_path, labels={"S2": 4})
    assert np.array_equal(mask_of(chosen, chosen.cases[0], tmp_path, "S2"), SPLEEN)


def test_a_file_without_names_among_named_ones_is_a_fault(tmp_path):
    for case in "ab":
        write_image(tmp_path / f"{case}.nrrd", ord(case))
    write_segmentation(tmp_path / "a.seg.nrrd", [LIVER], [("liver", 0, 1)])
    write_segmentation(tmp_path / "b.seg.nrrd", [LIVER], [])
    with pytest.raises(DatasetError, match=r"error +b +b.seg.nrrd +has no names of segments, which other cases have"):
        describe_dataset(tmp_path)


def test_a_mask_of_slicer_names_its_image(tmp_path):
    write_image(tmp_path / "CTChest.nrrd")
    write_segmentation(tmp_path / "CTChest-Segmentation.seg.nrrd", [LIVER], [("liver", 0, 1)])
    (files,) = describe_dataset(tmp_path).cases
    assert (files.case, files.images, files.label) == ("CTChest", ("CTChest.nrrd",), "CTChest-Segmentation.seg.nrrd")
