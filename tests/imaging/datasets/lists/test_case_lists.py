import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg.errors import DatasetError
from autoseg.imaging.datasets.layouts.found_dataset import order_images
from autoseg.imaging.datasets.layouts.recognition import find_dataset
from autoseg.imaging.datasets.lists.case_lists import read_case_list


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
    listed = read_case_list(path)
    assert (listed.cases[0].case, listed.cases[0].images) == ("named", ("named.nii.gz",))
    assert listed.faults == ()


def test_maps_with_numbers_of_objects_are_no_channels(tmp_path: Path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / name)
    path = tmp_path / "cases.csv"
    path.write_text("image,label,Instances file\na.png,a_seg.png,ids/a.png\nb.png,b_seg.png,\n")
    listed = read_case_list(path)
    assert [files.instances for files in listed.cases] == ["ids/a.png", ""]
    assert [files.images for files in listed.cases] == [("a.png",), ("b.png",)]
    assert "numbers of objects in Instances file" in listed.recognized
    assert listed.notes == ()


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


def listing(folder: Path, text: str, *, name: str = "cases.csv", encoding: str = "utf-8") -> Path:
    """A list file, beside empty files for all paths in it that end like images."""
    folder.mkdir(exist_ok=True)
    for file in re.findall(r"[^,;\t\n\"\[\]{}:]+\.(?:nii\.gz|nii|png|nrrd)", text):
        path = folder / file.strip().replace("\\\\", "/").replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def summary(found) -> dict[str, list[str]]:
    return {files.case: [*files.images, files.label] for files in found.cases}


def errors(found) -> list[tuple[str, str]]:
    return [(fault.case, fault.what) for fault in found.faults if fault.severity == "error"]


PLAIN = {"p1": ["a/p1.nii.gz", "b/p1.nii.gz"], "p2": ["a/p2.nii.gz", "b/p2.nii.gz"]}


@pytest.mark.parametrize(
    "header",
    ["image,label", "Image,Seg", "IMAGE,segmentation", "image,mask", "img,gt", "scan,Ground Truth", "image_0,reference",
     "image_path,mask_path", "image file,label-map", " image , labels "],
)  # fmt: skip
def test_usual_words_for_images_and_label_maps(tmp_path, header):
    path = listing(tmp_path, f"{header}\na/p1.nii.gz,b/p1.nii.gz\na/p2.nii.gz,b/p2.nii.gz\n")
    found = read_case_list(path)
    assert (summary(found), found.faults, found.channel_words) == (PLAIN, (), None)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image;label\r\na/p1.nii.gz;b/p1.nii.gz\r\n\r\na/p2.nii.gz;b/p2.nii.gz\r\n", "utf-8-sig"),
        ("image\tlabel\na/p1.nii.gz\tb/p1.nii.gz\na/p2.nii.gz\tb/p2.nii.gz", "utf-16"),
        ("\n\nimage,label,\na/p1.nii.gz,b/p1.nii.gz,\n,,\n ,\na/p2.nii.gz,b/p2.nii.gz,\n", "utf-8"),
        ("sep=;\nimage;label\na/p1.nii.gz;b/p1.nii.gz\na/p2.nii.gz;b/p2.nii.gz\n", "utf-8"),
        ('"image","label"\n"a/p1.nii.gz","b/p1.nii.gz"\n"./a/p2.nii.gz","b/p2.nii.gz"\n', "utf-8"),
        ("label,image\nb\\p1.nii.gz,a\\p1.nii.gz\nb\\p2.nii.gz,.\\a\\p2.nii.gz\n", "utf-8"),
        ("fold,label,case,group,image\n,b/p1.nii.gz,p1,,a/p1.nii.gz\n,b/p2.nii.gz,p2,,a/p2.nii.gz\n", "utf-8"),
    ],
)
def test_how_spreadsheets_write_lists(tmp_path, text, encoding):
    found = read_case_list(listing(tmp_path, text, encoding=encoding))
    assert (summary(found), found.faults) == (PLAIN, ())


