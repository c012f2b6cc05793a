"""Exported models and models of nnU-Net that are damaged, altered, or made to harm."""

import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from typing_extensions import override

from autoseg.cli.main import main
from tests.faults.battery import IMPORT, PREDICT, UNUSABLE, Place, Row, check, replace, run, save

MODEL = PREDICT.replace("{workspace}", "{archive}")
FOLDER = PREDICT.replace("{workspace}", "{root}/unpacked")
WEIGHTS = "models/3d_fullres/fold_0/checkpoint_final.safetensors"


def unpacked(place: Place):
    folder = place.root / "unpacked"
    with zipfile.ZipFile(place.archive) as archive:
        archive.extractall(folder)
    return folder


def pack(place: Place) -> None:
    """The unpacked folder as the archive again."""
    place.archive.unlink()
    with zipfile.ZipFile(place.archive, "w") as archive:
        for path in sorted((place.root / "unpacked").rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(place.root / "unpacked").as_posix())


def altered(change, *, packed=True):
    """The model with a changed folder."""

    def spoil(place):
        change(unpacked(place))
        if packed:
            pack(place)

    return spoil


def with_member(name, content=b"x", method=zipfile.ZIP_STORED):
    """The archive with one more member."""

    def spoil(place):
        with zipfile.ZipFile(place.archive, "a", method) as archive:
            archive.writestr(name, content)

    return spoil


def flip(name):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return change


