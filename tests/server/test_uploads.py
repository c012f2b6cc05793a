"""Files of clients: their names, their contents, and what is refused."""

import io

import pytest

from autoseg.server.uploads import MAX_CHANNELS, RefusedUploadError, Upload, store_images

GZIP = b"\x1f\x8b" + bytes(100)


def upload(name, content=GZIP):
    return Upload(name, io.BytesIO(content))


def test_files_are_written_under_names_of_the_server(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    names = ("../../evil.nii.gz", "/etc/passwd.NII.GZ", "CON.nii.gz", "a\0b.nii.gz", "x" * 5000 + ".nii.gz")
    paths = store_images([upload(name, GZIP + name.encode()) for name in names], folder)
    assert [path.name for path in paths] == [f"image_{number:04d}.nii.gz" for number in range(5)]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert list(tmp_path.iterdir()) == [folder]
    assert [path.read_bytes() for path in paths] == [GZIP + name.encode() for name in names]


@pytest.mark.parametrize(
    ("uploads", "status", "words"),
    [
        ([], 400, "has no file"),
        ([upload("a.nii.gz", b"")], 400, "the file is empty"),
        ([upload("a.exe")], 415, "must end in one of .nii.gz"),
        ([upload("a.hdr")], 415, "must end in one of"),
        ([upload("a.nhdr", b"NRRD0004")], 415, "must end in one of"),
        ([upload("")], 415, "must end in one of"),
        ([upload("a.nii")], 415, "not what its ending .nii says"),
        ([upload("a.nrrd", b"<html>")], 415, "not what its ending .nrrd says"),
        ([upload("a.nii.gz")] * (MAX_CHANNELS + 1), 400, "expected up to 64"),
    ],
)
def test_refused(tmp_path, uploads, status, words):
    with pytest.raises(RefusedUploadError, match=words) as refusal:
        store_images(uploads, tmp_path)
    assert refusal.value.status == status
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_full_disk(tmp_path):
    with pytest.raises(RefusedUploadError, match="try again later") as refusal:
        store_images([upload("a.nii.gz")], tmp_path / "gone")
    assert refusal.value.status == 503
