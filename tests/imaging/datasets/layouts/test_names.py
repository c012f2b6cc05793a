"""Words in file names that mark label maps and images."""

import pytest

from autoseg.imaging.datasets.layouts.names import composed, is_hidden, split_image_word, split_label_word


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("X_seg", ("X", "seg")),
        ("a_b-label", ("a_b", "label")),
        ("p 1.mask", ("p 1", "mask")),
        ("X_GT", ("X", "gt")),
        ("segmentation-12", ("12", "segmentation")),
        ("seg", ("", "seg")),
        ("Xseg", None),
        ("X_segment", None),
        ("X_seg2", None),
        ("X", None),
    ],
)
def test_words_for_label_maps(stem, expected):
    assert split_label_word(stem) == expected


def test_words_for_images():
    assert split_image_word("volume-3") == ("3", "volume")
    assert split_image_word("3_img") == ("3", "img")
    assert split_image_word("imaging") == ("", "imaging")
    assert split_image_word("imagination") is None


def test_accents_are_one_character():
    assert composed("u\u0308") == composed("\u00fc") == "\u00fc"


@pytest.mark.parametrize("name", [".DS_Store", "._a.nii.gz", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"])
def test_what_systems_leave_is_hidden(name):
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["a.nii.gz", "images", "thumbs", "-v", "_a", "desktop"])
def test_other_names_are_not_hidden(name):
    assert not is_hidden(name)