def test_a_tsv_file_and_quoted_names_with_separators(tmp_path):
    path = listing(tmp_path, "image\tlabel\nx,1.nii.gz\tm;1.png\n", name="cases.tsv")
    for name in ("x,1.nii.gz", "m;1.png"):
        (tmp_path / name).touch()
    assert summary(find_dataset(path)) == {"x,1": ["x,1.nii.gz", "m;1.png"]}
    path.with_name("cases.csv").write_text('case,image,label\n"a, b","x,1.nii.gz","m;1.png"\n')
    assert summary(read_case_list(tmp_path / "cases.csv")) == {"a, b": ["x,1.nii.gz", "m;1.png"]}
    path.with_name("cases.csv").write_text("image,label\nx,1.nii.gz,m;1.png\n")
    with pytest.raises(DatasetError, match=r"row 2 has 3 cells, the header 2: x, 1\.nii\.gz, m;1\.png\. Quote names"):
        read_case_list(tmp_path / "cases.csv")


@pytest.mark.parametrize("as_json", [False, True])
def test_columns_name_channels_in_their_order(tmp_path, as_json):
    columns = ("t1", "T1CE", "t2", "flair", "seg")
    rows = [{c: f"{case}/{case}_{c.lower()}.nii.gz" for c in columns} for case in ("p_2", "p_1")]
    if as_json:
        path = listing(tmp_path, json.dumps(rows), name="cases.json")
    else:
        path = listing(tmp_path, "\n".join([",".join(columns), *(",".join(row.values()) for row in rows)]))
    found = find_dataset(path)
    assert summary(found) == {
        case: [f"{case}/{case}_{c}.nii.gz" for c in ("t1", "t1ce", "t2", "flair", "seg")] for case in ("p_1", "p_2")
    }
    assert (found.channel_words, found.faults) == (("t1", "T1CE", "t2", "flair"), ())
    assert found.notes == (
        "recognised a list of 2 cases: channels t1, T1CE, t2, flair, label maps in seg",
    )  # fmt: skip
    ordered = order_images(found, ("flair", "t2", "t1ce", "t1"))
    assert summary(ordered)["p_1"][0] == "p_1/p_1_flair.nii.gz"


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ("image,label|a/x/im.nii,l1.nii|b/x/im.nii,l2.nii", ["a", "b"]),
        ("image,label|a/p1.nii,l1.nii|b/p1.nii,l2.nii|b/p2.nii,l3.nii", ["a_p1", "b_p1", "p2"]),
        ("image,label|s1/a/p1.nii,l1.nii|s2/a/p1.nii,l2.nii|s1/b/p1.nii,l3.nii", ["b", "s1_a", "s2_a"]),
        ("ct,pet,seg|p1/ct.nii,p1/pet.nii,1.nii|p2/ct.nii,p2/pet.nii,2.nii", ["p1", "p2"]),
        ("ct,pet,seg|p1/ct.nii,p1/pet.nii,1.nii", ["p1"]),
        ("ct,pet,seg|ct/p1.nii,pet/p1.nii,1.nii|ct/p2.nii,pet/p2.nii,2.nii", ["p1", "p2"]),
        ("ct,pet,seg|p1-ct.nii,p1-pet.nii,1.nii|p1.b.ct.nii,p1.b.pet.nii,2.nii", ["p1", "p1.b"]),
        ("image_0,image_1,label|a_0000.nii,a_0001.nii,1.nii|b_0000.nii,b_0001.nii,2.nii", ["a", "b"]),
        ("image_0,image_1,label|a_ct.nii,a_pet.nii,1.nii|b_ct.nii,b_pet.nii,2.nii", ["a_ct", "b_ct"]),
        ("subject,image,label|s1,a/p.nii,1.nii|s2,b/p.nii,2.nii", ["s1", "s2"]),
        ("patient,image,label|s1,a/p.nii,1.nii|s1,b/p.nii,2.nii", ["a", "b"]),
        ("id,patient,image,label|z,s1,a/p.nii,1.nii|y,s1,b/p.nii,2.nii", ["y", "z"]),
    ],
)
def test_names_of_cases_without_a_column_for_them(tmp_path, rows, names):
    found = read_case_list(listing(tmp_path, rows.replace("|", "\n")))
    assert ([files.case for files in found.cases], errors(found)) == (names, [])


