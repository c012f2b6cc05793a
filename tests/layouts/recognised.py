"""Folders and lists as people have them: what each is recognised as, with the files and channels of every case."""

import json

from autoseg.imaging.formats.volume import IMAGE_ENDINGS
from tests.layouts.folders import (
    EXTRA_LABEL,
    FOLDER,
    IMAGE,
    IMAGE_4D,
    SEGMENTS,
    Content,
    Layout,
)  # fmt: skip

MRI = ("flair", "t1", "t1ce", "t2")
ABDOMEN = {"background": 0, "liver": 1, "spleen": 2}
JUNK: dict[str, Content] = {
    ".DS_Store": b"\x00\x00\x00\x01Bud1",
    "images/.DS_Store": b"\x00\x00\x00\x01Bud1",
    "images/._p_1.nii.gz": b"\x00\x05\x16\x07",
    "labels/._p_1.nii.gz": b"\x00\x05\x16\x07",
    "__MACOSX": FOLDER,
}


def declare(**content: object) -> dict[str, Content]:
    """A dataset.json."""
    return {"dataset.json": json.dumps(content)}


def nnunet(*channels: str, **content: object) -> dict[str, Content]:
    return declare(
        channel_names={str(index): name for index, name in enumerate(channels)}, labels=ABDOMEN, numTraining=3,
        file_ending=".nii.gz", **content,
    )  # fmt: skip


def decathlon(*channels: str, image: str = "./imagesTr/{}.nii.gz", label: str = "./labelsTr/{}.nii.gz", also=()):
    cases = ("p_1", "p_2", "p_03")
    return declare(
        modality={str(index): name for index, name in enumerate(channels)},
        labels={str(value): name for name, value in ABDOMEN.items()},
        numTraining=3,
        training=[{"image": image.format(case), "label": label.format(case)} for case in (*cases, *also)],
    )


WITH_JSON = {
    "nnU-Net raw": Layout(
        ("imagesTr/{}_0000.nii.gz",), "labelsTr/{}.nii.gz", "nnunet", channels=("CT",), labels=ABDOMEN,
        others=nnunet("CT"),
    ),
    "nnU-Net raw with channels and test images": Layout(
        ("imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz"), "labelsTr/{}.nii.gz", "nnunet", channels=("T1", "T2"),
        labels=ABDOMEN, others={**nnunet("T1", "T2"), "imagesTs/q_1_0000.nii.gz": IMAGE},
    ),
    "nnU-Net raw with words as keys of its channels": Layout(
        ("imagesTr/{}_0000.nii.gz", "imagesTr/{}_0001.nii.gz"), "labelsTr/{}.nii.gz", "nnunet", channels=("PET", "CT"),
        labels=ABDOMEN, others=declare(channel_names={"PET": "PET", "CT": "CT"}, labels=ABDOMEN),
    ),
    "nnU-Net raw with explicit files": Layout(
        ("mr/{}.mha",), "seg/{}.nrrd", "nnunet", channels=("T2",), labels=ABDOMEN,
        others=nnunet("T2", dataset={
            case: {"images": [f"mr/{case}.mha"], "label": f"seg/{case}.nrrd"} for case in ("p_1", "p_2", "p_03")
        }),
    ),
    "nnU-Net v1, listed by case": Layout(
        ("imagesTr/{}_0000.nii.gz",), "labelsTr/{}.nii.gz", "nnunet", channels=("MR",), labels=ABDOMEN,
        others=decathlon("MR"),
    ),
    "nnU-Net raw of 2D images": Layout(
        ("imagesTr/{}_0000.png",), "labelsTr/{}.png", "nnunet", channels=("X-ray",), labels=ABDOMEN,
        others=declare(channel_names={"0": "X-ray"}, labels=ABDOMEN, file_ending=".png"),
    ),
    "Decathlon": Layout(
        ("imagesTr/{}.nii.gz",), "labelsTr/{}.nii.gz", "decathlon", channels=("CT",), labels=ABDOMEN,
        others=decathlon("CT"),
    ),
    "Decathlon with channels in one file": Layout(
        ("imagesTr/{}.nii.gz",), "labelsTr/{}.nii.gz", "decathlon", channels=("T2", "ADC"), labels=ABDOMEN,
        others=decathlon("T2", "ADC"), image_kind=IMAGE_4D,
    ),
    "Decathlon that lists resource forks": Layout(
        ("imagesTr/{}.nii.gz",), "labelsTr/{}.nii.gz", "decathlon", channels=("CT",), labels=ABDOMEN,
        others={**decathlon("CT", also=["._p_1"]), "imagesTr/._p_1.nii.gz": b"\x00\x05\x16\x07"},
    ),
    "Decathlon whose files were unpacked": Layout(
        ("imagesTr/{}.nii",), "labelsTr/{}.nii", "decathlon", channels=("CT",), labels=ABDOMEN, others=decathlon("CT"),
    ),
    "the dataset.json itself is given": Layout(
        ("imagesTr/{}_0000.nii.gz",), "labelsTr/{}.nii.gz", "nnunet", channels=("CT",), labels=ABDOMEN,
        others=nnunet("CT"), given="dataset.json",
    ),
    "dataset.json beside images and labels": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", channels=("CT",), labels=ABDOMEN, others=nnunet("CT"),
    ),
    "dataset.json beside one folder for each case": Layout(
        ("{0}/{0}_t2.nii.gz", "{0}/{0}_t1.nii.gz"), "{0}/{0}_seg.nii.gz", "case_folders", channels=("T2", "T1"),
        labels=ABDOMEN, others=nnunet("T2", "T1"), note="one folder for each case: 3 cases",
    ),
}  # fmt: skip

