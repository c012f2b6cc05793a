"""Folds and selections on the pretended GPU: whatever device a training resumes on, it is the training of the CPU."""

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg.records.checkpoint import Checkpoint
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record
from autoseg.stages.train import train_fold
from autoseg.training.data.augmentation import on_device
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.folds import fold
from tests.builders import CASCADE
from tests.gpu.pretended_gpu import PretendedGpu
from tests.training.small_folds import NAME, add_cascade, change_schedule, short, shrink_plan, weights

OPTIMIZERS = ("sgd", "adamw")


@pytest.fixture
def unchanged_images(monkeypatch):
    """Devices draw noise with other generators, so a training that is to be the same changes no image."""
    values: dict[str, Any] = {rule.name: 0.0 for rule in fields(AugmentationRules) if "probability" in rule.name}
    rules = replace(AugmentationRules(), **values)
    monkeypatch.setattr(fold, "choose_rules", lambda _contrasts: rules)
    monkeypatch.setattr(on_device, "AugmentationRules", lambda: rules)


def train(workspace, device, epochs, *, name=NAME, fold="0", **options):
    """Train up to an epoch, on the CPU or on the pretended GPU."""
    if device == "cpu":
        return train_fold(workspace, name, fold, short(device="cpu", epochs=epochs, **options))
    with PretendedGpu() as gpu:
        checkpoint = train_fold(workspace, name, fold, short(device="auto", epochs=epochs, **options))
    assert gpu.bytes_to_device, "no batch reached the device"
    return checkpoint


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_that_moves_between_devices_is_that_of_the_cpu(workspace, unchanged_images, optimizer):
    shrink_plan(workspace)
    change_schedule(workspace, optimizer=optimizer, mirror_axes=(), weight_average_decay=0.9, learning_rate=1e-3)
    train(workspace, "cpu", 1, restart=True)
    for epochs in (2, 3):
        train(workspace, "cpu", epochs)
    expected, evaluation = weights(workspace), evaluate(workspace)
    train(workspace, "cuda", 1, restart=True)
    for device, epochs in (("cpu", 2), ("cuda", 3)):
        train(workspace, device, epochs)
    for name, value in weights(workspace).items():
        if name.endswith("convolution.bias"):  # normalisation takes it out, so AdamW makes steps of rounding errors
            continue
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
    found = evaluate(workspace)
    assert found.cases[0].case == evaluation.cases[0].case
    for label, summary in found.labels.items():
        assert summary.dice == pytest.approx(evaluation.labels[label].dice, abs=1e-3)


@pytest.mark.slow
def test_a_cascade_with_a_frozen_encoder_is_that_of_the_cpu(workspace, unchanged_images):
    """The second step learns from label maps that the first one predicted on the device."""
    shrink_plan(workspace)
    change_schedule(workspace, mirror_axes=(), learning_rate=1e-3)
    add_cascade(workspace)
    losses = {}
    for device in ("cpu", "cuda"):
        for fold_name in ("0", "1", "2"):
            train(workspace, device, 1, restart=True, fold=fold_name)
        train(workspace, device, 1, restart=True, name=CASCADE, freeze_encoder=True)
        lines = (workspace.fold(CASCADE, "0") / "history.jsonl").read_text().splitlines()
        losses[device] = [json.loads(line)["train_loss"] for line in lines]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-4)


def evaluate(workspace):
    return read_record(Evaluation, workspace.fold(NAME, "0") / "validation" / "evaluation.json")


def test_the_loss_scale_of_float16_survives_the_cpu(workspace):
    shrink_plan(workspace)
    train(workspace, "cuda", 1, precision="fp16")
    first = read_record(Checkpoint, workspace.fold(NAME, "0") / "checkpoint_last.json")
    assert first.loss_scale is not None
    assert train(workspace, "cpu", 2, precision="bf16").finished
    checkpoint = train(workspace, "cuda", 3, precision="fp16")
    assert (checkpoint.step, checkpoint.epoch) == (9, 3)
    assert checkpoint.loss_scale is not None
    final = load_file(workspace.fold(NAME, "0") / "checkpoint_final.safetensors")
    assert all(np.isfinite(tensor.numpy()).all() for tensor in final.values())
