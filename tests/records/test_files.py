import errno
import ntpath
import os
import shutil
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from autoseg.errors import RecordError, UsageError, WriteError
from autoseg.records import files
from autoseg.records.case import Grid
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import read_json, read_record, read_records, replacing, write_record, write_text
from autoseg.records.plan import Splits
from autoseg.records.workspace import Workspace

AFFINE = ((0.0, 0.0, 1.5, 0.0), (0.0, 2.0, 0.0, 0.0), (3.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
GRID = Grid(shape=(3, 5, 7), spacing=(3.0, 2.0, 1.5), affine=AFFINE)


def test_a_record_survives_its_file(tmp_path):
    path = tmp_path / "new folder" / "grid.json"
    write_record(GRID, path)
    assert read_record(Grid, path) == GRID


def test_the_file_is_plain_json_for_people(tmp_path):
    write_record(GRID, tmp_path / "grid.json")
    assert '"shape": [\n  3,\n  5,\n  7\n ]' in (tmp_path / "grid.json").read_text()


def test_wrong_fields_are_all_named_with_their_path(tmp_path):
    path = tmp_path / "grid.json"
    path.write_text('{"shape": [3, "five", 7], "spacing": [1, 2, 3], "affine": null, "extra": 1}')
    with pytest.raises(RecordError, match=r"grid\.json") as caught:
        read_record(Grid, path)
    message = str(caught.value)
    assert "shape.1:" in message
    assert "affine:" in message
    assert "extra:" in message


def test_a_number_as_text_is_refused(tmp_path):
    path = tmp_path / "encoding.json"
    path.write_text('{"values": ["0", 1], "activation": "softmax", "heads": []}')
    with pytest.raises(RecordError, match=r"values\.0"):
        read_record(LabelEncoding, path)


UNREADABLE = ["[" * 100_000, '{"a":' * 5_000, "1" * 5_000, '["\\ud800"]']
"""JSON that is nested too deeply, a number of too many digits, and half of a character."""


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"shape": NaN}', *UNREADABLE])
def test_damaged_json_is_one_clear_error(tmp_path, content):
    path = tmp_path / "grid.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"grid\.json"):
        read_record(Grid, path)


@pytest.mark.parametrize("content", ["", "{", *UNREADABLE])
def test_json_of_others_that_cannot_be_read_is_one_clear_error(tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"foreign\.json: cannot be read as JSON"):
        files.read_json(path)


def test_json_of_others_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "foreign.json"
    path.write_text('{"a": [1, 2.5, "x"]}', encoding="utf-8-sig")
    assert files.read_json(path) == {"a": [1, 2.5, "x"]}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"nowhere\.json"):
        read_record(Grid, tmp_path / "nowhere.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "text.txt"
    write_text("old", path)
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        divmod(temporary.write_text("half"), 0)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["text.txt"]  # noqa: PTH208 (hidden files count)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_the_file(tmp_path, error):
    path = tmp_path / "weights.safetensors"
    path.write_text("old")
    with pytest.raises(
        WriteError, match=r"weights\.safetensors: cannot be written, because the disk is full"
    ) as caught:
        fail_while_writing(path, error)
    assert caught.value.__cause__ is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208 (hidden files count)


def fail_while_writing(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_library_that_does_not_say_why_it_cannot_write_is_believed_on_a_full_disk_only(tmp_path, monkeypatch):
    error = RuntimeError("Error while creating the NDArray")
    with pytest.raises(RuntimeError, match="NDArray") as caught:
        fail_while_writing(tmp_path / "a.b2nd", error)
    assert caught.value is error
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(WriteError, match=r"a\.b2nd: cannot be written, because the disk is full \(Error while creat"):
        fail_while_writing(tmp_path / "a.b2nd", error)


@pytest.mark.parametrize("error", [UsageError("give another file"), PermissionError(errno.EACCES, "denied")])
def test_other_errors_while_a_file_is_written_stay_what_they_are(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(type(error)) as caught:
        fail_while_writing(tmp_path / "a.json", error)
    assert caught.value is error


def test_the_temporary_name_keeps_the_ending(tmp_path):
    with replacing(tmp_path / "image.nii.gz") as temporary:
        assert temporary.name.endswith("image.nii.gz")
        assert temporary.parent == tmp_path
        temporary.touch()


def test_workspace_paths_follow_the_root(tmp_path):
    workspace = Workspace(tmp_path)
    for fold in ("1", "0", "all"):
        folder = workspace.fold("2d", fold)
        folder.mkdir(parents=True)
        if fold != "1":
            (folder / "checkpoint_final.safetensors").touch()
    assert workspace.fold("2d", "0") == tmp_path / "models" / "2d" / "fold_0"
    assert workspace.trained_folds("2d") == ("0", "all")
    assert workspace.trained_folds("3d_fullres") == ()


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        (r"C:\data\Heart", r"C:\work\heart.autoseg", "../../data/Heart"),
        (r"D:\data\Heart", r"C:\work\heart.autoseg", "D:/data/Heart"),
        (r"\\server\share\Heart", r"C:\work\heart.autoseg", "//server/share/Heart"),
        (r"C:\work\images\a.nii.gz", r"c:\Work", "images/a.nii.gz"),
    ],
)
def test_paths_are_recorded_without_backslashes(monkeypatch, path, folder, expected):
    monkeypatch.setattr(files, "relpath", ntpath.relpath)
    assert files.relative_path(PureWindowsPath(path), PureWindowsPath(folder)) == expected


def test_paths_are_recorded_relative_to_the_folder():
    assert files.relative_path(PurePosixPath("/data/a b/c"), PurePosixPath("/data/x")) == "../a b/c"


def test_a_record_of_a_newer_version_is_called_so(tmp_path):
    """Fields that are unknown here are not called wrong."""
    path = tmp_path / "splits.json"
    path.write_text('{"schema_version": 3, "folds": [], "reason": "", "new_field": 1}')
    expected = r"splits.json: written by a newer version of autoseg: its schema_version is 3, this version \(.*\) reads"
    with pytest.raises(RecordError, match=expected):
        read_record(Splits, path)
    for older in ("0", '"3"', "null", "2.5"):
        path.write_text(f'{{"schema_version": {older}, "folds": [], "reason": ""}}')
        with pytest.raises(RecordError, match="not a valid Splits"):
            read_record(Splits, path)


@pytest.mark.parametrize(
    "read", [read_json, lambda path: read_record(Grid, path), lambda path: read_records(Grid, path)]
)
def test_a_fifo_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "grid.json")
    with pytest.raises(RecordError, match=r"grid.json: cannot be read as JSON: it is a FIFO"):
        read(tmp_path / "grid.json")