TWO_FOLDERS = {
    "images and labels": Layout(("images/{}.nii.gz",), "labels/{}.nii.gz"),
    "imagesTr and labelsTr": Layout(("imagesTr/{}.nii.gz",), "labelsTr/{}.nii.gz"),
    "numbered channels": Layout(
        ("images/{}_0000.nii.gz", "images/{}_0001.nii.gz"), "labels/{}.nii.gz", channels=("channel_0", "channel_1")
    ),
    "masks": Layout(("images/{}.nii.gz",), "masks/{}.nii.gz", note="images/ and masks/: 3 cases"),
    "masks with a word": Layout(("images/{}.nii.gz",), "masks/{}_mask.nii.gz", note="images/ and masks/: 3 cases"),
    "labelsTr with a word": Layout(("imagesTr/{}_0000.nii.gz",), "labelsTr/{}-seg.nii.gz"),
    "labels with a word in front": Layout(("images/{}.nii.gz",), "labels/label_{}.nii.gz"),
    "capitals": Layout(("Images/{}.NII.GZ",), "Labels/{}_SEG.Nii.Gz", note="Images/ and Labels/: 3 cases"),
    "scans and segmentations": Layout(
        ("scans/{}.nii.gz",), "segmentations/{}_gt.nii", note="scans/ and segmentations/: 3 cases"
    ),
    "words for channels": Layout(
        ("images/{}_t1.nii.gz", "images/{}_t2.nii.gz"), "labels/{}.nii.gz", channels=("t1", "t2"),
        note="images/ with a word for each channel and labels/: 3 cases",
    ),
    "endings that differ": Layout(("images/{}.mha",), "labels/{}.nrrd"),
    "JPEG images and PNG masks": Layout(("images/{}.jpg",), "labels/{}.png"),
    "TIFF and BMP": Layout(("images/{}.tif",), "labels/{}.bmp"),
    "numbers as names": Layout(("images/{}.png",), "labels/{}.png", cases=("0", "1", "10", "2")),
    "a number at the end that is no channel": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", cases=("scan_0001", "scan_0002")
    ),
    "dots in names": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", cases=("1.2.840.113619", "1.2.840.113620", "v1.0")
    ),
    "blanks, brackets and quotes": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", cases=("anna b (2)", "it's", "100% [new]; a&b")
    ),
    "letters of other alphabets": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", cases=("Mu\N{LATIN SMALL LETTER N WITH TILDE}oz", "心臓", "Ωδ")
    ),
    "a dash in front": Layout(("images/{}.nii.gz",), "labels/{}.nii.gz", cases=("-v", "--help")),
    "hidden files": Layout(("images/{}.nii.gz",), "labels/{}.nii.gz", others=JUNK),
    "other files beside": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz",
        others={"README.md": "# data", "clinical.csv": "a,b\n1,2\n", "docs/notes.nii.txt": "", "empty": FOLDER},
    ),
    "Thumbs.db between images": Layout(
        ("images/{}.png",), "labels/{}.png", others={"images/Thumbs.db": b"\xd0\xcf\x11\xe0", "labels/desktop.ini": ""},
    ),
    "files of other kinds between images": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz",
        others={
            "images/p_1.json": "{}", "images/p_1.bval": "0", "images/readme.txt": "", "images/old/p_1.nii.gz": IMAGE
        },
        warnings=(
            "images/old: not used: this folder holds 1 image files, and the cases are beside it",
            f"images/readme.txt: ignored: not an image that can be read; supported are {' '.join(IMAGE_ENDINGS)}",
        ),
    ),
    "folders in folders": Layout(
        ("images/{}.png",), "labels/{}.png", cases=("a/slice_1", "a/slice_2", "b/slice_1"),
        note="recognised images/ and labels/: 3 cases, such as a_slice_1 with images/a/slice_1.png",
    ),
    "a folder of previews beside them": Layout(
        ("imgs/{}.nii.gz",), "gt/{}.nii.gz", others={"previews/p_1.png": IMAGE}, note="imgs/ and gt/: 3 cases"
    ),
    "a value of one case alone": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", labels={"background": 0, "label_1": 1, "label_2": 2, "label_7": 7},
        others={"labels/p_2.nii.gz": EXTRA_LABEL},
        warnings=(
            "labels/p_2.nii.gz: the value 7 occurs in 1 voxels of this case alone and becomes the label label_7; "
            "correct the label map unless it is a structure",
        ),
    ),
}  # fmt: skip

