"""Cases that lack channels, from files and lists: refused with the option's name, or kept with what they lack."""

import json

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.cases import content_hash, read_case
from autoseg.imaging.datasets.layouts.found_dataset import order_images
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.datasets.list_writing import write_case_list
from autoseg.imaging.datasets.missing_channels import settle_missing_channels
from autoseg.stages.describe import describe_dataset
from autoseg.stages.fingerprint import extract_fingerprint
from tests.builders import write_nifti

SHAPE = (5, 6, 7)


def write_case(folder, case, channels, *, brightness=1.0):
    """Channel n of a case is n + 1 times as bright as the first, in a cube that is labelled."""
    generator = np.random.default_rng(len(case))
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1:4, 1:4, 1:4] = 1
    for number in channels:
        noise = generator.uniform(1, 2, SHAPE) * brightness * (number + 1)
        write_nifti(noise.astype(np.float32), folder / "imagesTr" / f"{case}_{number:04d}.nii.gz")
    write_nifti(labels, folder / "labelsTr" / f"{case}.nii.gz")


@pytest.fixture
def folder(tmp_path):
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    for case, channels in {"a": (0, 1, 2), "bb": (0, 2), "ccc": (1,)}.items():
        write_case(tmp_path, case, channels)
    content = {"channel_names": {"0": "t1", "1": "t2", "2": "flair"}, "labels": {"background": 0, "cube": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "numTraining": 3, "file_ending": ".nii.gz"}))
    return tmp_path


def lacking(description):
    return {files.case: files.absent_channels for files in description.cases}


def test_without_the_option_the_fault_names_it(folder):
    with pytest.raises(DatasetError) as raised:
        describe_dataset(folder)
    assert str(raised.value).count("is missing; add it, or let cases lack channels with --allow-missing-channels") == 3
    assert "expected 3" not in str(raised.value)
    kept = describe_dataset(folder, skip_faulty=True)
    assert lacking(kept) == {"a": ()}
    assert not kept.missing_channels
    assert "absent_channels" not in kept.model_dump_json()
    assert "missing_channels" not in kept.model_dump_json()


def test_what_is_there_stands_in_the_description(folder):
    found = describe_dataset(folder, missing_channels=True)
    assert lacking(found) == {"a": (), "bb": (1,), "ccc": (0, 2)}
    assert found.cases[2].images == ("imagesTr/ccc_0001.nii.gz",)
    assert "cases may lack channels: 1 of 3 cases have all of them; t1 in 2, t2 in 2, flair in 2" in found.notes
    volume = read_case(folder, found.cases[1], found.encoding, found.orientation)
    assert [bool(channel.any()) for channel in volume.image] == [True, False, True]


def test_facts_of_a_channel_come_from_the_cases_that_have_it(folder):
    write_case(folder, "bb", (0, 2), brightness=10.0)
    found = extract_fingerprint(describe_dataset(folder, missing_channels=True), folder)
    assert [case.absent_channels for case in found.cases] == [(), (1,), (0, 2)]
    assert found.missing_channels
    assert 0.99 <= found.intensities[1].minimum * 0.5 < found.intensities[1].maximum * 0.5 <= 2.01
    assert found.intensities[0].maximum > 10
    assert found.cases[1].channel_ranges[1] == (0.0, 0.0)


def test_the_hash_of_a_case_tells_which_channel_its_file_is(folder):
    (files,) = (files for files in describe_dataset(folder, missing_channels=True).cases if files.case == "ccc")
    moved = files.model_copy(update={"absent_channels": (0, 1)})
    assert content_hash(folder, files) != content_hash(folder, moved)