def manifest_with(**changes):
    def change(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def link_out(place):
    member = zipfile.ZipInfo("models/link")
    member.create_system, member.external_attr = 3, 0o120777 << 16
    with_member(member, b"/etc/passwd")(place)


def nested(place):
    unpacked(place)
    shutil.make_archive(str(place.archive.with_suffix("")), "zip", place.root, "unpacked")


def cut(place):
    place.archive.write_bytes(place.archive.read_bytes()[:3000])


def bomb(place):
    with zipfile.ZipFile(place.archive, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as member:
        for _ in range(70):
            member.write(bytes(2**20))


def declared_bomb(place):
    """Listed in the manifest with its size, so that only the ratio tells."""
    folder = unpacked(place)
    content = json.loads((folder / "manifest.json").read_text())
    content["files"]["zeros"] = {"bytes": 70 * 2**20, "sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(content))
    pack(place)
    bomb(place)


def plan_of(**changes):
    """plan.json with other entries, and the manifest with its hash, as somebody who wants to harm would do."""

    def change(folder):
        from hashlib import sha256

        path = folder / "plan.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        manifest = json.loads((folder / "manifest.json").read_text())
        facts = {"bytes": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest()}
        manifest["files"]["plan.json"] = facts
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def drop(name):
    return lambda folder: (folder / name).unlink()


EXPORTED: list[Row] = [
    ("half a download", cut, MODEL, UNUSABLE, "tiny.zip: is a file that cannot be read as a zip file"),
    ("empty", lambda place: place.archive.write_bytes(b""), MODEL, UNUSABLE, "tiny.zip: is a file that cannot be read"),
    ("missing", lambda place: place.archive.unlink(), MODEL, UNUSABLE, "tiny.zip: not a model"),
    ("a FIFO", lambda place: replace(place.archive, os.mkfifo), MODEL, UNUSABLE, "tiny.zip"),
    ("wrong hash", altered(flip(WEIGHTS)), MODEL, UNUSABLE, "has a different content (sha256)"),
    ("wrong hash, folder", altered(flip(WEIGHTS), packed=False), FOLDER, UNUSABLE, "has a different content (sha256)"),
    ("plan shorter", altered(lambda folder: (folder / "plan.json").write_text("{}")), MODEL, UNUSABLE,
     "plan.json has 2 bytes, expected"),
    ("fold missing", altered(drop(WEIGHTS)), MODEL, UNUSABLE, f"{WEIGHTS} is missing"),
    ("no manifest", altered(drop("manifest.json")), MODEL, UNUSABLE, "has no manifest.json at its top level"),
    ("manifest deep", altered(lambda folder: (folder / "manifest.json").write_text("[" * 100_000)), MODEL, UNUSABLE,
     "tiny.zip/manifest.json: not a valid Manifest"),
    ("manifest newer", altered(manifest_with(schema_version=4)), MODEL, UNUSABLE, "newer version of autoseg"),
    ("manifest names others", altered(manifest_with(files={"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}})), MODEL,
     UNUSABLE, "leaves the model's folder"),
    ("manifest of ONNX", altered(manifest_with(format="onnx")), MODEL, UNUSABLE, "networks in onnx format"),
    ("pickle inside", with_member("models/run_me.pkl", b"cos\nsystem\n."), MODEL, UNUSABLE,
     "models/run_me.pkl is not in its manifest.json"),
    ("member above", with_member("../evil.txt"), MODEL, UNUSABLE, "'../evil.txt' leaves the folder"),
    ("absolute member", with_member("/tmp/evil.txt"), MODEL, UNUSABLE, "has an absolute path"),
    ("member with backslash", with_member("..\\evil.txt"), MODEL, UNUSABLE, "has a backslash in its path"),
    ("link", link_out, MODEL, UNUSABLE, "is a symbolic link"),
    ("zip bomb", bomb, MODEL, UNUSABLE, "'zeros' would become 0.1 GB"),
    ("declared zip bomb", declared_bomb, MODEL, UNUSABLE, "'zeros' would become 0.1 GB"),
    ("packed by bzip2", with_member("zeros", bytes(2**20), zipfile.ZIP_BZIP2), MODEL, UNUSABLE, "than deflate"),
    ("other number of channels", altered(plan_of(channel_names=["a", "b"])), MODEL, UNUSABLE,
     "tiny.zip/plan.json: not a valid Plan"),
    ("other orientation", altered(plan_of(orientation="as_stored")), MODEL, UNUSABLE,
     "was trained for another plan"),
    ("nested in a folder", nested, MODEL, UNUSABLE, "has no manifest.json at its top level"),
    ("an image as model", lambda place: shutil.copy(place.image, place.archive), MODEL, UNUSABLE,
     "is a file that cannot be read as a zip file"),
]  # fmt: skip


class Planted:
    """Runs a function when it is unpickled the ordinary way."""

    @override
    def __reduce__(self):
        return os.system, ("touch ran",)


def foreign(content=None, *, plans="{}", packed=False):
    """A folder of nnU-Net's layout with a checkpoint."""

    def spoil(place):
        fold = place.root / "foreign" / "fold_0"
        fold.mkdir(parents=True)
        (fold.parent / "plans.json").write_text(plans)
        (fold.parent / "dataset.json").write_text(json.dumps({"channel_names": {"0": "a"}, "labels": {}}))
        path = fold / "checkpoint_final.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)

    return spoil


def checkpoint(**changes):
    """Entries of nnU-Net's checkpoints."""
    return {
        "network_weights": {"encoder.x": torch.zeros(2)}, "init_args": {"configuration": "3d_fullres", "fold": 0},
        "trainer_name": "nnUNetTrainer", "current_epoch": 1, "inference_allowed_mirroring_axes": (0,),
    } | changes  # fmt: skip


def weights(value):
    return foreign(checkpoint(network_weights={"encoder.x": value}))


FOREIGN: list[Row] = [
    (f"nnU-Net, {name}", spoil, IMPORT, UNUSABLE, words)
    for name, spoil, words in (
        ("nothing there", lambda _: None, "does not exist"),
        ("no checkpoint", foreign(), "no fold has a checkpoint_final.pth"),
        ("empty checkpoint", foreign(b""), "checkpoint_final.pth: not a torch checkpoint"),
        ("plain pickle", foreign(pickle.dumps(Planted())), "checkpoint_final.pth: not a torch checkpoint"),
        ("pickle inside", foreign(checkpoint(logging=Planted())), "which no nnU-Net checkpoint contains"),
        ("a list", foreign([1, 2]), "not a checkpoint of nnU-Net v2"),
        ("no weights", foreign({"init_args": {}}), "not a checkpoint of nnU-Net v2"),
        ("whole numbers", weights(torch.zeros(2, dtype=torch.int64)), "the weights encoder.x are of the type int64"),
        ("complex", weights(torch.zeros(2, dtype=torch.complex64)), "are of the type complex64"),
        ("sparse", weights(torch.eye(2).to_sparse()), "are sparse"),
        ("meta", weights(torch.zeros(2, device="meta")), "have a shape, but no values"),
        ("NaN", weights(torch.full((2,), float("nan"))), "have values that are not finite"),
        ("infinite", weights(torch.full((2,), float("inf"))), "have values that are not finite"),
        ("expanded", weights(torch.zeros(1).expand(10**7, 10**7)), "but fewer values"),
        ("text", weights("x"), "are no tensor but str"),
        ("epoch inf", foreign(checkpoint(current_epoch=float("inf"))), "not a checkpoint of nnU-Net v2"),
        ("epoch -1", foreign(checkpoint(current_epoch=-1)), "current_epoch is -1"),
        ("configuration that leads out", foreign(checkpoint(init_args={"configuration": "../../x", "fold": 0})),
         "leads out of the output"),
        ("plans empty", foreign(checkpoint(), plans=""), "plans.json: cannot be read as JSON"),
        ("plans deep", foreign(checkpoint(), plans="[" * 100_000), "plans.json: cannot be read as JSON"),
        ("plans of nothing", foreign(checkpoint()), "plans.json: not a file of nnU-Net v2"),
    )
]  # fmt: skip


@pytest.mark.parametrize("row", [*EXPORTED, *FOREIGN], ids=lambda row: row[0])
def test_models(place, row, capsys, monkeypatch):
    monkeypatch.chdir(place.root)
    before = {path.name for path in place.root.iterdir()} | {"foreign", "unpacked"}
    check(place, row, capsys)
    assert {path.name for path in place.root.iterdir()} <= before


def test_messages_about_archives_name_them_and_no_temporary_folder(place, capsys):
    altered(plan_of(channel_names=["a", "b"]))(place)
    _, output = run(place, MODEL, capsys)
    assert "autoseg-" not in output.replace(str(place.root), "").replace("autoseg-plan", "")


SMALL = {
    "smaller than the patch": (3, 3, 3),
    "one voxel thick": (12, 14, 1),
    "one column": (1, 1, 16),
    "one voxel": (1, 1, 1),
    "long and thin": (2, 200, 2),
}


@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_images_of_odd_shapes_are_predicted(sound, tmp_path, shape):
    save(tmp_path / "x.nii.gz", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    words = ["predict", "-m", sound.workspace, "-i", tmp_path / "x.nii.gz", "-o", tmp_path / "out", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    assert (tmp_path / "out" / "x.nii.gz").exists()