def test_the_same_image_twice_has_one_name(tmp_path):
    found = read_case_list(listing(tmp_path, "image,label\na/p.nii,1.nii\na/p.nii,2.nii\nb/q.nii,3.nii\n"))
    assert [case for case, what in errors(found) if "several cases have this name" in what] == ["p", "p"]


def test_groups_and_folds(tmp_path):
    rows = ["a.nii,1.nii,p,0", "b.nii,2.nii,p,0.0", "c.nii,3.nii,,fold_1", "d.nii,4.nii,q,"]
    found = find_dataset(listing(tmp_path, "\n".join(["image,label,patient,Fold", *rows])))
    assert [(files.case, files.group, files.fold) for files in found.cases] == [
        ("a", "p", 0), ("b", "p", 0), ("c", "", 1), ("d", "q", None)
    ]  # fmt: skip
    assert (found.faults, found.notes) == (
        (), ("recognised a list of 4 cases: groups in patient, folds in Fold",)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (("a.nii,1.nii,p,0", "b.nii,2.nii,p,1"), "cases of the group 'p' are in different folds (0, 1)"),
        (("a.nii,1.nii,p,0", "b.nii,2.nii,p,"), "cases of the group 'p' are in different folds (0, none)"),
        (("a.nii,1.nii,p,1", "b.nii,2.nii,q,1"), "all cases are in fold 1, which leaves none to train on"),
        (("a.nii,1.nii,p,0", "b.nii,2.nii,q,one"), "the fold 'one' is not a whole number from 0 on"),
        (("a.nii,1.nii,p,0", "b.nii,2.nii,q,-1"), "the fold '-1' is not a whole number from 0 on"),
    ],
)
def test_folds_that_cannot_be_kept(tmp_path, rows, what):
    found = read_case_list(listing(tmp_path, "\n".join(["image,label,group,fold", *rows])))
    assert [message.startswith(what) for _, message in errors(found)] == [True]


def test_a_column_with_the_parts_of_a_split(tmp_path):
    text = "image,label,split\na.nii,1.nii,train\nb.nii,2.nii,Val\nc.nii,3.nii,test\n"
    found = read_case_list(listing(tmp_path, text))
    assert [(files.case, files.fold) for files in found.cases] == [("a", None), ("b", 0)]
    assert found.notes[-1] == "1 cases of the list are not used: split says that they are for testing"
    found = read_case_list(listing(tmp_path, text.replace("test", "hospital").replace("split", "set")))
    assert [files.fold for files in found.cases] == [None, None, None]
    assert found.notes == ("columns of the list that are not used: set",)


def test_columns_that_are_not_used_are_said(tmp_path):
    text = "image,label,age,sex,site\na.nii,1.nii,63,f,Ulm\nb.nii,2.nii,,m,\n"
    found = read_case_list(listing(tmp_path, text))
    assert found.notes == ("columns of the list that are not used: age, sex, site",)
    classes = read_case_list(listing(tmp_path, "image,mask,label\na.nii,1.nii,benign\nb.nii,2.nii,malignant\n"))
    assert summary(classes) == {"a": ["a.nii", "1.nii"], "b": ["b.nii", "2.nii"]}
    assert classes.notes[-1] == "columns of the list that are not used: label"
    pandas = read_case_list(listing(tmp_path, ",image,label\n0,a.nii,1.nii\n1,b.nii,2.nii\n"))
    assert summary(pandas) == {"a": ["a.nii", "1.nii"], "b": ["b.nii", "2.nii"]}
    assert pandas.notes == ("columns of the list that are not used: (no name)",)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("image,seg,mask\na.nii,1.nii,2.nii\n", "several columns hold label maps: seg, mask; expected one"),
        ("t1,seg,lung_mask\na.nii,1.nii,2.nii\n", "several columns hold label maps: seg, lung_mask; expected one"),
        ("image,pet,label\na.nii,b.nii,2.nii\n", "images are in the columns image, and image files in pet too"),
        ("image,image_0,label\na.nii,b.nii,2.nii\n", "several columns hold the same channel: image, image_0"),
        ("image,label,label\na.nii,b.nii,2.nii\n", "the column label occurs twice"),
        ("t1,t2,lable\na.nii,b.nii,2.nii\n", r"expected the columns image .* and label, found t1, t2, lable"),
        ("\n \n", "the file is empty; expected a header such as case,image,label"),
    ],
)
def test_columns_that_cannot_be_meant(tmp_path, text, what):
    with pytest.raises(DatasetError, match=what):
        read_case_list(listing(tmp_path, text))


