"""dataset.json in the forms that other programs and people write."""

import json

import pytest

from autoseg.imaging.datasets.dataset_json import declared_channels, declared_labels, read_dataset_json


def read(folder, **keys):
    path = folder / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "a": 1}, **keys}))
    return read_dataset_json(path)


@pytest.mark.parametrize("key", ["channel_names", "modality"])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"PET": "PET", "CT": "CT"}, ("PET", "CT")),
        ({"tracer": "PET", "T1": "CT", "b": "ADC"}, ("PET", "CT", "ADC")),
        ({"channel_1": "PET", "channel_0": "CT"}, ("PET", "CT")),
        ({"1": "CT", "0": "PET"}, ("PET", "CT")),
        ({"0001": "CT", "0000": "PET"}, ("PET", "CT")),
        ({str(number): f"c{number}" for number in (10, 9, 2, 1, 0)}, ("c0", "c1", "c2", "c9", "c10")),
        ({"0": "T1", "CT": "CT", "1": "T2"}, ("T1", "CT", "T2")),
        (["PET", "CT"], ("PET", "CT")),
        ({"CT": 1, "PET": 0}, ("PET", "CT")),
    ],
)
def test_channels_by_number_or_in_the_order_of_the_file(tmp_path, key, names, expected):
    assert declared_channels(read(tmp_path, **{key: names})) == expected


def test_no_channel_names(tmp_path):
    assert declared_channels(read(tmp_path)) is None
    assert declared_channels(read(tmp_path, channel_names={})) is None


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "liver", "2": "lesion"},
        {"background": "0", "liver": "1", "lesion": "2"},
        {"Background": 0, "liver": 1, "lesion": [2]},
        {"0": "BG", "1": "liver", "2": "lesion"},
        {"clear label": 0, "liver": 1, "lesion": 2},
    ],
)
def test_labels_by_name_or_by_value(tmp_path, labels):
    path = tmp_path / "dataset.json"
    assert declared_labels(read(tmp_path, labels=labels), path) == {"background": 0, "liver": 1, "lesion": 2}


def test_two_labels_of_one_value_are_kept_apart(tmp_path):
    assert declared_labels(read(tmp_path, labels={"a": 0, "b": 0}), tmp_path) == {"a": 0, "b": 0}
