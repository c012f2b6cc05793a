"""Headers whose voxels are in other files: which files, and which are refused."""

import contextlib
import os
import socket

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.reading import data_files, read_image, read_label_map
from tests.imaging.formats.small_images import INTENSITIES

META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementSpacing = 1 1 1\nElementType = MET_UCHAR\n"
NRRD = "NRRD0005\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"


@pytest.mark.parametrize(
    ("name", "header", "expected"),
    [
        ("x.mhd", "NDims = 3\nElementDataFile = other name.raw\n", ["other name.raw"]),
        ("x.mhd", "NDims = 3\n\nElementDataFile=sub/v.zraw", ["sub/v.zraw"]),
        ("x.mhd", "ElementDataFile = LOCAL\nElementDataFile = no.raw\n", []),
        ("x.mhd", "ElementDataFile = LIST 2\ns2.raw\ns1.raw\n", ["s2.raw", "s1.raw"]),
        ("x.mhd", "ElementDataFile = s%d.raw 1 2 1\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\r\n# a comment\r\ndata file: other name.raw\r\n", ["other name.raw"]),
        ("x.nhdr", "NRRD0005\ndatafile: ./s%01d.raw 1 2 1 2\n\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\ndata file: LIST\ns1.raw\ns2.raw\n", ["s1.raw", "s2.raw"]),
        ("x.nhdr", "NRRD0005\ntype: uint8\n\ndata file: no.raw\n", []),
    ],
)
def test_headers_name_their_data_files(tmp_path, name: str, header: str, expected: list[str]):
    for neighbour in ("x.raw", "s1.raw", "s2.raw"):
        (tmp_path / neighbour).touch()
    (tmp_path / name).write_bytes(header.encode())
    assert data_files(tmp_path / name) == (tmp_path / name, *(tmp_path / file for file in expected))


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_data_files_are_those_that_itk_writes(tmp_path, ending: str):
    for compressed in (False, True):
        folder = tmp_path / str(compressed)
        folder.mkdir()
        image = SimpleITK.GetImageFromArray(INTENSITIES)
        SimpleITK.WriteImage(image, str(folder / f"x{ending}"), useCompression=compressed)
        assert sorted(data_files(folder / f"x{ending}")) == sorted(folder.iterdir())
    with pytest.raises(ImageFileError, match=r"gone.*cannot be read"):
        data_files(tmp_path / f"gone{ending}")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name, key in (("x.mhd", "ElementDataFile = "), ("x.mha", "ElementDataFile: "), ("x.nhdr", "data file: "),
                          ("x.nrrd", "datafile: "))
        for field in (
            f"{key}OUTSIDE", f"{key}../secret.raw", f"{key}sub/../../secret.raw", f"{key}..\\secret.raw",
            f"{key}C:/secret.raw", f"{key}~/secret.raw", f"{key}../s%d.raw 1 2 1", f"{key}LIST\n../secret.raw",
            f"{key}LIST\nx.raw\nOUTSIDE",
        )
    ],
)  # fmt: skip
def test_no_name_in_a_header_leads_out_of_its_folder(tmp_path, name, field):
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", tmp_path / "s1.raw", tmp_path / "inner" / "x.raw"):
        secret.write_bytes(b"s" * 24)
    header = (META if name.startswith("x.m") else NRRD) + field.replace("OUTSIDE", str(tmp_path / "secret.raw")) + "\n"
    (tmp_path / "inner" / name).write_text(header)
    for read in (data_files, read_label_map, lambda path: read_image([path])):
        with pytest.raises(ImageFileError, match=rf"{name}: its header names .*expected a file in the header's own"):
            read(tmp_path / "inner" / name)


def test_folders_below_absolute_names_within_and_links_of_the_owner_are_followed(tmp_path):
    expected = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "annex.raw").write_bytes(expected.tobytes())
    (tmp_path / "data" / "sub" / "v.raw").symlink_to(tmp_path / "annex.raw")
    for field in ("sub/v.raw", "./sub/v.raw", str(tmp_path / "data" / "sub" / "v.raw")):
        (tmp_path / "data" / "x.mhd").write_text(f"{META}ElementDataFile = {field}\n")
        np.testing.assert_array_equal(read_label_map(tmp_path / "data" / "x.mhd").array[0], expected)


@pytest.mark.parametrize("field", ["%s%s%n", "s%d%s.raw", "%n.raw", "s%5$d.raw"])
def test_names_that_are_formats_of_a_program_are_refused(tmp_path, field):
    (tmp_path / field).write_bytes(bytes(24))
    (tmp_path / "x.mhd").write_text(f"{META}ElementDataFile = {field}\n")
    with pytest.raises(ImageFileError, match="expected a name without %"):
        read_image([tmp_path / "x.mhd"])


def test_a_field_that_only_other_readers_find_is_refused(tmp_path):
    (tmp_path / "x.mha").write_text(f"{META}Comment = a ElementDataFile = /etc/passwd\nElementDataFile = LOCAL\n")
    with pytest.raises(ImageFileError, match="ElementDataFile does not stand at the beginning of its line"):
        read_image([tmp_path / "x.mha"])


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_a_header_without_end_is_refused(tmp_path, name):
    start = META if name == "x.mha" else NRRD
    (tmp_path / name).write_text(start + "Comment = a\n" * 100_000 + "ElementDataFile = /etc/passwd\n")
    with pytest.raises(ImageFileError, match="the header does not end within 1048576 bytes"):
        read_image([tmp_path / name])


def test_a_missing_file_of_voxels_is_named(tmp_path):
    (tmp_path / "x.mhd").write_text(f"{META}ElementDataFile = x.raw\n")
    with pytest.raises(ImageFileError, match=r"x.mhd: the file with its voxels, x.raw, does not exist"):
        read_image([tmp_path / "x.mhd"])


def make_fifo(path):
    os.mkfifo(path)


def make_device(path):
    path.symlink_to("/dev/zero")


def make_socket(path):
    """The name of a socket must be short."""
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


SPECIAL = [(make_fifo, "a FIFO"), (make_device, "a device"), (make_socket, "a socket"), (os.mkdir, "a folder")]


@pytest.mark.parametrize(("make", "kind"), SPECIAL)
@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd", "x.mhd", "x.png", "x.tif", "x.gipl", "x.hdr"])
def test_what_is_no_regular_file_is_refused_unopened(tmp_path, name, make, kind):
    make(tmp_path / name)
    for read in (data_files, read_label_map, lambda path: read_image([path])):
        with pytest.raises(ImageFileError, match=rf"{name}: is {kind}, expected a regular file"):
            read(tmp_path / name)


@pytest.mark.parametrize(("make", "kind"), SPECIAL)
def test_voxels_beside_a_header_are_in_a_regular_file(tmp_path, make, kind):
    (tmp_path / "x.mhd").write_text(f"{META}ElementDataFile = v.raw\n")
    make(tmp_path / "v.raw")
    nibabel.save(nibabel.Nifti1Pair(INTENSITIES, np.eye(4)), tmp_path / "y.hdr")
    (tmp_path / "y.img").unlink()
    make(tmp_path / "y.img")
    for name, other in (("x.mhd", "v.raw"), ("y.hdr", "y.img")):
        with pytest.raises(ImageFileError, match=rf"{name}: {other}, which belongs to it, is {kind}"):
            read_image([tmp_path / name])