ONE_FOLDER = {
    f"X and {pattern.format('X')}": Layout(
        ("{}.nii.gz",), f"{pattern}.nii.gz", "one_folder", note="images and label maps in one folder: 3 cases"
    )
    for pattern in ("{}_seg", "{}_label", "{}_mask", "{}_gt", "{}-seg", "{}.mask", "{}_SEG", "{} labels", "seg_{}")
} | {
    "X_image and X_mask": Layout(
        ("{}_image.nii.gz",), "{}_mask.nii.gz", "one_folder", note="images and label maps in one folder: 3 cases"
    ),
    "volume-X and segmentation-X": Layout(
        ("volume-{}.nii",), "segmentation-{}.nii", "one_folder", cases=("0", "1", "12"),
        note="images and label maps in one folder: 3 cases",
    ),
    "one channel with a word": Layout(
        ("{}_ct.nii.gz",), "{}_seg.nii.gz", "one_folder", channels=("ct",), note="images and label maps in one folder"
    ),
    "four channels with words": Layout(
        tuple(f"{{}}_{word}.nii.gz" for word in MRI), "{}_seg.nii.gz", "one_folder", channels=MRI,
        note="images and label maps in one folder: 3 cases",
    ),
    "numbered channels and _seg": Layout(
        ("{}_0000.nii.gz", "{}_0001.nii.gz"), "{}_seg.nii.gz", "one_folder", channels=("channel_0", "channel_1"),
        note="images and label maps in one folder: 3 cases",
    ),
    "pictures and their masks": Layout(
        ("{}.jpg",), "{}_mask.png", "one_folder", note="images and label maps in one folder: 3 cases"
    ),
}  # fmt: skip

