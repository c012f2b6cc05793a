"""Which labels were looked for: lists, dataset.json, names that are no labels, and what label maps say beyond it."""

import json

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.labels.annotated_labels import read_annotated
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.datasets.list_writing import write_case_list
from autoseg.stages.describe import describe_dataset
from tests.imaging.datasets.small_datasets import SHAPE_XYZ, image, save

LABELS = {"background": 0, "liver": 1, "left kidney": 2, "spleen": 3}


@pytest.fixture
def folder(tmp_path):
    """Cases a, b and c with the labels 1 to 3."""
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    for seed, case in enumerate("abc"):
        save(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", image(seed))
        values = np.arange(np.prod(SHAPE_XYZ)).reshape(SHAPE_XYZ) % 4
        save(tmp_path / "labelsTr" / f"{case}.nii.gz", values.astype(np.uint8))
    declare(tmp_path)
    return tmp_path


def declare(folder, **keys):
    about = {"channel_names": {"0": "MR"}, "labels": LABELS, "numTraining": 3, "file_ending": ".nii.gz", **keys}
    (folder / "dataset.json").write_text(json.dumps(about))


def annotated(description):
    return {files.case: files.annotated for files in description.cases}


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("", None), (" ; ", None), ((), ()), (("", " "), ()), ("liver", ("liver",)),
        ("liver; left kidney", ("liver", "left kidney")),
        ("liver,spleen|liver", ("liver", "spleen")), (("liver", " spleen "), ("liver", "spleen")),
    ],
)  # fmt: skip
def test_names_in_a_cell(cell, names):
    assert read_annotated(cell) == names


def test_dataset_json_says_what_was_looked_for(folder):
    declare(folder, annotated={"a": ["Spleen", "left-kidney"], "b": "liver, left kidney, spleen"})
    description = describe_dataset(folder)
    assert annotated(description) == {"a": ("left kidney", "spleen"), "b": None, "c": None}
    assert [note for note in description.notes if "looked for" in note] == [
        "labels that were looked for, by number of cases: left kidney, spleen in 1; all labels in 2; where others are "
        "is not known there"
    ]
    assert any("1 case has voxels of labels that their `annotated` leaves out, a first (liver)" in note
               for note in description.notes)  # fmt: skip


def test_a_dataset_that_is_labelled_in_full_stays_as_it_was(folder):
    plain = describe_dataset(folder)
    declare(folder, annotated={"a": ["liver", "left kidney", "spleen"]})
    assert describe_dataset(folder).model_dump_json() == plain.model_dump_json()
    assert "annotated" not in plain.model_dump_json()


def test_an_unknown_name_is_one_sentence_with_the_names_that_exist(folder):
    declare(folder, annotated={"a": ["liver"], "b": ["kidney"], "c": ["kidney"]})
    with pytest.raises(DatasetError) as error:
        describe_dataset(folder)
    assert (
        f"{folder}: `annotated` of case b (and 1 more) names 'kidney', which is no label of this dataset; expected "
        "some of liver, left kidney, spleen." in str(error.value)
    )


def test_an_unknown_case_is_named(folder):
    declare(folder, annotated={"d": ["liver"]})
    with pytest.raises(DatasetError) as error:
        describe_dataset(folder)
    assert f"{folder / 'dataset.json'}: `annotated` has the case d, which is not in the dataset" in str(error.value)


def test_values_stand_for_names(folder):
    declare(folder, annotated={"a": [3, 1], "b": "2", "c": ["3", "liver"]})
    expected = {"a": ("liver", "spleen"), "b": ("left kidney",), "c": ("liver", "spleen")}
    assert annotated(describe_dataset(folder)) == expected
    declare(folder, annotated={"a": ["1"]}, labels={"background": 0, "1": 2, "liver": 1, "spleen": 3})
    assert annotated(describe_dataset(folder))["a"] == ("1",), "a name counts before a value"


@pytest.mark.parametrize("names", [[], [""], ["background"]])
def test_a_case_in_which_nothing_was_looked_for_is_refused(folder, names):
    declare(folder, annotated={"a": ["liver"], "b": names})
    with pytest.raises(DatasetError) as error:
        describe_dataset(folder)
    assert "`annotated` of case b names no label that could be looked for; expected some of liver," in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["liver"], 'annotated: expected lists of names by case, such as {"case_17": ["liver"]}, found ["liver"]'),
        ({"a": {"liver": 1}}, 'annotated.a: expected a list of names such as ["liver"], found {"liver": 1}'),
        ({"a": [["liver"]]}, 'annotated.a: expected a list of names such as ["liver"], found [["liver"]]'),
        ({"a": True}, 'annotated.a: expected a list of names such as ["liver"], found true'),
    ],
)
def test_something_else_in_dataset_json_is_refused(folder, wrong, sentence):
    declare(folder, annotated=wrong)
    with pytest.raises(DatasetError) as error:
        describe_dataset(folder)
    assert sentence in str(error.value)


