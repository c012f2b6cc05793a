"""Images and label maps with faults: planning names each, and prediction goes on with the others."""

import gzip
import json
import os
import socket
from contextlib import chdir
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from autoseg.cli.main import main
from tests.faults.battery import DONE, PLAN, SHAPE, SOME_FAILED, UNUSABLE, Builder, Row, check, draw, replace, save

DIAGONAL = np.diag([1.0, 1.2, 2.0, 1.0])


def image_as(change, affine=None):
    """An image whose array is changed."""
    return lambda path: save(path, change(draw(1)[0]), affine)


def header_as(**fields):
    """An image with these fields of the NIfTI header, as they are."""

    def write(path):
        image = nibabel.Nifti1Image(draw(1)[0], DIAGONAL)
        content = bytearray(image.to_bytes())
        header = nibabel.Nifti1Header(content[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        content[:348] = header.binaryblock
        path.write_bytes(gzip.compress(bytes(content)))

    return write


def bytes_as(change):
    """An image file whose bytes are changed."""

    def write(path):
        save(path, draw(1)[0])
        path.write_bytes(change(path.read_bytes()))

    return write


def with_nan(array):
    array[3, 3, 3] = np.nan
    return array


def with_infinity(array):
    array[3, 3, 3] = np.inf
    return array


def as_folder(path):
    path.mkdir()


def as_loop(path):
    path.symlink_to(path)


def as_socket(path):
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def as_text_in_gzip(path):
    path.write_bytes(gzip.compress(b"no image at all" * 100))


def as_unreadable(path):
    save(path, draw(1)[0])
    path.chmod(0)


def as_rgb(path):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, DIAGONAL), path)


def as_mgz(path):
    path.write_bytes(gzip.compress(b"\0\0\0\1" + bytes(500)))


