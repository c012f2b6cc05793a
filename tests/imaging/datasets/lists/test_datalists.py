"""Datalists as MONAI's tutorials and Auto3DSeg have them; no file that they list has any content."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.found_dataset import FoundDataset
from autoseg.imaging.datasets.layouts.recognition import find_dataset

BRATS = ("flair", "t1ce", "t1", "t2")


def write(folder: Path, content: Any, *, name: str = "folds.json") -> Path:
    """The datalist, beside empty files for the images and label maps in it."""
    for key in ("training", "validation", "val", "testing", "test"):
        for entry in content.get(key, []):
            values = [entry] if isinstance(entry, str) else [entry.get("image", ""), entry.get("label", "")]
            for value in values:
                for file in [value] if isinstance(value, str) else value:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    if file:
                        (folder / file).touch()
    (folder / name).write_text(json.dumps(content))
    return folder / name


def pairs(*cases: str, **keys: Any) -> list[dict[str, Any]]:
    return [{"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz", **keys} for case in cases]


def folds(found: FoundDataset) -> dict[str, int | None]:
    return {files.case: files.fold for files in found.cases}


def test_folds_of_auto3dseg(tmp_path):
    content = {
        "training": [*pairs("a", fold=0), *pairs("b", "c", fold=1)],
        "testing": [{"image": "imagesTs/d.nii.gz"}, {"image": "imagesTs/e.nii.gz"}],
    }
    found = find_dataset(write(tmp_path, content))
    assert folds(found) == {"a": 0, "b": 1, "c": 1}
    assert (found.layout, found.name, found.labels, found.channel_names, found.faults) == (
        "list",
        "folds",
        None,
        None,
        (),
    )
    assert found.notes == (
        "recognised a MONAI datalist: 3 cases under training with the folds 0, 1; 2 others are not used",
    )


def test_image_lists_are_channels_that_the_file_names_tell(tmp_path):
    entries = [
        {"fold": index % 2, "image": [f"Data/{c}/{c}_{w}.nii.gz" for w in BRATS], "label": f"Data/{c}/{c}_seg.nii.gz"}
        for index, c in enumerate(("BraTS2021_01146", "BraTS2021_00002", "BraTS2021_00003"))
    ]
    found = find_dataset(write(tmp_path, {"training": entries}))
    assert list(folds(found)) == ["BraTS2021_00002", "BraTS2021_00003", "BraTS2021_01146"]
    assert found.cases[2].images == tuple(f"Data/BraTS2021_01146/BraTS2021_01146_{word}.nii.gz" for word in BRATS)
    assert found.channel_words == BRATS
    assert found.faults == ()


def test_declarations_are_used(tmp_path):
    content = {
        "name": "BTCV", "description": "abdomen", "numTraining": 2, "tensorImageSize": "3D",
        "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen", "2": "liver"},
        "training": pairs("img1"), "validation": pairs("img2"), "test": ["imagesTs/img3.nii.gz"],
    }  # fmt: skip
    found = find_dataset(write(tmp_path, content, name="dataset_0.json"))
    assert (found.name, found.channel_names) == ("BTCV", ("CT",))
    assert found.labels == {"background": 0, "spleen": 1, "liver": 2}
    assert folds(found) == {"img1": None, "img2": 0}
    assert found.notes[0] == (
        "recognised a MONAI datalist: 1 cases under training, 1 under validation, which are validated in the only "
        "fold; 1 others are not used"
    )
    found = find_dataset(write(tmp_path / "x", {**content, "modality": "MRI", "channel_names": ["T2"], "name": ""}))
    assert (found.name, found.channel_names) == ("folds", ("T2",))


def test_validation_cases_are_left_out_where_training_cases_have_folds(tmp_path):
    content = {"training": [*pairs("a", fold=0), *pairs("b", fold=1)], "validation": pairs("c")}
    found = find_dataset(write(tmp_path, content))
    assert folds(found) == {"a": 0, "b": 1}
    assert "1 others are not used" in found.notes[0]


@pytest.mark.parametrize(
    "keys", [{}, {"labels": {"0": "background", "1": "a"}}, {"labels": {"0": "background", "1": "a"}, "modality": "CT"}]
)
def test_a_datalist_called_like_the_file_of_nnunet(tmp_path, keys):
    content = {**keys, "training": [*pairs("a", fold=0), *pairs("b", fold=1)]}
    write(tmp_path, content, name="dataset.json")
    for path in (tmp_path, tmp_path / "dataset.json"):
        found = find_dataset(path)
        assert (folds(found), found.layout, found.name) == ({"a": 0, "b": 1}, "list", tmp_path.name)


def test_the_decathlon_keeps_its_own_layout(tmp_path):
    content = {
        "labels": {"0": "background", "1": "a"},
        "modality": {"0": "CT"},
        "training": pairs("a", "b"),
        "test": [],
    }
    write(tmp_path, content, name="dataset.json")
    assert find_dataset(tmp_path).layout == "decathlon"


def test_equal_names_in_several_folders(tmp_path):
    entries = [{"image": f"{site}/scan.nii.gz", "label": f"{site}/seg.nii.gz"} for site in ("x", "y")]
    assert list(folds(find_dataset(write(tmp_path, {"training": entries})))) == ["x", "y"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            {"training": [3]},
            r'training: expected a list of {"image": path or \[paths\], "label": path, "fold": number}',
        ),
        ({"training": [{"image": "absent.nii.gz", "label": "x"}]}, "none of the 1 listed images exists"),
        ({"training": [{"image": "folds.json"}]}, "expected the columns image .* and label, found image"),
        ({"training": pairs("a"), "labels": {"a": "b"}}, "labels: invalid literal"),
        ({"training": [], "testing": ["a"]}, "expected the columns image .* found none"),
        ({"cases": []}, "expected a list of"),
    ],
)
def test_what_is_no_datalist_is_said(tmp_path, content, what):
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(content))
    if "labels" in content:
        write(tmp_path, content)
    with pytest.raises(DatasetError, match=what):
        find_dataset(path)