def test_a_list_with_empty_cells(folder):
    rows = ["case,t1,t2,flair,label"]
    for case, present in {"a": "012", "bb": "02", "ccc": "1"}.items():
        cells = [f"imagesTr/{case}_000{number}.nii.gz" if str(number) in present else "" for number in range(3)]
        rows.append(",".join([case, *cells, f"labelsTr/{case}.nii.gz"]))
    path = folder / "cases.csv"
    path.write_text("\n".join(rows) + "\n")
    assert lacking(describe_dataset(path, missing_channels=True)) == {"a": (), "bb": (1,), "ccc": (0, 2)}
    with pytest.raises(DatasetError, match="no image is listed in the column t1, flair; add it, or let"):
        describe_dataset(path)
    numbered = folder / "numbered.tsv"
    text = path.read_text().replace("t1,t2,flair", "image_0,image_1,image_2")
    numbered.write_text(text.replace(",", "\t"))
    assert lacking(describe_dataset(numbered, missing_channels=True)) == {"a": (), "bb": (1,), "ccc": (0, 2)}


@pytest.mark.parametrize("gap", ["", None])
def test_a_json_list_with_gaps(folder, gap):
    entries = [
        {"case": "a", "image": [f"imagesTr/a_000{number}.nii.gz" for number in range(3)], "label": "labelsTr/a.nii.gz"},
        {"case": "ccc", "image": [gap, "imagesTr/ccc_0001.nii.gz", gap], "label": "labelsTr/ccc.nii.gz"},
    ]
    path = folder / "cases.json"
    path.write_text(json.dumps(entries))
    assert lacking(describe_dataset(path, missing_channels=True)) == {"a": (), "ccc": (0, 2)}
    with pytest.raises(DatasetError, match=r"no image is listed in the column image\[0\], image\[2\]; add it"):
        describe_dataset(path)


def test_words_name_the_channels_of_one_folder(tmp_path):
    for case, words in {"x": ("t1", "t2"), "y": ("t1",), "z": ("t1", "t2"), "w": ("t2",)}.items():
        for word in words:
            write_nifti(np.random.default_rng(1).normal(5, 1, SHAPE), tmp_path / f"{case}_{word}.nii.gz")
        write_nifti((np.indices(SHAPE)[0] == 2).astype(np.uint8), tmp_path / f"{case}_seg.nii.gz")
    found = describe_dataset(tmp_path, channel_names=("t2", "t1"), missing_channels=True)
    assert lacking(found) == {"w": (1,), "x": (), "y": (0,), "z": ()}
    with pytest.raises(DatasetError, match=r"the image of channel 't1', which most cases have, is missing; add it"):
        describe_dataset(tmp_path)


def test_channels_keep_their_gaps_in_another_order(folder):
    found = find_dataset(folder)
    words = ("t1", "t2", "flair")
    renamed = order_images(settle_missing_channels(found, allowed=True), words)
    assert renamed == settle_missing_channels(found, allowed=True)


def test_a_written_list_has_the_gaps(folder, tmp_path):
    path = tmp_path / "written.csv"
    write_case_list(settle_missing_channels(find_dataset(folder), allowed=True), path)
    assert lacking(describe_dataset(path, missing_channels=True)) == {"a": (), "bb": (1,), "ccc": (0, 2)}


def test_a_channel_that_no_case_has_is_refused(folder):
    content = json.loads((folder / "dataset.json").read_text())
    content["channel_names"]["3"] = "t1c"
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="no case has an image of the channel t1c"):
        describe_dataset(folder, missing_channels=True)


def test_one_channel_cannot_be_missing(tmp_path):
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    for case in ("a", "bb"):
        write_case(tmp_path, case, (0,))
    with pytest.raises(DatasetError, match=r"the images have one channel, .* Leave the option out"):
        describe_dataset(tmp_path, missing_channels=True)


def test_a_row_without_any_channel_is_a_fault(folder):
    path = folder / "cases.csv"
    path.write_text("case,t1,t2,label\na,imagesTr/a_0000.nii.gz,imagesTr/a_0001.nii.gz,labelsTr/a.nii.gz\n"
                    "b,,,labelsTr/bb.nii.gz\n")  # fmt: skip
    with pytest.raises(DatasetError, match="no image is listed for this case"):
        describe_dataset(path, missing_channels=True)