FAULTS_OF_FILES = [
    ("truncated", bytes_as(lambda content: content[: len(content) // 2]), "truncated or damaged"),
    ("flipped", bytes_as(lambda content: content[:3000] + bytes(9) + content[3009:]), "truncated or damaged"),
    ("empty", bytes_as(lambda _: b""), "is empty (0 bytes)"),
    ("text", bytes_as(lambda _: b"this is no image"), "is not packed with gzip"),
    ("text in gzip", as_text_in_gzip, "does not begin with a NIfTI header"),
    ("another format in gzip", as_mgz, "does not begin with a NIfTI header"),
    ("a folder", as_folder, "is a folder, expected a regular file"),
    ("a loop of links", as_loop, ""),
    ("a FIFO", os.mkfifo, "is a FIFO, expected a regular file"),
    ("a device", lambda path: path.symlink_to("/dev/zero"), "is a device, expected a regular file"),
    ("a socket", as_socket, "is a socket, expected a regular file"),
    ("a dangling link", lambda path: path.symlink_to("/nowhere/x.nii.gz"), ""),
]

NO_FILES = ("a folder", "a FIFO", "a device", "a socket", "a loop of links", "a dangling link")
"""What a folder of images does not list."""

FAULTS_OF_IMAGES = [
    ("NaN", image_as(with_nan), "1 voxels are NaN or infinite"),
    ("infinite", image_as(with_infinity), "1 voxels are NaN or infinite"),
    ("complex", image_as(lambda array: array.astype(np.complex64)), "complex"),
    ("beyond float32", image_as(lambda array: array.astype(np.float64) * 1e300), "NaN or infinite"),
    ("five axes", image_as(lambda array: np.stack([np.stack([array] * 2, -1)] * 2, -1)), "too many axes"),
    ("channels that the model lacks", image_as(lambda array: np.stack([array] * 3, -1)), "channels"),
    ("colours", as_rgb, "channels"),
    ("zero voxels", header_as(dim=(3, 0, 14, 16, 1, 1, 1, 1)), "which has no voxels"),
    ("negative shape", header_as(dim=(3, -12, 14, 16, 1, 1, 1, 1)), "which has no voxels"),
    ("a header that promises 30000^3", header_as(dim=(3, 30000, 30000, 30000, 1, 1, 1, 1)), "expected"),
    ("eight axes", header_as(dim=(9, 12, 14, 16, 1, 1, 1, 1)), ""),
    ("unknown type of voxels", header_as(datatype=7777), ""),
    ("offset behind the end", header_as(vox_offset=1e30), ""),
    ("offset that is no number", header_as(vox_offset=np.nan), ""),
    ("offset in the header", header_as(vox_offset=-100), ""),
    ("zero spacing", header_as(pixdim=(1, 0, 0, 0, 1, 1, 1, 1), sform_code=0, qform_code=0), "voxel"),
    ("NaN spacing", header_as(pixdim=(1, np.nan, 1, 1, 1, 1, 1, 1), sform_code=0, qform_code=0), "voxel"),
    ("spacing of a kilometre", image_as(lambda array: array, np.diag([1e6, 1, 1, 1])), "the header gives voxels of"),
    ("spacing of an atom", image_as(lambda array: array, np.diag([1e-9, 1, 1, 1])), ""),
]


def meta_image(field, name="x.mhd"):
    """A MetaImage whose header names this file."""

    def write(path):
        header = "ObjectType = Image\nNDims = 3\nDimSize = 12 14 16\nElementSpacing = 1 1 2\nElementType = MET_FLOAT\n"
        path.with_name(name).write_text(f"{header}ElementDataFile = {field}\n")

    return write


def nrrd(field):
    """An NRRD whose header names this file."""

    def write(path):
        header = "NRRD0004\ntype: float\ndimension: 3\nsizes: 12 14 16\nencoding: raw\nendian: little\n"
        path.with_name("x.nhdr").write_text(f"{header}data file: {field}\n")

    return write


def large_picture(path):
    Image.new("L", (20000, 20000)).save(path.with_name("x.png"))


def truncated_nrrd(path):
    target = path.with_name("x.nrrd")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(draw(1)[0]), str(target))
    target.write_bytes(target.read_bytes()[:-500])


FAULTS_OF_OTHER_FORMATS = [
    ("absolute data file", meta_image("/etc/passwd"), "names '/etc/passwd' as the file with its voxels"),
    ("data file above", meta_image("../secret.raw"), "names '../secret.raw' as the file with its voxels"),
    ("data file in the list", meta_image("LIST\n/etc/passwd"), "names '/etc/passwd' as the file with its voxels"),
    ("device as data file", meta_image("/dev/zero"), "names '/dev/zero' as the file with its voxels"),
    ("pattern of C", meta_image("%s%n"), "expected a name without %"),
    ("missing data file", meta_image("x.raw"), "the file with its voxels, x.raw, does not exist"),
    ("absolute data file, NRRD", nrrd("/etc/passwd"), "names '/etc/passwd' as the file with its voxels"),
    ("data file above, NRRD", nrrd("../../secret.raw"), "names '../../secret.raw' as the file with its voxels"),
    ("a picture of 400 million pixels", large_picture, "the image is too large"),
    ("truncated NRRD", truncated_nrrd, "it is damaged, truncated or has another format"),
]


def spoil_image(write):
    """Replace the image of one case."""

    def spoil(place):
        place.image.unlink()
        write(place.image)

    return spoil


PLANNED = {"zero spacing": "the spacings differ"} | dict.fromkeys(NO_FILES, "case_1")
"""Other words for images of which planning knows more, or less."""

IMAGES: list[Row] = [
    (name, spoil_image(write), PLAN, UNUSABLE, PLANNED.get(name, words))
    for name, write, words in [*FAULTS_OF_FILES, *FAULTS_OF_IMAGES]
]


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row[0])
def test_planning_names_the_image(place, row, capsys):
    check(place, row, capsys)


PREDICTED = [*FAULTS_OF_FILES, *FAULTS_OF_IMAGES, *FAULTS_OF_OTHER_FORMATS]
READ = "zero spacing"
"""Image that planning refuses, because its label map lies elsewhere; prediction takes 1 mm."""


@pytest.fixture(scope="module")
def predicted(sound, tmp_path_factory):
    """Exit code and failures, by number, of one run over all bad images and a good one, each in a row of a list."""
    root = tmp_path_factory.mktemp("predicted")
    rows = ["case,image"]
    for number, (_, write, _) in enumerate(PREDICTED):
        folder = root / "deep" / str(number)
        folder.mkdir(parents=True)
        write(folder / "x.nii.gz")
        (written,) = [path for path in folder.glob("*") if path.is_symlink() or path.exists()]
        rows.append(f"{number},deep/{number}/{written.name}")
    rows.append(f"good,{sound.images}/case_0_0000.nii.gz")
    (root / "list.csv").write_text("\n".join(rows))
    words = ["predict", "-m", sound.workspace, "-i", root / "list.csv", "-o", root / "out", "--device", "cpu"]
    code = main([str(word) for word in words])
    listed = json.loads((root / "out" / "failures.json").read_text())
    return code, root / "out", {failure["case"]: failure["error"] for failure in listed}


def test_prediction_goes_on_with_the_others(predicted):
    code, out, failures = predicted
    assert code == SOME_FAILED
    assert "good" not in failures
    assert (out / "good.nii.gz").exists()


@pytest.mark.parametrize("number", range(len(PREDICTED)), ids=lambda number: PREDICTED[number][0])
def test_prediction_names_the_image(predicted, number):
    _, out, failures = predicted
    name, _, words = PREDICTED[number]
    if name == READ:
        assert (out / f"{number}.nii.gz").exists()
        return
    assert words in failures[str(number)]
    assert "\n" not in failures[str(number)]
    assert not [*out.glob(f"{number}.*")]


def label_as(change):
    """Replace the label map of one case by a changed one."""
    return lambda place: save(place.label, change(draw(1)[1]))


def shifted(place):
    affine = DIAGONAL.copy()
    affine[0, 3] = 30
    save(place.label, draw(1)[1], affine)


def seventy_thousand(array):
    return (np.arange(array.size, dtype=np.int32) * 30 % 80000).reshape(array.shape)


def with_one(value, kind=np.float32):
    def change(array):
        array = array.astype(kind)
        array[0, 0, 0] = value
        return array

    return change


LABEL_FAULTS: list[tuple[str, Builder, str]] = [
    ("undeclared value", label_as(with_one(9, np.uint8)), "undeclared label values: 9 in 1 voxels"),
    ("negative value", label_as(with_one(-3, np.int16)), "label values must lie between 0 and"),
    ("fraction", label_as(with_one(1.5)), "1.5"),
    ("NaN", label_as(with_one(np.nan)), "case_1"),
    ("infinite", label_as(with_one(np.inf)), "case_1"),
    ("huge value", label_as(with_one(1e30, np.float64)), "case_1"),
    ("70,000 values", label_as(seventy_thousand), "label values must lie between 0 and 65535"),
    (
        "4,000 values",
        label_as(lambda array: np.arange(array.size, dtype=np.uint16).reshape(array.shape)),
        "undeclared label values",
    ),
    (
        "beside a constant image",
        lambda place: save(place.image, np.full(SHAPE, 7, dtype=np.float32)),
        "the image is constant",
    ),
    ("other shape", label_as(lambda array: array[:-1]), "not on the same grid"),
    ("other axes", label_as(lambda array: np.stack([array, array], -1)), "case_1"),
    ("shifted", shifted, "not on the same grid"),
    ("empty file", lambda place: place.label.write_bytes(b""), "is empty"),
    ("text", lambda place: place.label.write_text("liver"), "is not packed with gzip"),
    ("a folder", lambda place: replace(place.label, Path.mkdir), "case_1"),
    ("a FIFO", lambda place: replace(place.label, os.mkfifo), "FIFO"),
    ("an image instead", lambda place: save(place.label, draw(1)[0]), "case_1"),
]

LABEL_MAPS: list[Row] = [(name, spoil, PLAN, UNUSABLE, words) for name, spoil, words in LABEL_FAULTS]


@pytest.mark.parametrize("row", LABEL_MAPS, ids=lambda row: row[0])
def test_label_maps(place, row, capsys):
    check(place, row, capsys)


def both(place, affine):
    save(place.image, draw(1)[0], affine)
    save(place.label, draw(1)[1], affine)


def sheared():
    affine = DIAGONAL.copy()
    affine[1, 2] = 0.6
    return affine


def scaled(place):
    """Whole numbers with a factor in the header."""
    image = nibabel.Nifti1Image(draw(1)[0].astype(np.int16), DIAGONAL)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, place.image)


def with_another_qform(place):
    image = nibabel.Nifti1Image(draw(1)[0], DIAGONAL)
    image.set_qform(sheared() @ np.diag([-1.0, 1.0, 1.0, 1.0]), code=1)
    image.set_sform(DIAGONAL, code=1)
    nibabel.save(image, place.image)


def linked(place):
    """A link that the owner of the folder made is followed."""
    place.image.rename(place.root / "kept.nii.gz")
    place.image.symlink_to(place.root / "kept.nii.gz")


ODD: list[tuple[str, Builder]] = [
    ("only background", label_as(lambda array: array * 0)),
    ("float label map", label_as(lambda array: array.astype(np.float32))),
    ("big-endian", lambda place: save(place.image, draw(1)[0].astype(">f4"))),
    ("sheared", lambda place: both(place, sheared())),
    ("sform against qform", with_another_qform),
    ("scaled", scaled),
    ("64 bits", lambda place: save(place.image, draw(1)[0].astype(np.float64))),
    ("a link to another folder", linked),
]

GOOD: list[Row] = [(name, spoil, PLAN, DONE, "Plan for") for name, spoil in ODD]


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row[0])
def test_odd_and_sound(place, row, capsys):
    check(place, row, capsys)