def test_a_column_for_the_mask_of_each_label(tmp_path):
    text = "ct,mask_Liver,left kidney_seg,age\na.nii,1.nii,2.nii,3\nb.nii,,4.nii,\nc.nii,,,\n"
    found = find_dataset(listing(tmp_path, text.replace("2.nii", f"{tmp_path}/2.nii")))
    assert [[(part.label, part.file) for part in files.parts or ()] for files in found.cases] == [
        [("Liver", "1.nii"), ("left kidney", "2.nii")],
        [("left kidney", "4.nii")],
        [],
    ]
    assert [files.label for files in found.cases] == ["1.nii", "4.nii", ""]
    assert errors(found) == [("c", "no label map is listed for this case")]
    assert found.notes == (
        "recognised a list of 3 cases: channels ct, masks of Liver, left kidney",
        "columns of the list that are not used: age",
    )
    one = find_dataset(listing(tmp_path, "image,lung_mask\na.nii,1.nii\n"))
    assert (one.cases[0].label, one.cases[0].parts) == ("1.nii", None)


def test_a_channel_that_a_case_lacks_is_named(tmp_path):
    found = read_case_list(listing(tmp_path, "t1,t2,seg\na1.nii,,1.nii\n,b2.nii,2.nii\n"))
    assert errors(found) == [
        ("a1", "no image is listed in the column t2"), ("b2", "no image is listed in the column t1")
    ]  # fmt: skip
    found = read_case_list(listing(tmp_path, "image_0,image_1,label\n,b2.nii,2.nii\nc1.nii,,2.nii\n"))
    assert errors(found) == [
        ("b2", "no image is listed in the column image_0"), ("c1", "no image is listed in the column image_1")
    ]  # fmt: skip


def test_a_list_that_lies_in_another_folder_than_its_files(tmp_path):
    (tmp_path / "cases.csv").write_text("image,label\nimages/a.nii,labels/a.nii\nimages/b.nii,labels/b.nii\n")
    with pytest.raises(DatasetError, match=r"none of the 2 listed images exists, the first is .*images/a\.nii; paths"):
        read_case_list(tmp_path / "cases.csv")


def test_a_list_in_another_encoding_says_how_to_save_it(tmp_path):
    (tmp_path / "cases.csv").write_bytes("image,label\nM\u00fcller.nii,a.nii\n".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"cannot be read as CSV: .* Save it as UTF-8"):
        read_case_list(tmp_path / "cases.csv")


def test_roots_in_several_folders(tmp_path):
    for site in ("x/data", "y/data"):
        for kind in ("images", "labels"):
            (tmp_path / site / kind).mkdir(parents=True)
            (tmp_path / site / kind / "p1.nii.gz").touch()
    rows = [f"{tmp_path}/{site}/data/images/p1.nii.gz,{tmp_path}/{site}/data/labels/p1.nii.gz" for site in "xy"]
    found = read_case_list(listing(tmp_path / "lists", "\n".join(["image,label", *rows])))
    assert summary(found) == {
        site: [f"../{site}/data/images/p1.nii.gz", f"../{site}/data/labels/p1.nii.gz"] for site in "xy"
    }
    assert found.faults == ()
