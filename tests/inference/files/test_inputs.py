"""Files, folders and lists become cases."""

import json
import logging
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from autoseg.errors import UsageError
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.inputs import find_inputs

TWO = ("T1", "T2")
ONE = ("CT",)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def summary(cases):
    return {case.case: [path.name for path in case.images] for case in cases if not case.fault}


def test_folder_of_single_files(tmp_path):
    touch(tmp_path, "b.nii.gz", "a.nrrd", "10.png", ".hidden.nii.gz", "notes.txt", "x.mhd", "x.raw")
    (tmp_path / "folder.nii.gz").mkdir()
    cases = find_inputs(tmp_path, ONE)
    assert [case.case for case in cases] == ["10", "a", "b", "x"]
    assert cases[2] == InputCase("b", (tmp_path / "b.nii.gz",))


def test_folder_of_channels(tmp_path):
    touch(tmp_path, "p_1_0001.nii.gz", "p_1_0000.nii.gz", "p_2_0000.nii.gz", "p_2_0001.nii.gz", "whole.nii.gz")
    assert summary(find_inputs(tmp_path, TWO)) == {
        "p_1": ["p_1_0000.nii.gz", "p_1_0001.nii.gz"],
        "p_2": ["p_2_0000.nii.gz", "p_2_0001.nii.gz"],
        "whole": ["whole.nii.gz"],
    }


def test_channels_of_a_case_in_files_of_different_endings(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii", "b_0001.NRRD", "b_0000.NII.GZ")
    assert summary(find_inputs(tmp_path, TWO)) == {
        "a": ["a_0000.nii.gz", "a_0001.nii"],
        "b": ["b_0000.NII.GZ", "b_0001.NRRD"],
    }


def test_channels_whose_names_are_written_with_other_code_points_are_one_case(tmp_path):
    touch(tmp_path, "M\u00fcller_0000.nii.gz", "Mu\u0308ller_0001.nii.gz")
    (case,) = find_inputs(tmp_path, TWO)
    assert (case.case, len(case.images), case.fault) == ("M\u00fcller", 2, "")


def test_two_files_of_one_channel_are_a_fault(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0000.nii", "a_0001.nii.gz")
    (case,) = find_inputs(tmp_path, TWO)
    assert case.fault.startswith("found a_0000.nii, a_0000.nii.gz, a_0001.nii.gz, the model expects a_0000 (T1)")


@pytest.mark.parametrize("mark", ["{}_seg", "{}_label", "{}_mask", "{}_gt", "{}-seg", "{}.seg", "{}_SEG", "seg_{}"])
@pytest.mark.parametrize(
    ("channels", "files"),
    [
        (ONE, ("{}.nii.gz",)),
        (ONE, ("{}_0000.nii.gz",)),
        (ONE, ("{}_image.nii.gz",)),
        (TWO, ("{}_0000.nii.gz", "{}_0001.nii")),
        (TWO, ("{}_t1.nii.gz", "{}_t2.nii.gz")),
    ],
)
def test_label_maps_beside_their_images_are_left_out_and_said(tmp_path, caplog, mark, channels, files):
    images = [file.format(case) for case in ("p_1", "p_2", "P 3") for file in files]
    touch(tmp_path, *images, *(f"{mark.format(case)}.nii" for case in ("p_1", "p_2", "P 3")))
    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        found = find_inputs(tmp_path, channels)
    assert sorted(path.name for case in found for path in case.images) == sorted(images)
    (message,) = caplog.messages
    assert "3 files are left out, because they look like label maps beside their images" in message


def test_images_whose_names_have_a_word_for_label_maps_are_predicted(tmp_path, caplog):
    touch(tmp_path, "a_mask.nii.gz", "b_seg.nii.gz", "gt.nii.gz", "unmask.nii.gz")
    assert len(find_inputs(tmp_path, ONE)) == 4
    assert not caplog.messages


def test_one_channel_file_may_hold_all_channels(tmp_path):
    touch(tmp_path, "a_0000.nii.gz")
    assert summary(find_inputs(tmp_path, TWO)) == {"a": ["a_0000.nii.gz"]}
    assert summary(find_inputs(tmp_path, ONE)) == {"a": ["a_0000.nii.gz"]}


def test_missing_and_surplus_channels_are_faults_of_their_case(tmp_path):
    touch(tmp_path, "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "b_0002.nii.gz", "c_0000.nii.gz")
    touch(tmp_path, "c_0002.nii.gz")
    cases = {case.case: case for case in find_inputs(tmp_path, (*TWO, "FLAIR"))}
    assert not cases["b"].fault
    assert cases["a"].fault.startswith(
        "found a_0001.nii.gz, the model expects a_0000 (T1), a_0001 (T2), a_0002 (FLAIR)."
    )
    assert "found c_0000.nii.gz, c_0002.nii.gz" in cases["c"].fault


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        (ONE, ("frame_0001", "frame_0002")),
        (ONE, ("frame_0001",)),
        (ONE, ("frame_0000", "frame_0001")),
        (TWO, ("frame_0007",)),
        (TWO, ("frame_0000", "frame_0001", "frame_0002")),
    ],
)
def test_files_whose_numbers_cannot_be_channels_are_cases(tmp_path, channels, names):
    touch(tmp_path, *(f"{name}.png" for name in names))
    assert summary(find_inputs(tmp_path, channels)) == {name: [f"{name}.png"] for name in names}


def test_numbered_files_that_look_like_channels_are_warned_about(tmp_path, caplog):
    touch(tmp_path, "frame_0001.png", "frame_0002.png")
    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        find_inputs(tmp_path, ONE)
        assert not caplog.messages
        touch(tmp_path, "frame_0000.png")
        find_inputs(tmp_path, ONE)
    (message,) = caplog.messages
    assert "frame_0000.png, frame_0001.png, frame_0002.png: taken as separate cases" in message


def save(path: Path, *shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), path)


