import stat
import zipfile

import pytest

from autoseg.errors import InteropError
from autoseg.interop.archives import extract_safely, list_safely


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_members_arrive_with_their_folders_and_content(tmp_path):
    archive = write_zip(tmp_path / "model.zip", [("a/", b""), ("a/b/plans.json", b"{}"), ("top.txt", b"words")])
    extract_safely(archive, tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"a/b/plans.json", "top.txt"}
    assert (tmp_path / "out" / "top.txt").read_bytes() == b"words"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../escaped.txt", "leaves the folder"),
        ("a/../../escaped.txt", "leaves the folder"),
        ("/tmp/escaped.txt", "absolute path"),
        ("C:/escaped.txt", "absolute path"),
        ("..\\escaped.txt", "backslash"),
    ],
)
def test_a_member_that_leaves_the_folder_is_refused_before_anything_is_written(tmp_path, name, fault):
    archive = write_zip(tmp_path / "model.zip", [("good.txt", b"1"), (name, b"2")])
    with pytest.raises(InteropError, match=fault):
        extract_safely(archive, tmp_path / "inner" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


@pytest.mark.parametrize(
    ("kind", "fault"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFCHR, "neither a file nor a folder")]
)
def test_links_and_devices_are_refused(tmp_path, kind, fault):
    member = zipfile.ZipInfo("weights")
    member.create_system = 3  # UNIX
    member.external_attr = (kind | 0o777) << 16
    archive = write_zip(tmp_path / "model.zip", [(member, b"/etc")])
    with pytest.raises(InteropError, match=f"'weights' is (a )?{fault}"):
        extract_safely(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = write_zip(tmp_path / "model.zip", [("plans.json", b"1"), ("plans.json", b"2")])
    with pytest.raises(InteropError, match=r"'plans.json' occurs 2 times"):
        extract_safely(archive, tmp_path / "out")


def test_what_is_no_zip_file_or_is_cut_off_or_damaged_is_said(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    archive = write_zip(tmp_path / "model.zip", [("a.txt", b"x" * 1000)])
    whole = archive.read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[:500])
    (tmp_path / "flipped.zip").write_bytes(whole.replace(b"xxxxxxxx", b"xxxxyxxx", 1))
    for name in ("text.zip", "short.zip", "flipped.zip"):
        with pytest.raises(InteropError, match=f"{name}: cannot be read as a zip file"):
            extract_safely(tmp_path / name, tmp_path / "out")


def test_a_member_larger_than_the_disk_is_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "model.zip", [("a.txt", b"x" * 1000)])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 999}))
    with pytest.raises(InteropError, match=r"need 0\.0 GB unpacked"):
        extract_safely(archive, tmp_path / "out")


def write_deflated(path, name, size, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive, archive.open(name, "w") as member:
        for _ in range(size // 2**20):
            member.write(bytes(2**20))
    return path


def test_a_zip_bomb_is_refused_before_anything_is_written(tmp_path):
    bomb = write_deflated(tmp_path / "bomb.zip", "zeros", 2**27)
    with pytest.raises(InteropError, match=r"bomb.zip: nothing was unpacked.*'zeros' would become 0\.1 GB"):
        extract_safely(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_members_that_are_small_alone_are_a_bomb_together(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(3):
            archive.writestr(f"zeros_{index}", bytes(2**25))
    with pytest.raises(
        InteropError, match=r"bomb.zip: nothing was unpacked, because its \d+ bytes would become 0.1 GB"
    ):
        extract_safely(bomb, tmp_path / "out")


def test_small_files_may_be_packed_to_any_degree(tmp_path):
    archive = write_deflated(tmp_path / "model.zip", "history.json", 2**22)
    extract_safely(archive, tmp_path / "out")
    assert (tmp_path / "out" / "history.json").stat().st_size == 2**22


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_bounds_are_refused(tmp_path, method):
    archive = write_deflated(tmp_path / "model.zip", "zeros", 2**20, method)
    with pytest.raises(InteropError, match="'zeros' is packed by another method than deflate"):
        extract_safely(archive, tmp_path / "out")


def test_only_the_names_that_are_asked_for_are_unpacked(tmp_path):
    archive = write_zip(tmp_path / "model.zip", [("a.txt", b"1"), ("b/c.txt", b"22")])
    assert list_safely(archive) == {"a.txt": 1, "b/c.txt": 2}
    extract_safely(archive, tmp_path / "out", ["b/c.txt"])
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["c.txt"]
