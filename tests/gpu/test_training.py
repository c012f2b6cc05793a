"""Training on the pretended GPU: no tensor in the wrong place, and the host waits only where it must."""

import itertools
from collections import Counter
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch

from autoseg.networks.devices import choose_device
from autoseg.networks.unet import UNet
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.losses import LossName
from autoseg.records.network import NormalizationSpec
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import Batch
from autoseg.training.folds.checkpointing import cpu_weights, flatten_optimizer, restore_optimizer
from autoseg.training.invented_data import NOISE_ENCODING as LABELS
from autoseg.training.invented_data import measured_configuration
from autoseg.training.losses.maps import MAPS, make_maps, map_shapes
from autoseg.training.steps.gradients import compute_gradients
from autoseg.training.steps.loop import train_epoch, validate_epoch
from autoseg.training.steps.run import Clock, StepSettings
from autoseg.training.steps.setup import build_initial_network, start_run
from tests.gpu.pretended_gpu import PretendedGpu


def rules_of(probability):
    """Every change of an image with this probability."""
    names = [rule.name for rule in fields(AugmentationRules) if rule.name.endswith("probability")]
    return replace(AugmentationRules(), **dict.fromkeys(names, probability))


ALL_CHANGES, NO_CHANGES = rules_of(1.0), rules_of(0.0)
REGIONS = LabelEncoding(
    values=(0, 1, 2), activation="sigmoid", ignore_value=9,
    heads=tuple(
        Head(name=name, indices=indices, painted_index=index)
        for name, indices, index in (("whole", (1, 2), 1), ("core", (2,), 2), ("rim", (1,), 1))
    ),
)  # fmt: skip
ENDLESS = Clock(10**9, None)


def batches(shape, encoding=LABELS, loss="dice_ce", map_shapes=()):
    generator = np.random.default_rng(0)
    image = generator.standard_normal((2, 1, *shape), dtype=np.float32)
    target = (image[:, 0] > 0).astype(np.int16)
    for number in itertools.count():
        seeds = np.array([2 * number, 2 * number + 1])
        batch = Batch(image=image.copy(), target=target.copy(), cases=["a", "b"], seeds=seeds)
        if map_shapes:
            batch["maps"] = tuple(make_maps(target, encoding, level, MAPS[loss]) for level in map_shapes)
        yield batch


def start(dimensions=2, architecture="unet", precision=torch.bfloat16, encoding=LABELS, rules=ALL_CHANGES, **changes):
    """A run on the automatic device, and its batches."""
    shape = (64, 64) if dimensions == 2 else (16, 32, 32)
    configuration = measured_configuration(dimensions, 8 if architecture == "unext" else 4, architecture)
    schedule = {"steps_per_epoch": 2, "validation_steps": 1, "learning_rate": 1e-3, "weight_average_decay": 0.9}
    spec = configuration.training.model_copy(update={**schedule, **changes})
    network = configuration.network.model_copy(update={"output_channels": len(encoding.heads)})
    configuration = configuration.model_copy(
        update={
            "patch_size": shape, "training": spec, "network": network,
            "normalization": (NormalizationSpec(scheme="zscore", use_mask=True),),
        }
    )  # fmt: skip
    settings = StepSettings(choose_device("auto"), precision)
    run = start_run(build_initial_network(configuration, 0), configuration, encoding, settings)
    if run.augmentation is not None:
        run.augmentation = build_device_augmentation(configuration, rules)
    return run, batches(shape, encoding, spec.loss, map_shapes(configuration))


@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("loss", get_args(LossName))
def test_every_loss_stays_on_the_device(loss, encoding):
    with PretendedGpu():
        run, stream = start(encoding=encoding, loss=loss)
        assert train_epoch(run, stream, ENDLESS, lambda _step: None).mean_loss is not None
        assert validate_epoch(run, stream, ENDLESS)[0] is not None


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("architecture", ["unet", "residual_unet", "unext"])
def test_every_network_stays_on_the_device(architecture, dimensions, precision):
    with PretendedGpu() as gpu:
        run, stream = start(dimensions, architecture, precision, optimizer="adamw")
        train_epoch(run, stream, ENDLESS, lambda _step: None)
        validate_epoch(run, stream, ENDLESS)
        assert all(map(gpu.is_on_device, run.network.state_dict().values()))


def test_the_first_steps_are_those_of_the_cpu():
    def train():
        run, stream = start(precision=torch.float32, rules=NO_CHANGES, mirror_axes=(), optimizer="sgd")
        train_epoch(run, stream, ENDLESS, lambda _step: None)
        return cpu_weights(run.network.state_dict())

    expected = train()
    with PretendedGpu():
        found = train()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", ["dice_ce", "boundary", "cldice", "skeleton_recall"])
@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
def test_the_host_waits_once_in_a_step(encoding, loss):
    with PretendedGpu() as gpu:
        run, stream = start(encoding=encoding, loss=loss)
        train_epoch(run, stream, ENDLESS, lambda _step: None)  # tables are made
        gpu.waits.clear()
        train_epoch(run, stream, ENDLESS, lambda _step: None)
    found = Counter((wait.reason, wait.file) for wait in gpu.waits)
    per_step, per_epoch = 2 * [("event", "training/steps/loop.py")], [("synchronize", "training/data/device_feed.py")]
    assert found == Counter(per_step + per_epoch)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
def test_the_host_waits_once_in_a_validation(encoding):
    with PretendedGpu() as gpu:
        run, stream = start(encoding=encoding, validation_steps=3)
        validate_epoch(run, stream, ENDLESS)
        gpu.waits.clear()
        validate_epoch(run, stream, ENDLESS)
    assert Counter(wait.file for wait in gpu.waits) == {
        "training/steps/loop.py": 1,
        "training/steps/pseudo_dice.py": 1,
    }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_comes_back_to_the_device(optimizer):
    with PretendedGpu() as gpu:
        run, stream = start(optimizer=optimizer)
        train_epoch(run, stream, ENDLESS, lambda _step: None)
        saved = {name: tensor.cpu().numpy() for name, tensor in flatten_optimizer(run.optimizer).items()}
        run.network.load_state_dict(cpu_weights(run.network.state_dict()))
        restore_optimizer(run.optimizer, {name: torch.from_numpy(array.copy()) for name, array in saved.items()})
        moments = [
            value
            for entry in run.optimizer.state.values()
            for value in entry.values()
            if isinstance(value, torch.Tensor)
        ]
        assert moments
        assert all(map(gpu.is_on_device, moments))
        train_epoch(run, stream, ENDLESS, lambda _step: None)


def test_less_memory_gives_the_same_gradients_on_the_device(monkeypatch):
    def gradients(limit):
        with PretendedGpu():
            run, stream = start(precision=torch.float32)
            network, forward = run.network, UNet.forward

            def limited(network, image):
                if torch.is_grad_enabled() and len(image) > limit:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return forward(network, image)

            monkeypatch.setattr(UNet, "forward", limited)
            batch = next(stream)
            image, target = (torch.from_numpy(batch[name]).to("cuda") for name in ("image", "target"))
            compute_gradients(run, image, target.long(), 0.0)
            monkeypatch.undo()
            return [value.grad.cpu() for value in network.parameters() if value.grad is not None]

    for whole, parts in zip(gradients(2), gradients(1), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)