@pytest.mark.parametrize("names", [("scan_0000", "scan_0001"), ("scan_0", "scan_1"), ("scan_t1", "scan_t2")])
def test_a_file_with_all_channels_is_a_case_whatever_its_number(tmp_path, names):
    for name in names:
        save(tmp_path / f"{name}.nii.gz", 4, 3, 2, 2)
    assert summary(find_inputs(tmp_path, ("A", "B"))) == {name: [f"{name}.nii.gz"] for name in names}
    for name in ("x_0000", "x_0001", "x_0002"):
        (tmp_path / "rgb").mkdir(exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / "rgb" / f"{name}.png")
    assert len(find_inputs(tmp_path / "rgb", ("R", "G", "B"))) == 3


@pytest.mark.parametrize("numbers", [("0", "1"), ("1", "2"), ("01", "02")])
def test_channels_with_short_numbers(tmp_path, numbers):
    for case in ("p_1", "p_2"):
        for number in numbers:
            save(tmp_path / f"{case}_{number}.nii", 4, 3, 2)
    assert summary(find_inputs(tmp_path, TWO)) == {
        case: [f"{case}_{number}.nii" for number in numbers] for case in ("p_1", "p_2")
    }
    assert len(find_inputs(tmp_path, ONE)) == len(find_inputs(tmp_path, (*TWO, "FLAIR"))) == 4


@pytest.mark.parametrize(
    ("patterns", "count", "pattern"),
    [
        (("{}_t1w.nii", "{}_pd.nii"), 2, "'{case}_{channel:pd|t1w}'"),
        (("{}/t1w.nii", "{}/pd.nii"), 1, "'{case}/{channel:pd|t1w}'"),
        (("{0}/{0}-t1w.nii", "{0}/{0}-pd.nii"), 1, "'{case}-{channel:pd|t1w}'"),
    ],
)
def test_channels_of_other_names_are_not_guessed(tmp_path, patterns, count, pattern):
    for case in ("p_1", "p_2"):
        for name in patterns:
            save(tmp_path / name.format(case), 4, 3, 2)
    message = (
        f"look like the channels pd, t1w of {count} cases, but the model expects T1, T2, and .* {re.escape(pattern)}"
    )
    with pytest.raises(UsageError, match=message):
        find_inputs(tmp_path, TWO)
    assert len(find_inputs(tmp_path, ONE)) == 4
    assert len(find_inputs(tmp_path, TWO, "**/" + re.sub("pd.t1w", "t1w|pd", pattern.strip("'")))) == 2


def test_single_file(tmp_path):
    touch(tmp_path, "x_0000.nii.gz")
    assert find_inputs(tmp_path / "x_0000.nii.gz", ONE) == (InputCase("x", (tmp_path / "x_0000.nii.gz",)),)


