"""Texts and files that say which label a colour is."""

import pytest

from autoseg.errors import UsageError
from autoseg.imaging.datasets.labels.label_colors import parse_label_colors, resolve_colors
from autoseg.records.dataset import LabelValues

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize(
    "text",
    [
        "red=tumour, 0,255,0=liver, #0000ff=left vessel",
        "red=tumour,lime=liver,blue=left vessel",
        " #f00 = tumour ;(0, 255, 0) = liver; rgb(0,0,255)=left vessel ",
        "tumour=red, liver=0,255,0, left vessel=#00f",
        "tumour=255,0,0, liver=0,255,0, left vessel=0,0,255",
        "red=tumour, liver=0 255 0, #00F=left vessel",
        "255,0,0=tumour\n0,255,0=liver\n0,0,255=left vessel\n",
    ],
)
def test_forms_of_entries(text: str):
    assert parse_label_colors(text) == ((RED, "tumour"), (GREEN, "liver"), (BLUE, "left vessel"))


@pytest.mark.parametrize(
    "content",
    [
        "# colours of the masks\n\nred=tumour\n#00ff00=liver\n0,0,255=left vessel\n",
        "name,r,g,b\ntumour,255,0,0\nliver,0,255,0\nleft vessel,0,0,255\n",  # CamVid's class_dict.csv
        "255 0 0\ttumour\n0 255 0\tliver\n0 0 255\tleft vessel\n",  # CamVid's label_colors.txt
        "# label:color_rgb:parts:actions\ntumour:255,0,0::\nliver:0,255,0::\nleft vessel:0,0,255::\n",  # CVAT
    ],
)
def test_forms_of_files(tmp_path, content: str):
    (tmp_path / "colours=1.txt").write_text(content)
    expected = ((RED, "tumour"), (GREEN, "liver"), (BLUE, "left vessel"))
    assert parse_label_colors(str(tmp_path / "colours=1.txt")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tumour", "it is no file"),
        ("reddish=tumour", "'reddish' is not known|expected COLOUR=NAME"),
        ("red=", "expected COLOUR=NAME"),
        ("0,0,256=tumour", "red, green and blue are 0 to 255"),
        ("red=tumour,#ff0000=liver", r"\(255, 0, 0\) stands for 'tumour' and for 'liver'"),
    ],
)
def test_texts_that_cannot_be_understood(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        parse_label_colors(text)


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "c.txt").write_text("red=tumour\nnothing\n")
    with pytest.raises(UsageError, match=r"c\.txt, line 2: 'nothing'"):
        parse_label_colors(str(tmp_path / "c.txt"))


def by_color(reading):
    return {color.rgb: color.value for color in reading.colors}


def test_names_become_labels_in_their_order():
    reading, labels = resolve_colors(((RED, "b"), (GREEN, "a"), (BLUE, "b"), ((9, 9, 9), "ignore")), None)
    assert labels == {"background": 0, "b": 1, "a": 2, "ignore": 3}
    assert by_color(reading) == {(0, 0, 0): 0, RED: 1, GREEN: 2, BLUE: 1, (9, 9, 9): 3}


def test_a_declared_background_replaces_black():
    reading, labels = resolve_colors((((255, 255, 255), "background"), ((0, 0, 0), "nucleus")), None)
    assert labels == {"background": 0, "nucleus": 1}
    assert by_color(reading) == {(255, 255, 255): 0, (0, 0, 0): 1}


def test_values_instead_of_names():
    reading, labels = resolve_colors(((RED, "3"), (GREEN, "liver"), (BLUE, "1")), None)
    assert labels == {"background": 0, "label_3": 3, "liver": 2, "label_1": 1}
    assert by_color(reading) == {(0, 0, 0): 0, RED: 3, GREEN: 2, BLUE: 1}


def test_colours_of_declared_labels():
    declared: dict[str, LabelValues] = {"whole": (1, 2), "core": 2}
    reading, labels = resolve_colors(((RED, "1"), (GREEN, "core")), declared)
    assert labels == {"background": 0, **declared}
    assert by_color(reading) == {(0, 0, 0): 0, RED: 1, GREEN: 2}
    with pytest.raises(UsageError, match="no label 'liver'; the labels are background, whole, core"):
        resolve_colors(((RED, "liver"),), declared)
    with pytest.raises(UsageError, match="'whole' is a region with the values 1, 2"):
        resolve_colors(((RED, "whole"),), declared)