@pytest.mark.parametrize("is_datalist", [True, False])
@pytest.mark.parametrize(
    ("cell", "outcome"),
    [
        ([3], ("spleen",)), (1, ("liver",)), (None, None), ("", None), (["spleen", None], ("spleen",)),
        ({"liver": 1}, "names '{\"liver\": 1}'"), ([["liver"]], "names '[\"liver\"]'"), ([], "names no label"),
    ],
)  # fmt: skip
def test_cells_of_a_json_list(folder, is_datalist, cell, outcome):
    files = {case: {"image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz"} for case in "abc"}
    entries = [{"case": case, **entry} for case, entry in files.items()]
    entries[1]["annotated"] = cell
    path = folder / "cases.json"
    path.write_text(json.dumps({"training": entries} if is_datalist else entries))
    names = {name: value for name, value in LABELS.items() if value}
    if isinstance(outcome, str):
        with pytest.raises(DatasetError) as error:
            describe_dataset(path, labels=names)
        assert str(error.value).startswith(f"{path}: `annotated` of case b {outcome}")
    else:
        assert annotated(describe_dataset(path, labels=names)) == {"a": None, "b": outcome, "c": None}


def test_entries_and_the_key_of_the_whole_file_may_not_contradict_each_other(folder):
    entries = [
        {"image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz", "annotated": ["liver"]}
        for case in "ab"
    ]
    path = folder / "cases.json"
    content = {"training": entries, "labels": LABELS}
    path.write_text(json.dumps({**content, "annotated": {"a_0000": ["liver"], "b_0000": ["spleen"]}}))
    with pytest.raises(DatasetError) as error:
        describe_dataset(path)
    assert (
        f"{path}: `annotated` of case b_0000 names spleen, and the case's own entry liver; expected one of them. "
        "Remove the other." in str(error.value)
    )
    path.write_text(json.dumps({**content, "annotated": {"a_0000": ["liver"]}}))
    assert annotated(describe_dataset(path)) == {"a_0000": ("liver",), "b_0000": ("liver",)}


@pytest.mark.parametrize("ending", [".csv", ".json"])
def test_a_list_has_a_column(folder, ending):
    rows = [("a", "liver; spleen"), ("b", ""), ("c", "left kidney")]
    path = folder / f"cases{ending}"
    if ending == ".csv":
        lines = [f'{case},imagesTr/{case}_0000.nii.gz,labelsTr/{case}.nii.gz,"{names}"' for case, names in rows]
        path.write_text("\n".join(["case,image,label,Annotated", *lines]))
    else:
        entries = [
            {"case": case, "image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz"}
            | ({"annotated": names.split("; ")} if names else {})
            for case, names in rows
        ]
        path.write_text(json.dumps(entries))
    names = {name: value for name, value in LABELS.items() if value}
    description = describe_dataset(path, labels=names)
    assert annotated(description) == {"a": ("liver", "spleen"), "b": None, "c": ("left kidney",)}
    found = find_dataset(path)
    write_case_list(found, folder / "again.csv")
    assert annotated(describe_dataset(folder / "again.csv", labels=names)) == annotated(description)


def test_labels_without_declared_names(folder):
    path = folder / "cases.csv"
    lines = [
        f"imagesTr/{case}_0000.nii.gz,labelsTr/{case}.nii.gz,{name}" for case, name in [("a", "label 3"), ("b", "")]
    ]
    path.write_text("\n".join(["image,label,annotated", *lines]))
    (folder / "dataset.json").unlink()
    assert annotated(describe_dataset(path)) == {"a_0000": ("label_3",), "b_0000": None}
    path.write_text("\n".join(["image,label,annotated", lines[0].replace("label 3", "tumour")]))
    with pytest.raises(
        DatasetError, match="names 'tumour', which is no label of this dataset; expected some of label_1"
    ):
        describe_dataset(path)


def test_the_decathlon_and_explicit_lists_of_nnunet(folder):
    entries = [
        {"image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz", "annotated": ["liver"]}
        for case in "ab"
    ]
    declare(folder, training=entries, numTraining=2, modality={"0": "MR"}, channel_names=None)
    (folder / "imagesTr" / "c_0000.nii.gz").unlink()
    assert set(annotated(describe_dataset(folder)).values()) == {("liver",)}
    explicit = {"x": {"images": [entries[0]["image"]], "label": entries[0]["label"], "annotated": "spleen"}}
    declare(folder, dataset=explicit, numTraining=1)
    assert annotated(describe_dataset(folder)) == {"x": ("spleen",)}