def test_csv_list(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("case;image_1;image_0;label\na;sub/2.nii.gz;sub/1.nii.gz;\nb;/abs/4.nii.gz;3.nii.gz;l\n")
    first, second = find_inputs(path, TWO)
    assert first == InputCase("a", (tmp_path / "sub/1.nii.gz", tmp_path / "sub/2.nii.gz"))
    assert [str(image) for image in second.images] == [str(tmp_path / "3.nii.gz"), "/abs/4.nii.gz"]


def test_json_list(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"image": "z_0000.nii.gz"}, {"case": "y", "image": ["1.mha", "2.mha"]}]))
    assert find_inputs(path, TWO) == (
        InputCase("z", (tmp_path / "z_0000.nii.gz",)),
        InputCase("y", (tmp_path / "1.mha", tmp_path / "2.mha")),
    )


def test_a_list_as_for_training_whose_columns_are_called_like_channels(tmp_path):
    (tmp_path / "l.csv").write_text("T2,seg,t1,fold,pet\np1/b.nii,p1/s.nii,p1/a.nii,0,x.nii\np2/b.nii,,p2/a.nii,1,\n")
    assert find_inputs(tmp_path / "l.csv", TWO) == (
        InputCase("p1", (tmp_path / "p1/a.nii", tmp_path / "p1/b.nii")),
        InputCase("p2", (tmp_path / "p2/a.nii", tmp_path / "p2/b.nii")),
    )
    (tmp_path / "l.csv").write_text("case,t2,t1\np1,b.nii,\np2,c.nii,d.nii\n")
    lacking, whole = find_inputs(tmp_path / "l.csv", TWO)
    assert (lacking.case, lacking.fault, whole.fault) == ("p1", "no image is listed in the column t1", "")
    with pytest.raises(UsageError, match=r"channels of the model are T1, FLAIR, the columns of the list t2, t1\."):
        find_inputs(tmp_path / "l.csv", ("T1", "FLAIR"))


@pytest.mark.parametrize(
    ("content", "cases"),
    [
        ({"training": [{"image": "a.nii", "label": "l.nii"}], "testing": [{"image": "t/x.nii"}]}, ["x"]),
        ({"training": [{"image": "a.nii", "label": "l.nii"}], "test": ["./t/x.nii", "./t/y.nii"]}, ["x", "y"]),
        ({"training": [{"image": "a.nii", "label": "l.nii", "fold": 0}]}, ["a"]),
    ],
)
def test_datalists_of_monai(tmp_path, content, cases):
    (tmp_path / "l.json").write_text(json.dumps(content))
    assert [case.case for case in find_inputs(tmp_path / "l.json", ONE)] == cases


@pytest.mark.parametrize(
    ("pattern", "channels", "files", "expected"),
    [
        ("{case}/t1.nii", ONE, ["a/t1.nii", "a/t2.nii", "b/t1.nii"], {"a": ["a/t1.nii"], "b": ["b/t1.nii"]}),
        ("{case}_{channel}", TWO, ["a_t2.nii", "a_T1.nii"], {"a": ["a_T1.nii", "a_t2.nii"]}),
        ("{case}_{channel}", TWO, ["a_t2.nii", "a_T1.nii", "a_pet.nii"], {"a": ["a_T1.nii", "a_t2.nii"]}),
        ("{case}_{channel}", TWO, ["a_2.nii", "a_1.nii"], {"a": ["a_1.nii", "a_2.nii"]}),
        ("{group}/{case}.nii", ONE, ["x/a.nii", "y/a.nii", "y/b.nii"],
         {"x_a": ["x/a.nii"], "y_a": ["y/a.nii"], "b": ["y/b.nii"]}),
        ("{case}", ONE, ["scan_0000.nii", "scan_0001.nii"],
         {"scan_0000": ["scan_0000.nii"], "scan_0001": ["scan_0001.nii"]}),
    ],
)  # fmt: skip
def test_images_named_by_a_pattern(tmp_path, pattern, channels, files, expected):
    assert relative(find_inputs(make(tmp_path, *files), channels, pattern), tmp_path) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{case}_{channel}.nii", r"{channel} is ct, pet in the names of the files, the model expects T1, T2\. Write"),
        ("*_{case}.nii", "x_pet.nii and .*y_pet.nii are the same image of the case pet; write {group}"),
        ("{case}.png", r"no image file fits --image-pattern '{case}\.png'\. Found: 3 \.nii in the folder itself"),
        ("*.nii", "has no {case}"),
    ],
)
def test_patterns_that_do_not_fit_the_images(tmp_path, pattern, message):
    with pytest.raises(UsageError, match=message):
        find_inputs(make(tmp_path, "x_ct.nii", "x_pet.nii", "y_pet.nii"), TWO, pattern)
    make(tmp_path / "t", "a_t1.nii", "a_t2.nii", "b_t2.nii")
    lacking = find_inputs(tmp_path / "t", TWO, "{case}_{channel}")[1]
    assert (lacking.case, lacking.fault) == ("b", "no file of the channel t1 fits the pattern")


