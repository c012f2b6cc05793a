"""A model is opened as it was exported, or not at all."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from autoseg.errors import InteropError, RecordError
from autoseg.interop.models import open_model
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.records.manifest import MANIFEST_NAME
from autoseg.stages.export import export_model
from tests.builders import make_plan, write_model

WEIGHTS = "models/2d/fold_0/checkpoint_final.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    workspace = write_model(folder / "workspace", make_plan({"2d": (1.1, 0.9)}), {"2d": ("0",)})
    export_model(workspace.root, folder / "model.zip")
    return folder / "model.zip"


@pytest.fixture
def unpacked(exported, tmp_path):
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(exported) as archive:
        archive.extractall(folder)
    return folder


def pack(folder, archive):
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            opened.write(path, path.relative_to(folder).as_posix())
    return archive


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_temporary_folder_is_gone_after_loading(exported):
    with open_model(exported) as workspace:
        assert workspace.plan.is_file()
        assert workspace.trained_folds("2d") == ("0",)
        assert workspace.root.name == "model.zip"  # for messages
    assert not workspace.root.parent.exists()


def test_a_workspace_is_read_where_it_is(unpacked):
    with open_model(unpacked) as workspace:
        assert workspace.root == unpacked
    (unpacked / "manifest.json").unlink()
    flip_last_byte(unpacked / WEIGHTS)  # without a manifest nothing is known about its files
    with open_model(unpacked) as workspace:
        assert workspace.root == unpacked
    with open_model(Path("nowhere")) as workspace:
        assert not workspace.plan.exists()


def alter(folder):
    flip_last_byte(folder / WEIGHTS)


def cut(folder):
    (folder / "plan.json").write_bytes((folder / "plan.json").read_bytes()[:-5])


def drop(folder):
    (folder / "selection.json").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (alter, f"{WEIGHTS} has a different content"),
        (cut, r"plan.json has \d+ bytes, expected \d+"),
        (drop, "selection.json is missing"),
    ],
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_an_altered_model_is_refused_by_name(unpacked, tmp_path, change, words, as_zip):
    change(unpacked)
    path = pack(unpacked, tmp_path / "altered.zip") if as_zip else unpacked
    with pytest.raises(InteropError, match=rf"{path.name}: differs from what was exported: {words}"), open_model(path):
        pass


def test_a_file_besides_is_refused(unpacked, tmp_path):
    (unpacked / "models" / "run_me.pkl").write_bytes(b"cos\nsystem\n.")
    archive = pack(unpacked, tmp_path / "more.zip")
    with (
        pytest.raises(InteropError, match=r"more.zip: .*models/run_me.pkl is not in its manifest.json"),
        open_model(archive),
    ):
        pass


def test_nothing_undeclared_is_unpacked(unpacked, tmp_path, monkeypatch):
    """Neither foreign files nor files of another size than declared, however much they would fill."""
    (unpacked / "models" / "zeros").write_bytes(bytes(2**20))
    (unpacked / "selection.json").write_text("{}")
    archive = pack(unpacked, tmp_path / "more.zip")
    written: list[str] = []
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda self, member, folder: written.append(member.filename))
    monkeypatch.setattr(
        "autoseg.interop.models.read_record", lambda kind, _: read_record(kind, unpacked / MANIFEST_NAME)
    )
    with (
        pytest.raises(
            InteropError, match=r"models/zeros is not in its manifest.json; selection.json has 2 bytes, expected \d+"
        ),
        open_model(archive),
    ):
        pass
    assert written == [MANIFEST_NAME]


def test_errors_name_the_zip_file_instead_of_the_temporary_folder(exported):
    with pytest.raises(RecordError) as caught, open_model(exported) as workspace:
        read_record(Checkpoint, workspace.plan)
    assert str(caught.value).startswith(f"{exported}/plan.json: ")
    assert "autoseg-" not in str(caught.value).replace(str(exported), "")


def test_a_flipped_byte_of_the_archive_is_refused(exported, tmp_path):
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 255
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content)
    with pytest.raises(InteropError, match=r"broken.zip: "), open_model(broken):
        pass


def test_half_a_download_is_refused(exported, tmp_path):
    half = tmp_path / "half.zip"
    half.write_bytes(exported.read_bytes()[:3000])
    with pytest.raises(InteropError, match=r"half.zip: is a file that cannot be read as a zip file"), open_model(half):
        pass


def test_other_archives_are_no_models(unpacked, tmp_path):
    top = tmp_path / "top"
    shutil.copytree(unpacked, top / "model")
    with (
        pytest.raises(InteropError, match=r"nested.zip: has no manifest.json at its top.*autoseg import-nnunet"),
        open_model(pack(top, tmp_path / "nested.zip")),
    ):
        pass


def test_members_that_leave_the_folder_are_refused(exported, tmp_path):
    evil = Path(shutil.copy(exported, tmp_path / "evil.zip"))
    with zipfile.ZipFile(evil, "a") as archive:
        archive.writestr("../evil.txt", "evil")
    with (
        pytest.raises(InteropError, match=r"evil.zip: nothing was unpacked.*'../evil.txt' leaves the folder"),
        open_model(evil),
    ):
        pass
    assert not list(tmp_path.parent.glob("evil.txt"))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "files",
            {"../plan.json": {"bytes": 1, "sha256": "0" * 64}},
            r"files\.\.\./plan.json: leaves the model's folder",
        ),
        ("schema_version", 2, "manifest.json: written by a newer version of autoseg: its schema_version is 2"),
    ],
)
def test_a_wrong_manifest_is_refused(unpacked, field, value, words):
    path = unpacked / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(RecordError, match=words), open_model(unpacked):
        pass


def test_onnx_networks_are_for_other_programs(unpacked):
    path = unpacked / "manifest.json"
    path.write_text(path.read_text().replace('"format": "autoseg"', '"format": "onnx"'))
    with pytest.raises(InteropError, match="holds networks in onnx format for other programs"), open_model(unpacked):
        pass
