import pickle
import zipfile

import numpy as np
import pytest
import torch
from typing_extensions import override

from autoseg.errors import InteropError
from autoseg.interop.nnunet_checkpoint import read_checkpoint
from tests.interop.nnunet_models import architecture, checkpoint, weights


class Planted:
    """Runs a function of the author's choice when it is unpickled the ordinary way."""

    def __init__(self, path):
        self.path = path

    @override
    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def content():
    return checkpoint(weights(architecture()["arch_kwargs"], 2, 3))


def test_what_a_trainer_writes_is_read(content, tmp_path):
    content["logging"]["mean_fg_dice"] = [np.float64(0.5), np.array([1.0, 2.0], np.float32), np.int64(3), np.bool_(0)]
    torch.save(content, tmp_path / "checkpoint_final.pth")
    found = read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert (found.configuration, found.trainer, found.fold) == ("3d_fullres", "nnUNetTrainer", "0")
    assert (found.mirror_axes, found.epochs, found.seconds, found.best_dice) == ((0, 1, 2), 2, 18.0, 0.625)
    name = "decoder.seg_layers.0.bias"
    torch.testing.assert_close(found.weights[name], content["network_weights"][name])


def test_names_of_numpy_1_are_let_through(content, tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, whole in members.items():
            older = whole.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            assert (older != whole) == name.endswith("data.pkl")
            archive.writestr(name, older)
    assert read_checkpoint(path).best_dice == 0.625


@pytest.mark.parametrize("place", ["optimizer_state", "logging", "network_weights"])
def test_a_checkpoint_that_names_another_class_is_refused_and_the_class_not_called(content, tmp_path, place):
    content[place] = {"planted": Planted(tmp_path / "ran")}
    torch.save(content, tmp_path / "checkpoint_final.pth")
    with pytest.raises(InteropError, match=r"names (_io|io)\.open, which no nnU-Net checkpoint contains"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_unread(tmp_path):
    (tmp_path / "checkpoint_final.pth").write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(InteropError, match=r"checkpoint_final\.pth: not a torch checkpoint"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_said_to_be_one(content, tmp_path, share):
    path = tmp_path / "checkpoint_final.pth"
    torch.save(content, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InteropError, match=r"checkpoint_final\.pth: .*Copy or download it again"):
        read_checkpoint(path)


@pytest.mark.parametrize("missing", ["network_weights", "init_args", "trainer_name", "current_epoch"])
def test_a_checkpoint_of_something_else_is_said_to_lack_a_part(content, tmp_path, missing):
    del content[missing]
    torch.save(content, tmp_path / "checkpoint_final.pth")
    with pytest.raises(InteropError, match=f"not a checkpoint of nnU-Net v2: KeyError '{missing}'"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")


def test_without_recorded_axes_nothing_is_mirrored(content, tmp_path):
    del content["inference_allowed_mirroring_axes"]
    torch.save(content, tmp_path / "checkpoint_final.pth")
    assert read_checkpoint(tmp_path / "checkpoint_final.pth").mirror_axes == ()


def whole_numbers(tensor):
    return (100 * tensor).to(torch.int8)


def not_finite(tensor):
    return torch.full_like(tensor, float("nan"))


def infinite(tensor):
    return torch.full_like(tensor, float("inf"))


def expanded(tensor):
    return torch.zeros(1).expand(10**6, 10**6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (whole_numbers, "are of the type int8"),
        (not_finite, "have values that are not finite"),
        (infinite, "have values that are not finite"),
        (lambda tensor: tensor.to(torch.complex64), "are of the type complex64"),
        (lambda tensor: tensor.to_sparse(), "are sparse, quantised or nested"),
        (lambda tensor: tensor.to("meta"), "have a shape, but no values"),
        (expanded, "have the shape .1000000, 1000000., but fewer values"),
        (lambda tensor: tensor.tolist(), "are no tensor but list"),
        (lambda tensor: None, "are no tensor but NoneType"),
    ],
)
def test_weights_that_are_no_plain_finite_numbers_are_refused(content, tmp_path, change, words):
    name = "decoder.seg_layers.0.bias"
    content["network_weights"][name] = change(content["network_weights"][name])
    torch.save(content, tmp_path / "checkpoint_final.pth")
    with pytest.raises(InteropError, match=rf"checkpoint_final.pth: the weights {name} {words}"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("current_epoch", float("inf")), ("current_epoch", float("nan")), ("current_epoch", -1),
        ("current_epoch", 10**12), ("current_epoch", "many"), ("inference_allowed_mirroring_axes", (float("inf"),)),
        ("logging", [1, 2]), ("_best_ema", "good"), ("network_weights", [1, 2]), ("init_args", "none"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_meant_are_named(content, tmp_path, key, value):
    content[key] = value
    torch.save(content, tmp_path / "checkpoint_final.pth")
    with pytest.raises(InteropError, match=r"checkpoint_final.pth: not a checkpoint of nnU-Net v2"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")


def test_half_precision_weights_are_read(content, tmp_path):
    content["network_weights"] = {name: tensor.half() for name, tensor in content["network_weights"].items()}
    torch.save(content, tmp_path / "checkpoint_final.pth")
    assert read_checkpoint(tmp_path / "checkpoint_final.pth").weights["decoder.seg_layers.0.bias"].dtype == torch.half


def test_a_packed_checkpoint_is_a_bomb(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**24))
    with pytest.raises(InteropError, match=r"bytes would become 16777216 in memory"):
        read_checkpoint(path)