CASE_FOLDERS = {
    "channels by name": Layout(
        tuple(f"{{0}}/{{0}}_{word}.nii.gz" for word in MRI), "{0}/{0}_seg.nii.gz", "case_folders", channels=MRI,
        note="one folder for each case: 3 cases, such as p_03 with p_03/p_03_flair.nii.gz",
    ),
    "files of the same names": Layout(
        ("{}/t1.nii.gz", "{}/t2.nii.gz"), "{}/seg.nii.gz", "case_folders", channels=("t1", "t2"),
        note="one folder for each case: 3 cases",
    ),
    "imaging and segmentation": Layout(
        ("{}/imaging.nii.gz",), "{}/segmentation.nii.gz", "case_folders", cases=("case_00000", "case_00001"),
        note="one folder for each case: 2 cases",
    ),
    "numbered channels in folders": Layout(
        ("{0}/{0}_0000.nii.gz", "{0}/{0}_0001.nii.gz"), "{0}/{0}_gt.nii.gz", "case_folders",
        channels=("channel_0", "channel_1"), note="one folder for each case: 3 cases",
    ),
    "visits of patients": Layout(
        ("{}/t1.nii.gz", "{}/t2.nii.gz"), "{}/seg.nii.gz", "case_folders", cases=("p1/post", "p1/pre", "p2/pre"),
        channels=("t1", "t2"), groups=("p1", "p1", "p2"),
        note="one folder for each visit in the folders of patients, who stay in one fold: 3 cases",
    ),
    "parts of a collection": Layout(
        ("{}/t1.nii.gz",), "{}/seg.nii.gz", "case_folders", channels=("t1",),
        cases=("HGG/a", "HGG/b", "HGG/c", "LGG/d"), note="one folder for each case: 4 cases, such as HGG_a",
    ),
    "folders with blanks and hidden files": Layout(
        ("{0}/{0}.nii.gz",), "{0}/{0}_label.nii.gz", "case_folders", cases=("anna b", "心臓"),
        others={"anna b/.DS_Store": b"Bud1", ".git/config": "", "notes.txt": ""},
        note="one folder for each case: 2 cases",
    ),
}  # fmt: skip

LISTS = {
    "CSV with image and label": Layout(
        ("{}/ct.nii.gz",), "{}/ct_seg.nii.gz", "list", given="list.csv",
        others={"list.csv": "case,image,label\n" + "".join(
            f"{case},{case}/ct.nii.gz,{case}/ct_seg.nii.gz\n" for case in ("p_1", "p_2", "p_03")
        )},
    ),
    "CSV with a column for each channel": Layout(
        ("{}/a.nii.gz", "{}/b.nii.gz"), "{}/m.nii.gz", "list", channels=("t1", "flair"), given="my list.csv",
        note="a list of 3 cases",
        others={"my list.csv": "id;t1;flair;seg\n" + "".join(
            f"{case};{case}/a.nii.gz;{case}/b.nii.gz;{case}/m.nii.gz\n" for case in ("p_1", "p_2", "p_03")
        )},
    ),
    "JSON list": Layout(
        ("{}/a.nii.gz", "{}/b.nii.gz"), "{}/m.nii.gz", "list", channels=("channel_0", "channel_1"), given="list.json",
        others={"list.json": json.dumps([
            {"case": case, "image": [f"{case}/a.nii.gz", f"{case}/b.nii.gz"], "label": f"{case}/m.nii.gz"}
            for case in ("p_1", "p_2", "p_03")
        ])},
    ),
}  # fmt: skip

MASKS = {
    "a folder of masks in the folder of each case": Layout(
        ("{}/ct.nii.gz",), "{}/segmentations/liver.nii.gz", "masks", cases=("s01", "s02", "s03"), channels=("ct",),
        labels=ABDOMEN,
        masks={"liver": "{}/segmentations/liver.nii.gz", "spleen": "{}/segmentations/spleen.nii.gz"},
        note="a mask file for each label (liver, spleen): 3 cases",
    ),
    "marked masks in the folder of each case": Layout(
        ("{}/image.nii.gz",), "{}/mask_liver.nii.gz", "masks", cases=("a", "b"), labels=ABDOMEN,
        masks={"liver": "{}/mask_liver.nii.gz", "spleen": "{}/mask_spleen.nii.gz"}, note="a mask file for each label",
    ),
    "a folder of masks for each case": Layout(
        ("images/{}.png",), "masks/{}/liver.png", "masks", cases=("x1", "x2"), labels=ABDOMEN,
        masks={"liver": "masks/{}/liver.png", "spleen": "masks/{}/spleen.png"}, note="a mask file for each label",
    ),
    "a folder of masks for each label": Layout(
        ("images/{}.png",), "masks/liver/{}.png", "masks", cases=("x1", "x2"), labels=ABDOMEN,
        masks={"liver": "masks/liver/{}.png", "spleen": "masks/spleen/{}.png"}, note="a mask file for each label",
    ),
    "masks called by case and label": Layout(
        ("images/{}.nii.gz",), "masks/{}_liver.nii.gz", "masks", cases=("x1", "x2"), labels=ABDOMEN,
        masks={"liver": "masks/{}_liver.nii.gz", "spleen": "masks/{}_spleen.nii.gz"}, note="a mask file for each label",
    ),
    "masks beside the images": Layout(
        ("{}.nii.gz",), "{}_mask_liver.nii.gz", "masks", cases=("x1", "x2"), labels=ABDOMEN,
        masks={"liver": "{}_mask_liver.nii.gz", "spleen": "{}_mask_spleen.nii.gz"}, note="a mask file for each label",
    ),
}  # fmt: skip