def test_images_of_one_name_in_several_folders(tmp_path):
    (tmp_path / "l.csv").write_text("image\na/x.nii.gz\nb/x.nii.gz\nc/y_0000.nii.gz\n")
    assert [case.case for case in find_inputs(tmp_path / "l.csv", ONE)] == ["a_x", "b_x", "y"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "case,image\na,\nb,b.png\n", "entry 1 names no image"),
        ("l.csv", "case,picture\na,b.png\n", "channels of the model are CT, the columns of the list picture"),
        ("l.csv", "case,picture\na,b\n", "expected the columns image .*, found case, picture"),
        ("l.csv", "case,image\n../a,b.png\n", "case name '../a'; it must be a file name"),
        ("l.csv", "case,image\n..,b.png\n", "case name '..'; it must be a file name"),
        ("l.json", '[{"case": "a\\u0000", "image": "b.png"}]', "it must be a file name"),
        ("l.json", '[{"image": [null, ""]}]', "entry 1 names no image"),
        ("l.json", '{"image": "a.png"}', "expected a list of"),
        ("l.json", "[", "cannot be read as JSON"),
        ("l.json", "[]", "the list has no rows; expected an image in each"),
        ("l.csv", "image\n", "the list has no rows"),
    ],
)
def test_unusable_lists(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        find_inputs(tmp_path / name, ONE)


def test_nothing_to_predict(tmp_path):
    with pytest.raises(UsageError, match="no images here; readable endings are"):
        find_inputs(tmp_path, ONE)
    with pytest.raises(UsageError, match="no such file or folder"):
        find_inputs(tmp_path / "absent", ONE)


def make(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def relative(cases, folder):
    return {
        item.case: [path.relative_to(folder).as_posix() for path in item.images] for item in cases if not item.fault
    }


def test_channels_called_by_their_names(tmp_path):
    make(tmp_path, "p_1_t2.nii", "p_1_T1.nii.gz", "p_2-t1.nii", "p_2-t2.nii", "whole.nii", "all_t1.nii")
    assert relative(find_inputs(tmp_path, TWO), tmp_path) == {
        "p_1": ["p_1_T1.nii.gz", "p_1_t2.nii"],
        "p_2": ["p_2-t1.nii", "p_2-t2.nii"],
        "whole": ["whole.nii"],
        "all_t1": ["all_t1.nii"],
    }
    (case,) = find_inputs(make(tmp_path / "a", "p_t1.nii", "p_t2.nii"), (*TWO, "FLAIR"))
    assert case.fault.startswith("found p_t1.nii, p_t2.nii, the model expects p_0000 (T1), p_0001 (T2), p_0002 (FLAIR)")


@pytest.mark.parametrize(
    ("channels", "files", "expected"),
    [
        (TWO, ("{0}/{0}_t1.nii", "{0}/{0}_t2.nii", "{0}/{0}_seg.nii"), ("{0}/{0}_t1.nii", "{0}/{0}_t2.nii")),
        (TWO, ("{0}/T2.nii.gz", "{0}/T1.nii.gz", "{0}/mask.nii.gz"), ("{0}/T1.nii.gz", "{0}/T2.nii.gz")),
        (TWO, ("{0}/{0}_0001.nii", "{0}/{0}_0000.nii"), ("{0}/{0}_0000.nii", "{0}/{0}_0001.nii")),
        (ONE, ("{0}/imaging.nii.gz", "{0}/segmentation.nii.gz"), ("{0}/imaging.nii.gz",)),
        (ONE, ("images/{0}.nii", "labels/{0}.nii"), ("images/{0}.nii",)),
    ],
)
def test_folders_that_training_takes(tmp_path, channels, files, expected):
    cases = ("p_1", "p_2")
    make(tmp_path, *(file.format(case) for case in cases for file in files))
    assert relative(find_inputs(tmp_path, channels), tmp_path) == {
        c: [file.format(c) for file in expected] for c in cases
    }


def test_label_maps_in_folders_of_cases_are_said_once(tmp_path, caplog):
    make(tmp_path, *(f"{case}/{name}.nii" for case in "abc" for name in ("ct", "seg")))
    with caplog.at_level(logging.WARNING, "autoseg.predict"):
        assert len(find_inputs(tmp_path, ONE)) == 3
    (message,) = caplog.messages
    assert (
        "3 files are left out, because they look like label maps beside their images: a/seg.nii, b/seg.nii" in message
    )


def test_two_folders_of_images_have_to_be_chosen_from(tmp_path):
    make(tmp_path, "imagesTr/a_0000.nii", "imagesTs/b_0000.nii", "labelsTr/a.nii")
    with pytest.raises(
        UsageError, match="has the folders imagesTr and imagesTs; give the one with the images to predict"
    ):
        find_inputs(tmp_path, ONE)


def test_channels_are_found_whatever_characters_a_name_has(tmp_path):
    touch(tmp_path, "new\nline_0000.nii.gz", "new\nline_0001.nii.gz", "a\rb_0000.nii.gz", "a\rb_0001.nii.gz")
    assert [item.case for item in find_inputs(tmp_path, ("T1", "T2"))] == ["a\rb", "new\nline"]


def test_masks_that_are_called_like_labels_of_the_model_are_no_images(tmp_path):
    for name in (
        "a.nii.gz",
        "a_liver.nii.gz",
        "a_left kidney.nii.gz",
        "b.nii.gz",
        "b_left_kidney.nii.gz",
        "c_liver.nii.gz",
    ):
        (tmp_path / name).touch()
    found = find_inputs(tmp_path, ONE, None, {"background": 0, "liver": 1, "left_kidney": 2})
    assert [case.case for case in found] == ["a", "b", "c_liver"]  # nothing says that c_liver is a mask


def lacking(cases):
    assert not any(case.fault for case in cases)
    return {case.case: ([path.name for path in case.images], case.absent_channels) for case in cases}


def test_models_that_can_do_without_channels(tmp_path):
    touch(tmp_path, "p_1_0001.nii.gz", "p_2_0000.nii.gz", "p_2_0001.nii.gz", "p_3_0000.nii.gz", "q_t1.nii.gz")
    assert lacking(find_inputs(tmp_path, TWO, may_lack_channels=True)) == {
        "p_1": (["p_1_0001.nii.gz"], (0,)),
        "p_2": (["p_2_0000.nii.gz", "p_2_0001.nii.gz"], ()),
        "p_3": (["p_3_0000.nii.gz"], (1,)),
        "q": (["q_t1.nii.gz"], (1,)),
    }
    assert lacking(find_inputs(tmp_path / "p_1_0001.nii.gz", TWO, may_lack_channels=True)) == {
        "p_1": (["p_1_0001.nii.gz"], (0,))
    }
    pattern = "p_{case}_{channel}.nii.gz"
    assert lacking(find_inputs(tmp_path, TWO, pattern, may_lack_channels=True)) == {
        "1": (["p_1_0001.nii.gz"], (0,)),
        "2": (["p_2_0000.nii.gz", "p_2_0001.nii.gz"], ()),
        "3": (["p_3_0000.nii.gz"], (1,)),
    }


def test_a_file_with_all_channels_lacks_none(tmp_path):
    for name, shape in {"a": (3, 4, 5, 2), "b": (3, 4, 5)}.items():
        nibabel.save(nibabel.Nifti1Image(np.ones(shape, dtype=np.float32), np.eye(4)), tmp_path / f"{name}_0000.nii.gz")
    assert lacking(find_inputs(tmp_path, TWO, may_lack_channels=True)) == {
        "a": (["a_0000.nii.gz"], ()), "b": (["b_0000.nii.gz"], (1,))
    }  # fmt: skip


def test_lists_with_gaps(tmp_path):
    touch(tmp_path, "a.nii", "b.nii", "c.nii")
    (tmp_path / "l.csv").write_text("case,T2,T1\nx,,a.nii\ny,b.nii,\nz,b.nii,c.nii\n")
    expected = {"x": (["a.nii"], (1,)), "y": (["b.nii"], (0,)), "z": (["c.nii", "b.nii"], ())}
    assert lacking(find_inputs(tmp_path / "l.csv", TWO, may_lack_channels=True)) == expected
    (tmp_path / "m.csv").write_text("case,T2\ny,b.nii\n")
    assert lacking(find_inputs(tmp_path / "m.csv", TWO, may_lack_channels=True)) == {"y": (["b.nii"], (0,))}
    (tmp_path / "n.json").write_text(json.dumps([{"case": "x", "image": [None, "b.nii"]}]))
    assert lacking(find_inputs(tmp_path / "n.json", TWO, may_lack_channels=True)) == {"x": (["b.nii"], (0,))}
