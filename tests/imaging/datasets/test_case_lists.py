import json
from pathlib import Path

import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.case_lists import read_case_list
from autoseg.imaging.datasets.layouts import find_dataset


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A link to a folder two levels deeper than itself, with an empty file `a.nii.gz` and one outside."""
    (tmp_path / "disk" / "deep" / "set").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "disk" / "deep" / "set" / "a.nii.gz").touch()
    (tmp_path / "disk" / "deep" / "b.nii.gz").touch()
    (tmp_path / "outside" / "c.nii.gz").touch()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep" / "set")
    return tmp_path / "link"


@pytest.mark.parametrize("layout", ["list", "decathlon"])
def test_listed_paths_lead_to_the_same_files_through_links(linked: Path, layout: str):
    images = [str(linked / "a.nii.gz"), str(linked.resolve() / "a.nii.gz"), "../b.nii.gz", "./sub/../outside/c.nii.gz"]
    images += [str(linked.parent / "outside" / "c.nii.gz"), str(linked) + "/../b.nii.gz"]
    (linked / "sub").symlink_to(linked.parent / "outside")
    entries = [{"case": f"{index}", "image": image, "label": image} for index, image in enumerate(images)]
    if layout == "list":
        (linked / "cases.json").write_text(json.dumps(entries))
    else:
        training = [{"image": entry["image"], "label": entry["label"]} for entry in entries]
        (linked / "dataset.json").write_text(json.dumps({"labels": {"a": 1}, "training": training}))
    found = find_dataset(linked / "cases.json" if layout == "list" else linked)
    for files in found.cases:
        assert (found.folder / files.images[0]).is_file(), files
        assert (found.folder / files.label).is_file(), files
    if layout == "list":
        assert found.folder == linked.resolve()
        names = ["a.nii.gz", "a.nii.gz", "../b.nii.gz", "sub/../outside/c.nii.gz"]
        assert [files.images[0] for files in found.cases][:4] == names
        assert [files.images[0] for files in found.cases][4:] == ["../../../outside/c.nii.gz", "../b.nii.gz"]


def test_an_image_that_is_a_link_keeps_its_name(linked: Path):
    (linked / "named.nii.gz").symlink_to(linked.parent / "outside" / "c.nii.gz")
    path = linked / "cases.csv"
    path.write_text(f"image,label\n{linked}/named.nii.gz,a.nii.gz\n")
    cases, faults = read_case_list(path)
    assert (cases[0].case, cases[0].images) == ("named", ("named.nii.gz",))
    assert faults == ()


def test_missing_columns_are_named(tmp_path: Path):
    path = tmp_path / "cases.csv"
    path.write_text("case,image_0,image_1\nb,b0.png,b1.png\n")
    with pytest.raises(DatasetError, match=r"expected the columns image .* and label, found case, image_0"):
        read_case_list(path)
    path.write_text("case,label\na,b\n")
    with pytest.raises(DatasetError, match=r"expected the columns image .* and label, found case, label"):
        read_case_list(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "[" + "1" * 5_000 + "]"])
def test_a_json_list_that_cannot_be_read_is_one_clear_error(tmp_path, content):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"list\.json: cannot be read as JSON"):
        read_case_list(path)
