"""Several datasets as one list, as `autoseg merge` writes it and planning reads it."""

import json

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import DatasetError, UsageError
from autoseg.imaging.datasets.labels.label_tables import given_labels
from autoseg.stages.describe import describe_dataset
from autoseg.stages.merge import MergeOptions, merge_datasets

SHAPE = (7, 6, 5)
PLAIN = MergeOptions()


def make(folder, labels, cases, *, channels=("T1",), spacing=(1.0, 1.5, 4.0), regions=None, annotated=None):
    """A dataset in nnU-Net's layout; label i of n has the voxels i, i + n + 1, ... of each label map."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    values = [0, *(value for value in labels.values() if isinstance(value, int))]
    for seed, case in enumerate(cases):
        array = np.array(values, np.uint8)[np.arange(np.prod(SHAPE)).reshape(SHAPE) % len(values)]
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / "labelsTr" / f"{case}.nii.gz")
        for channel in range(len(channels)):
            noise = np.random.default_rng([len(folder.name), seed, channel]).normal(size=SHAPE).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(noise, affine), folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
    about = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, **labels},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        **({"regions_class_order": regions} if regions else {}),
        **({"annotated": annotated} if annotated else {}),
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def read(folder, file):
    return np.asarray(nibabel.load(folder / file).dataobj)


@pytest.fixture
def pair(tmp_path):
    first = make(tmp_path / "A", {"liver": 1, "spleen": 2}, ["p1", "p2"], channels=("T1", "T2"))
    second = make(tmp_path / "BB", {"Spleen": 1, "left kidney": 5}, ["p2", "q1", "q2"], channels=("t2", "t1"))
    return [first, second]


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_a_merged_list_is_read_with_labels_channels_and_what_was_looked_for(pair, tmp_path, ending):
    output = tmp_path / "merged" / f"list{ending}"
    merged = merge_datasets(pair, output, PLAIN)
    assert merged.labels == {"background": 0, "liver": 1, "spleen": 2, "left kidney": 5}
    assert merged.num_written == 3
    given = None if ending == ".json" else merged.labels
    described = describe_dataset(output, labels=given, channel_names=None if given is None else merged.channel_names)
    assert described.labels == merged.labels
    assert described.channel_names == ("T1", "T2")
    assert [(files.case, files.annotated) for files in described.cases] == [
        ("A_p1", ("liver", "spleen")), ("A_p2", ("liver", "spleen")),
        *((f"BB_{case}", ("spleen", "left kidney")) for case in ("p2", "q1", "q2")),
    ]  # fmt: skip
    for files in described.cases:
        owner, case = files.case.split("_")
        swapped = owner == "BB"
        for channel, image in enumerate(files.images):
            wanted = read(tmp_path, f"{owner}/imagesTr/{case}_{1 - channel if swapped else channel:04d}.nii.gz")
            np.testing.assert_array_equal(read(output.parent, image), wanted)
        own = read(tmp_path, f"{owner}/labelsTr/{case}.nii.gz")
        expected = np.array([0, 2, 0, 0, 0, 5])[own] if swapped else own
        np.testing.assert_array_equal(read(output.parent, files.label), expected)


def test_label_maps_with_the_same_values_are_not_copied(tmp_path):
    folders = [make(tmp_path / name, {"liver": 3}, [name]) for name in ("one", "three")]
    merged = merge_datasets(folders, tmp_path / "list.json", PLAIN)
    assert merged.num_written == 0
    described = describe_dataset(tmp_path / "list.json")
    assert [files.annotated for files in described.cases] == [None, None]
    assert not (tmp_path / "list_labels").exists()


def test_a_dataset_that_is_partly_labelled_already(tmp_path):
    first = make(tmp_path / "one", {"liver": 1, "spleen": 2}, ["a", "b"], annotated={"a": ["spleen"]})
    second = make(tmp_path / "other", {"liver": 1, "spleen": 2, "ignore": 3}, ["c"])
    merged = merge_datasets([first, second], tmp_path / "list.json", MergeOptions(renamed={"spleen": "Milz"}))
    assert merged.labels == {"background": 0, "liver": 1, "Milz": 2, "ignore": 3}
    described = describe_dataset(tmp_path / "list.json")
    assert {files.case: files.annotated for files in described.cases} == {"a": ("Milz",), "b": None, "c": None}


def test_labels_of_a_list_are_named_for_each_dataset(tmp_path):
    first = make(tmp_path / "one", {"liver": 1}, ["a"])
    second = make(tmp_path / "other", {"x": 1}, ["b"])
    (second / "dataset.json").unlink()
    (second / "cases.csv").write_text("image,label\nimagesTr/b_0000.nii.gz,labelsTr/b.nii.gz\n")
    paths = [first, second / "cases.csv"]
    channels = ("T1",)
    with pytest.raises(DatasetError, match=r"its labels have no names \(label_1\).*Name them with --label-names"):
        merge_datasets(paths, tmp_path / "list.json", MergeOptions(channel_names=channels))
    names = (None, given_labels({"kidney": 1}))
    merged = merge_datasets(paths, tmp_path / "list.json", MergeOptions(names, channel_names=channels))
    assert merged.labels == {"background": 0, "liver": 1, "kidney": 2}


def test_equal_regions_go_together(tmp_path):
    regions = {"whole": [1, 2], "core": 2}
    folders = [make(tmp_path / name, regions, [name], regions=[1, 2]) for name in ("one", "three")]
    merge_datasets(folders, tmp_path / "list.json", PLAIN)
    described = describe_dataset(tmp_path / "list.json")
    assert described.encoding == describe_dataset(folders[0]).encoding
    other = make(tmp_path / "fourth", {"whole": [1, 2], "core": 1}, ["x"], regions=[2, 1])
    with pytest.raises(DatasetError, match="its regions are not those of"):
        merge_datasets([folders[0], other], tmp_path / "more.json", PLAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ("CT",)}, "has the channels CT, and .* has T1; merged datasets have the same channels"),
        ({"spacing": (0.001, 0.0015, 0.004)}, "1000 times as much or as little. Correct the unit of the spacing"),
    ],
)
def test_datasets_that_do_not_go_together(tmp_path, changes, message):
    folders = [make(tmp_path / "one", {"liver": 1}, ["a"]), make(tmp_path / "other", {"liver": 1}, ["b"], **changes)]
    with pytest.raises(DatasetError, match=message):
        merge_datasets(folders, tmp_path / "list.json", PLAIN)
    assert not (tmp_path / "list.json").exists()


def test_slices_in_different_directions_are_said(tmp_path):
    other = make(tmp_path / "other", {"liver": 1}, ["b"], spacing=(4.0, 1.0, 1.5))
    folders = [make(tmp_path / "one", {"liver": 1}, ["a"]), other]
    merged = merge_datasets(folders, tmp_path / "list.json", PLAIN)
    assert any("follow each other from foot to head" in note and "from left to right" in note for note in merged.notes)


def test_requests_that_cannot_be_met(pair, tmp_path):
    (tmp_path / "old.csv").touch()
    for folders, output, options, message in [
        (pair[:1], "list.json", PLAIN, "1 dataset is given, expected two or more"),
        (pair, "list.txt", PLAIN, "must end in .json or .csv"),
        (pair, "old.json", PLAIN, "old.csv already exists"),
        (pair, "list.json", MergeOptions((None,) * 3), "3 are given for 2 datasets"),
    ]:
        with pytest.raises(UsageError, match=message):
            merge_datasets(folders, tmp_path / output, options)
    with pytest.raises(DatasetError, match="--rename kidney: no dataset has this label; expected one of Spleen"):
        merge_datasets(pair, tmp_path / "list.json", MergeOptions(renamed={"kidney": "x"}))


def test_the_command_says_what_it_wrote(pair, tmp_path, capsys):
    output = tmp_path / "list.csv"
    assert main(["merge", *map(str, pair), "-o", str(output), "--rename", "left kidney=kidney", "-q"]) == 0
    printed = capsys.readouterr().out
    assert f"List: {output} (5 cases)" in printed
    assert "--label-names background=0,liver=1,spleen=2,kidney=5 --channels T1,T2" in printed
    assert main(["merge", str(pair[0]), str(pair[1]), "-o", str(output), "-q"]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_datasets_may_lack_channels_where_it_is_allowed(tmp_path, ending):
    first = make(tmp_path / "A", {"liver": 1}, ["a"], channels=("T1", "T2"))
    second = make(tmp_path / "BB", {"liver": 1}, ["b"], channels=("FLAIR", "t2"))
    output = tmp_path / f"list{ending}"
    with pytest.raises(DatasetError, match="--allow-missing-channels"):
        merge_datasets([first, second], output, PLAIN)
    merged = merge_datasets([first, second], output, MergeOptions(may_lack_channels=True))
    assert merged.channel_names == ("T1", "T2", "FLAIR")
    given = None if ending == ".json" else {"liver": 1}
    described = describe_dataset(output, labels=given, channel_names=merged.channel_names, missing_channels=True)
    assert [(files.absent_channels, files.images) for files in described.cases] == [
        ((2,), ("A/imagesTr/a_0000.nii.gz", "A/imagesTr/a_0001.nii.gz")),
        ((0,), ("BB/imagesTr/b_0001.nii.gz", "BB/imagesTr/b_0000.nii.gz")),
    ]