PROGRAMS = {
    "3D Slicer, segmentations beside the volumes": Layout(
        ("{}.nrrd",), "{}.seg.nrrd", "one_folder", cases=("a", "b"), labels=ABDOMEN, label_kind=SEGMENTS,
        masks={"liver": "{}.seg.nrrd", "spleen": "{}.seg.nrrd"},
        note="images and label maps in one folder: 2 cases",
    ),
    "3D Slicer, two folders": Layout(
        ("images/{}.nrrd",), "labels/{}.seg.nrrd", cases=("a", "b"), labels=ABDOMEN, label_kind=SEGMENTS,
        masks={"liver": "labels/{}.seg.nrrd", "spleen": "labels/{}.seg.nrrd"},
        note="3D Slicer's segmentations; segments are matched by name: liver, spleen",
    ),
    "BIDS": Layout(
        ("sub-{0}/anat/sub-{0}_T1w.nii.gz",), "derivatives/manual/sub-{0}/anat/sub-{0}_dseg.nii.gz", "bids",
        cases=("01", "02"), channels=("T1w",), labels=ABDOMEN, id="sub-{}",
        others={
            "dataset_description.json": '{"Name": "made up", "BIDSVersion": "1.8.0"}',
            "participants.tsv": "participant_id\nsub-01\nsub-02\n",
            "derivatives/manual/dseg.tsv": "index\tname\n1\tliver\n2\tspleen\n",
        },
        note="BIDS with the channels T1w: 2 cases, such as sub-01",
    ),
    "BIDS with sessions and two channels": Layout(
        ("sub-{0}/ses-a/anat/sub-{0}_ses-a_FLAIR.nii.gz", "sub-{0}/ses-a/anat/sub-{0}_ses-a_T1w.nii.gz"),
        "derivatives/manual/sub-{0}/ses-a/anat/sub-{0}_ses-a_dseg.nii.gz", "bids",
        cases=("01", "02"), channels=("FLAIR", "T1w"), id="sub-{}_ses-a",
        others={"sub-01/ses-a/anat/sub-01_ses-a_T1w.json": "{}"},
        note="BIDS with the channels FLAIR, T1w: 2 cases",
    ),
    "MONAI datalist": Layout(
        ("{}_t1.nii.gz", "{}_t2.nii.gz"), "{}_seg.nii.gz", "list", cases=("a", "b"), channels=("t1", "t2"),
        given="folds.json", note="a MONAI datalist: 2 cases under training with the folds 0, 1",
        others={"folds.json": json.dumps({
            "training": [
                {"image": [f"{case}_t1.nii.gz", f"{case}_t2.nii.gz"], "label": f"{case}_seg.nii.gz", "fold": fold}
                for fold, case in enumerate("ab")
            ],
        })},
    ),
    "labels.json beside plain folders": Layout(
        ("images/{}.nii.gz",), "labels/{}.nii.gz", labels=ABDOMEN,
        others={"labels.json": json.dumps({"liver": 1, "spleen": 2})},
    ),
}  # fmt: skip

LAYOUTS = WITH_JSON | TWO_FOLDERS | ONE_FOLDER | CASE_FOLDERS | LISTS | MASKS | PROGRAMS
