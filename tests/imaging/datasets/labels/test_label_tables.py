"""Tables of label names, written as their programs write them."""

import json

import numpy as np
import pytest

from autoseg.cli.values import named_labels
from autoseg.errors import DatasetError
from autoseg.imaging.datasets.labels.label_tables import find_label_names, read_label_names
from autoseg.inference.models.label_colors import LabelColor, itk_snap_table, slicer_table
from autoseg.stages.describe import describe_dataset
from tests.imaging.datasets.small_datasets import image, label, make_plain, save, whats

ITK_SNAP = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "liver, left lobe"
    2     0  255    0      0.5  1  0    "tumour"
    9     0    0  255        1  1  1    "elsewhere"
"""
SLICER = "# Color table file liver.ctbl\n0 background 0 0 0 0\n1 liver 221 130 101 255\n2 portal vein 0 151 206 255\n"
FREESURFER = """#$Id: FreeSurferColorLUT.txt

#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
1   Left-Cerebral-Exterior                  70  130 180 0
2   Left-Cerebral-White-Matter              245 245 245 0
"""
TABLES = {
    "labels.txt": (ITK_SNAP, {1: "liver, left lobe", 2: "tumour", 9: "elsewhere"}),
    "organs.label": (ITK_SNAP, {1: "liver, left lobe", 2: "tumour", 9: "elsewhere"}),
    "liver.ctbl": (SLICER, {1: "liver", 2: "portal vein"}),
    "FreeSurferColorLUT.txt": (FREESURFER, {1: "Left-Cerebral-Exterior", 2: "Left-Cerebral-White-Matter"}),
    "dseg.tsv": ("index\tname\tcolor\n0\tbackground\t#000\n1\tliver\t#f00\n2\tn/a\t#0f0\n", {1: "liver"}),
    "labels.csv": ("\ufeffName;Value;Red\nliver;1;255\n\"a;b\";2;0\n", {1: "liver", 2: "a;b"}),
    "label_names.csv": ("0,background\n1,liver\n2,\"tumour\"\n", {1: "liver", 2: "tumour"}),
}  # fmt: skip
JSONS = {
    "values by name": ({"liver": 1, "tumour": 2}, {"liver": 1, "tumour": 2}),
    "names by value": ({"0": "background", "1": "liver"}, {"background": 0, "liver": 1}),
    "labels": ({"labels": {"1": "liver", "2": "tumour"}}, {"liver": 1, "tumour": 2}),
    "names": (["background", "liver", "tumour"], {"background": 0, "liver": 1, "tumour": 2}),
    "objects": ([{"id": 3, "name": "liver"}, {"id": 5, "name": "vein"}], {"liver": 3, "vein": 5}),
    "objects in labels": ({"labels": [{"name": "liver", "value": 3}]}, {"liver": 3}),
    "regions": ({"whole": [1, 2], "core": 2, "ignore": 3}, {"whole": (1, 2), "core": 2, "ignore": 3}),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_values(tmp_path, name):
    text, expected = TABLES[name]
    (tmp_path / name).write_text(text)
    assert read_label_names(tmp_path / name).value_names == expected
    found = find_label_names(tmp_path)
    assert found is not None
    assert found.value_names == expected


@pytest.mark.parametrize("name", JSONS)
def test_labels_in_json(tmp_path, name):
    content, expected = JSONS[name]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    assert read_label_names(tmp_path / "labels.json").labels == expected


def test_tables_that_prediction_writes_are_read(tmp_path):
    colors = (LabelColor(1, "liver", (255, 0, 0)), LabelColor(4, "left kidney", (0, 255, 9)))
    (tmp_path / "a.ctbl").write_text(slicer_table(colors, 0))
    (tmp_path / "b.txt").write_text(itk_snap_table(colors, 0))
    assert read_label_names(tmp_path / "a.ctbl").value_names == {1: "liver", 4: "left_kidney"}
    assert read_label_names(tmp_path / "b.txt").value_names == {1: "liver", 4: "left kidney"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "nothing here\n", r"the line 'nothing here' names no label; expected \{\"liver\": 1"),
        ("a.txt", "# only a comment\n", "names no labels"),
        ("a.ctbl", "1 liver 1 2 3 255\n1 spleen 1 2 3 255\n", "the value 1 is called 'liver' and 'spleen'"),
        ("a.ctbl", "99999 liver 1 2 3 255\n", "names no label"),
        ("a.json", "[1, 2", "is no table of labels"),
        ("a.json", '[{"colour": 1}]', "is no table of labels"),
        ("a.json", '{"liver": null}', "is no table of labels"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_label_names(tmp_path / name)


def test_a_table_beside_the_dataset_names_the_values_that_occur(tmp_path):
    make_plain(tmp_path, ["a", "b"])
    (tmp_path / "labels.txt").write_text(ITK_SNAP)
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "liver, left lobe": 1, "tumour": 2}
    assert "labels are named by labels.txt" in description.notes
    assert description.warnings == ()


def test_a_value_that_the_table_lacks_is_a_fault(tmp_path):
    make_plain(tmp_path, ["a", "b"], (1, 2, 7))
    (tmp_path / "liver.ctbl").write_text(SLICER)
    with pytest.raises(DatasetError, match="undeclared label values: 7 in 1 voxels; declared are 0, 1, 2"):
        describe_dataset(tmp_path)


def test_labels_json_declares_regions_ignore_and_channels(tmp_path):
    make_plain(tmp_path, ["a", "b"], (1, 2, 3))
    content = {"labels": {"whole": [1, 2], "core": 2, "ignore": 3}, "channel_names": {"0": "CT"}}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}
    assert [head.painted_index for head in description.encoding.heads] == [1, 2]
    assert description.channel_names == ("CT",)


def test_the_file_is_no_fault_of_a_folder_of_images(tmp_path):
    for seed, case in enumerate("ab"):
        save(tmp_path / f"{case}.nii.gz", image(seed))
        save(tmp_path / f"{case}_seg.nii.gz", label(1, 2))
    (tmp_path / "labels.json").write_text('{"liver": 1, "tumour": 2}')
    (tmp_path / "other.txt").write_text("a note")
    description = describe_dataset(tmp_path)
    assert description.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert whats(description) == "\n".join(
        line for line in whats(description).splitlines() if line.startswith("|other.txt")
    )


def test_files_that_contradict_each_other_are_refused_unless_one_is_given(tmp_path):
    make_plain(tmp_path, ["a", "b"])
    (tmp_path / "labels.txt").write_text(ITK_SNAP)
    (tmp_path / "liver.ctbl").write_text(SLICER)
    with pytest.raises(DatasetError, match=r"several files name labels, and not alike: labels.txt, liver.ctbl"):
        describe_dataset(tmp_path)
    given = named_labels(str(tmp_path / "liver.ctbl"))
    assert describe_dataset(tmp_path, labels=given).labels == {"background": 0, "liver": 1, "portal vein": 2}
    (tmp_path / "labels.json").write_text('{"liver": 1, "vein": 2}')
    assert list(describe_dataset(tmp_path).labels) == ["background", "liver", "vein"]


def test_declared_labels_go_first(tmp_path):
    make_plain(tmp_path, ["a", "b"])
    (tmp_path / "liver.ctbl").write_text(SLICER)
    (tmp_path / "dataset.json").write_text(
        '{"labels": {"background": 0, "x": 1, "y": 2}, "channel_names": {"0": "MR"}}'
    )
    assert list(describe_dataset(tmp_path).labels) == ["background", "x", "y"]


def test_a_table_chooses_masks(tmp_path):
    for seed, case in enumerate("ab"):
        save(tmp_path / case / "ct.nii.gz", image(seed))
        for number, name in enumerate(("heart", "liver", "portal vein")):
            save(tmp_path / case / "segmentations" / f"{name}.nii.gz", np.roll(label(1), number))
    (tmp_path / "liver.ctbl").write_text(SLICER)
    assert list(describe_dataset(tmp_path).labels) == ["background", "heart", "liver", "portal vein"]
    given = read_label_names(tmp_path / "liver.ctbl")
    assert describe_dataset(tmp_path, labels=given).labels == {"background": 0, "liver": 1, "portal vein": 2}
