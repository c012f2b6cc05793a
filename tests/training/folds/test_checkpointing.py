import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autoseg.errors import TrainingError
from autoseg.networks.weight_files import read_inner_record, read_weights, read_weights_hash, write_weights
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.records.training import TrainingSpec
from autoseg.training.folds.checkpointing import (
    cpu_weights,
    load_resume_point,
    restore_optimizer,
    save_resume_point,
    save_weights,
)

RECORD = Checkpoint(
    configuration="2d",
    fold="0",
    model_hash="m",
    cases_hash="c",
    training=TrainingSpec(mirror_axes=(), batch_dice=False),
    epoch=3,
    step=75,
    elapsed_seconds=12.5,
    best_pseudo_dice=0.5,
)


def trained(optimizer_type, steps=2, seed=0, **settings):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    optimizer = optimizer_type(network.parameters(), lr=0.1, **settings)
    step(network, optimizer, steps)
    return network, optimizer


def step(network, optimizer, steps):
    for number in range(steps):
        optimizer.zero_grad()
        network(torch.full((4, 3), float(number + 1))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("optimizer_type", "settings"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"weight_decay": 0.1})]
)
def test_a_resumed_optimiser_takes_the_very_same_steps(tmp_path, optimizer_type, settings):
    network, optimizer = trained(optimizer_type, **settings)
    save_resume_point(tmp_path / "last", RECORD, cpu_weights(network.state_dict()), optimizer, {})
    step(network, optimizer, 3)

    other, fresh = trained(optimizer_type, steps=0, seed=1, **settings)
    point = load_resume_point(tmp_path / "last")
    assert point is not None
    other.load_state_dict(point.network)
    restore_optimizer(fresh, point.optimizer)
    step(other, fresh, 3)
    for expected, found in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_a_restored_optimiser_keeps_its_moments_beside_their_weights_in_memory(tmp_path, optimizer_type):
    settings = {"momentum": 0.9} if optimizer_type is torch.optim.SGD else {}

    def make(seed):
        torch.manual_seed(seed)
        layer = torch.nn.Conv3d(3, 5, 3)
        layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last_3d)
        return layer, optimizer_type(layer.parameters(), lr=0.1, fused=True, **settings)

    def train(layer, optimizer):
        optimizer.zero_grad()
        torch.manual_seed(7)
        layer(torch.randn(2, 3, 4, 5, 6)).square().mean().backward()
        optimizer.step()

    layer, optimizer = make(0)
    train(layer, optimizer)
    save_resume_point(tmp_path / "last", RECORD, cpu_weights(layer.state_dict()), optimizer, {})
    train(layer, optimizer)
    other, fresh = make(1)
    point = load_resume_point(tmp_path / "last")
    assert point is not None
    other.load_state_dict(point.network)
    restore_optimizer(fresh, point.optimizer)
    train(other, fresh)
    torch.testing.assert_close(other.weight, layer.weight, rtol=0, atol=1e-7)


def test_record_and_average_come_back(tmp_path):
    network, optimizer = trained(torch.optim.SGD, momentum=0.9)
    average = {"0.weight": torch.ones(5, 3), "num_updates": torch.tensor(7)}
    save_resume_point(tmp_path / "last", RECORD, cpu_weights(network.state_dict()), optimizer, average)
    point = load_resume_point(tmp_path / "last")
    assert point is not None
    assert point.checkpoint == RECORD
    assert torch.equal(point.average["num_updates"], torch.tensor(7))
    assert read_record(Checkpoint, tmp_path / "last.json") == RECORD


def test_final_weights_are_the_network_alone(tmp_path):
    network, _ = trained(torch.optim.SGD)
    save_weights(cpu_weights(network.to(torch.bfloat16).state_dict()), RECORD, tmp_path / "final")
    weights = load_file(tmp_path / "final.safetensors")
    assert weights.keys() == network.state_dict().keys()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())


def test_no_checkpoint_is_not_an_error(tmp_path):
    assert load_resume_point(tmp_path / "last") is None


