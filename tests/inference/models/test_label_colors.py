"""Colours that eyes can tell apart, and tables as viewers read them."""

import gzip
import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from skimage.color import rgb2lab

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.imaging.formats.reading import read_image
from autoseg.imaging.formats.writing import write_label_map
from autoseg.inference.models.label_colors import (
    PALETTE,
    itk_snap_table,
    label_color,
    name_label_values,
    slicer_table,
    with_label_table,
    write_color_tables,
)
from tests.builders import LABELS, REGIONS

# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def seen(colors, matrix):
    encoded = np.array(colors) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrix).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("matrix", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["normal", "protan", "deutan"])
def test_thirty_colors_stay_apart_for_every_eye(matrix):
    assert len(PALETTE) == 30
    lab = seen(PALETTE, matrix)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(distances) > 15


def test_a_thousand_labels_have_different_colors():
    colors = [label_color(position) for position in range(1000)]
    assert colors[:30] == list(PALETTE)
    assert len(set(colors)) == 1000
    assert all(0 <= part <= 255 for color in colors for part in color)
    assert all(max(color) - min(color) > 20 for color in colors), "greys vanish on the image"


def test_labels_by_value():
    named = name_label_values(make_encoding(LABELS))
    assert [(label.value, label.name) for label in named] == [(3, "anterior"), (300, "posterior")]
    assert [label.color for label in named] == list(PALETTE[:2])


def test_regions_name_what_they_paint():
    named = name_label_values(make_encoding(REGIONS, (1, 2, 3)))
    assert [(label.value, label.name) for label in named] == [(1, "whole"), (2, "core"), (3, "enhancing")]
    both = name_label_values(make_encoding({"left": (1, 3), "right": (2, 3)}, (1, 2), overlapping=True))
    assert [(label.value, label.name) for label in both] == [(1, "left"), (2, "right"), (3, "left+right")]
    shared = name_label_values(make_encoding({"background": 0, "left": (1, 2), "right": (2, 3)}, (1, 1)))
    assert [(label.value, label.name) for label in shared] == [(1, "left/right")]


NAMED = name_label_values(make_encoding({"background": 0, 'left "upper"  lobe': 2, "a<b & c": 41}))


def test_slicer_reads_names_without_blanks():
    comment, *lines = slicer_table(NAMED, 0).splitlines()
    assert comment.startswith("#")
    assert [line.split() for line in lines] == [
        ["0", "background", "0", "0", "0", "0"],
        ["2", 'left_"upper"_lobe', "230", "159", "0", "255"],
        ["41", "a<b_&_c", "86", "180", "233", "255"],
    ]


def test_itk_snap_reads_seven_numbers_and_a_quoted_name():
    lines = [line for line in itk_snap_table(NAMED, 0).splitlines() if not line.startswith("#")]
    fields = [line.split(maxsplit=7) for line in lines]
    assert [[int(number) for number in line[:7]] for line in fields] == [
        [0, 0, 0, 0, 0, 0, 0],
        [2, 230, 159, 0, 1, 1, 1],
        [41, 86, 180, 233, 1, 1, 1],
    ]
    assert [line[7] for line in fields] == ['"Clear Label"', "\"left 'upper'  lobe\"", '"a<b & c"']


def test_both_tables_are_written(tmp_path):
    write_color_tables(NAMED, 0, tmp_path)
    assert (tmp_path / "labels.ctbl").read_text() == slicer_table(NAMED, 0)
    assert (tmp_path / "labels.txt").read_text() == itk_snap_table(NAMED, 0)


def written_with_table(tmp_path, name, header_class=nibabel.Nifti1Image):
    affine = np.diag([-0.8, -1.0, 2.5, 1.0])
    image = header_class(np.random.default_rng(0).normal(size=(7, 5, 4)).astype(np.float32), affine)
    image.header["descrip"] = b"keep me"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment that stays"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(30, b"<CaretExtension/>"))
    source, plain, labelled = (tmp_path / f"{stem}_{name}" for stem in ("image", "plain", "labelled"))
    nibabel.save(image, source)
    template = read_image([source]).template
    labels = np.random.default_rng(1).choice([0, 2, 41], size=(4, 5, 7)).astype(np.uint8)
    write_label_map(labels, template, plain)
    write_label_map(labels, with_label_table(template, NAMED, 0), labelled)
    return nibabel.load(plain), nibabel.load(labelled)


def header_fields(image):
    """As they are in the file; nibabel's own header forgets where voxels begin."""
    path = Path(image.file_map.get("header", image.file_map["image"]).filename)
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    fields = image.header.template_dtype
    return dict(zip(fields.names, np.frombuffer(content[: fields.itemsize], fields)[0], strict=True))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".hdr"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_only_the_extension_and_where_voxels_begin_change(tmp_path, ending, kind):
    if ending == ".hdr":
        kind = nibabel.Nifti1Pair if kind is nibabel.Nifti1Image else nibabel.Nifti2Pair
    plain, labelled = written_with_table(tmp_path, f"x{ending}", kind)
    np.testing.assert_array_equal(labelled.dataobj, plain.dataobj)
    before, after = (header_fields(image) for image in (plain, labelled))
    different = [name for name in before if before[name].tobytes() != after[name].tobytes()]
    assert different == ([] if ending == ".hdr" else ["vox_offset"])
    assert [extension.get_code() for extension in labelled.header.extensions] == [6, 30]
    assert [extension.get_code() for extension in plain.header.extensions] == [6, 30]


def test_the_extension_lists_the_labels(tmp_path):
    _, labelled = written_with_table(tmp_path, "x.nii.gz")
    content = labelled.header.extensions[1].content
    root = ElementTree.fromstring(bytes(content).rstrip(b"\0").decode())
    rows = root.findall("VolumeInformation/LabelTable/Label")
    assert [(row.get("Key"), row.text) for row in rows] == [
        ("0", "background"), ("2", 'left "upper"  lobe'), ("41", "a<b & c"),
    ]  # fmt: skip
    assert [float(rows[1].get(part) or "nan") for part in ("Red", "Green", "Blue", "Alpha")] == pytest.approx(
        [230 / 255, 159 / 255, 0, 1], abs=1e-6
    )


def test_other_formats_have_no_extension(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 7), dtype=np.uint8)), tmp_path / "a.nrrd")
    template = read_image([tmp_path / "a.nrrd"]).template
    assert with_label_table(template, NAMED, 0) is template
