"""Label maps as viewers want them, read back with SimpleITK and by the reader of segmentations."""

import numpy as np
import pytest
import SimpleITK

from autoseg.imaging.formats.segmentations import read_segments
from autoseg.inference.models.label_colors import LabelColor
from autoseg.server.viewer_files import write_for_viewer

LABELS = (LabelColor(3, "left  atrium", (255, 0, 51)), LabelColor(200, "empty", (0, 0, 255)))


@pytest.fixture
def source(tmp_path):
    values = np.random.default_rng(0).choice([0, 3], (3, 5, 7)).astype(np.uint8)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.8, 1.5, 2.5))
    image.SetOrigin((1, 2, 3))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    SimpleITK.WriteImage(image, str(tmp_path / "source.nrrd"))
    return tmp_path / "source.nrrd"


@pytest.mark.parametrize("ending", [".nrrd", ".seg.nrrd", ".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("number_type", ["uint8", "uint16"])
def test_voxels_geometry_and_type(source, ending, number_type):
    target = source.with_name(f"label_map{ending}")
    write_for_viewer(source, target, LABELS, number_type=number_type, compressed=True)
    before, after = SimpleITK.ReadImage(str(source)), SimpleITK.ReadImage(str(target))
    assert np.array_equal(SimpleITK.GetArrayFromImage(before), SimpleITK.GetArrayFromImage(after))
    assert SimpleITK.GetArrayFromImage(after).dtype == number_type
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, name)() == pytest.approx(getattr(before, name)(), abs=1e-6)


def test_a_value_that_needs_16_bits_gets_them(source):
    target = source.with_name("label_map.nrrd")
    write_for_viewer(source, target, (LabelColor(300, "x", (0, 0, 0)),), number_type="uint8", compressed=False)
    assert SimpleITK.ReadImage(str(target)).GetPixelID() == SimpleITK.sitkUInt16
    assert b"encoding: raw" in target.read_bytes()


def test_a_segmentation_names_all_labels_also_empty_ones(source):
    target = source.with_name("label_map.seg.nrrd")
    write_for_viewer(source, target, LABELS, number_type="uint8", compressed=True)
    assert [(segment.name, segment.value, segment.layer) for segment in read_segments(target)] == [
        ("left atrium", 3, 0),
        ("empty", 200, 0),
    ]
    header = target.read_bytes().split(b"\n\n")[0].decode()
    assert "Segment0_Color:=1 0 0.2" in header
    assert "Segment1_Extent:=0 6 0 4 0 2" in header