@pytest.mark.parametrize("content", [b"", b"no tensors here", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "last.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"last\.safetensors.*damaged.*--restart"):
        load_resume_point(tmp_path / "last")


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_tensors_is_damage(tmp_path, seed):
    network, optimizer = trained(torch.optim.AdamW)
    save_resume_point(tmp_path / "last", RECORD, cpu_weights(network.state_dict()), optimizer, {})
    path = tmp_path / "last.safetensors"
    content = bytearray(path.read_bytes())
    first = 8 + int.from_bytes(content[:8], "little")  # tensors follow the header
    rng = np.random.default_rng(seed)
    content[rng.integers(first, len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    with pytest.raises(SafetensorError, match="does not have the checksum"):
        read_weights(path)
    with pytest.raises(TrainingError, match=r"last\.safetensors: this checkpoint is damaged .*checksum.*--restart"):
        load_resume_point(tmp_path / "last")


@pytest.mark.parametrize(("before", "after"), [(b"epoch", b"epocj"), (b"0.bias", b"0.bjas"), (b'"F32"', b'"I32"')])
def test_altered_headers_are_damage(tmp_path, before, after):
    network, _ = trained(torch.optim.SGD)
    save_weights(cpu_weights(network.state_dict()), RECORD, tmp_path / "final")
    path = tmp_path / "final.safetensors"
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after))
    with pytest.raises(SafetensorError, match="does not have the checksum"):
        read_weights(path)


def test_equal_weights_are_equal_files(tmp_path):
    network, _ = trained(torch.optim.SGD)
    for number in range(8):
        save_weights(cpu_weights(network.state_dict()), RECORD, tmp_path / str(number))
    assert len({path.read_bytes() for path in tmp_path.glob("*.safetensors")}) == 1


def test_other_records_of_equal_tensors_have_one_hash(tmp_path):
    network, _ = trained(torch.optim.SGD)
    for name, seconds in (("first", 1.0), ("second", 2.0)):
        record = RECORD.model_copy(update={"elapsed_seconds": seconds})
        save_weights(cpu_weights(network.state_dict()), record, tmp_path / name)
        assert read_inner_record(tmp_path / f"{name}.safetensors") == record
    first, second = (read_weights_hash(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert first == second
    assert len(first) == 64
    altered = {**cpu_weights(network.state_dict()), "0.bias": torch.zeros(5)}
    save_weights(altered, RECORD, tmp_path / "other")
    assert read_weights_hash(tmp_path / "other.safetensors") != first


def test_tensors_of_every_kind_have_a_checksum_and_come_back(tmp_path):
    tensors = {
        "empty": torch.zeros(0, 3), "number": torch.tensor(7), "flags": torch.tensor([True, False]),
        "half": torch.arange(6, dtype=torch.float16).reshape(2, 3).T, "brain": torch.ones(2, dtype=torch.bfloat16),
    }  # fmt: skip
    write_weights(tensors, tmp_path / "all.safetensors")
    found = read_weights(tmp_path / "all.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_tied_weights_are_written_under_both_names(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    write_weights({"first": tied, "second": tied, "row": tied[1]}, tmp_path / "tied.safetensors")
    found = read_weights(tmp_path / "tied.safetensors")
    assert torch.equal(found["first"], tied)
    assert torch.equal(found["second"], tied)
    assert found["row"].tolist() == [3.0, 4.0, 5.0]


def test_weights_without_a_checksum_are_read(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "old.safetensors", metadata={"checkpoint": RECORD.model_dump_json()})
    assert read_inner_record(tmp_path / "old.safetensors") == RECORD
    assert read_weights_hash(tmp_path / "old.safetensors") == ""
    assert torch.equal(read_weights(tmp_path / "old.safetensors")["a"], torch.ones(3))


def test_weights_are_readable_for_whom_other_files_are(tmp_path):
    save_weights({"a": torch.zeros(2)}, RECORD, tmp_path / "weights")
    (tmp_path / "other").touch()
    modes = {path.suffix: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes[".safetensors"] == modes[".json"] == modes[""]
