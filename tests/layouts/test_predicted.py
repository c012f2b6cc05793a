"""The folders that are recognised for training are recognised for prediction: the same images, without label maps."""

import pytest

from autoseg.inference.files.inputs import find_inputs
from tests.layouts.folders import build
from tests.layouts.recognised import LAYOUTS

BY_JSON = (
    "nnU-Net raw with channels and test images",
    "nnU-Net raw with explicit files",
    "the dataset.json itself is given",
)
"""Datasets whose dataset.json alone says which files are images, or that have images to predict of their own."""


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in BY_JSON])
def test_the_same_images_are_predicted(tmp_path, name):
    layout = LAYOUTS[name]
    folder = build(tmp_path / "my data", layout.files())
    found = find_inputs(folder / layout.given, layout.channels)
    expected = [tuple(folder / image for image in images) for images, _ in layout.expected_cases().values()]
    assert sorted(item.images for item in found) == sorted(expected)
    assert [item.fault for item in found] == [""] * len(expected)
    assert len({item.case for item in found}) == len(expected)
