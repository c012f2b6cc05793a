"""nnU-Net's own training step on the same network, patch and batch, where nnU-Net v2 is installed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.records.network import NetworkSpec
from autoseg.records.plan import Configuration
from gpu_checks.machine import Machine
from gpu_checks.made_up import large_configuration
from gpu_checks.results import Finding, Findings, SkippedError, at_least
from gpu_checks.steps import SECONDS_PER_STEP_MEASUREMENT, bare_step

MIN_SPEEDUP = 1.2


def check_against_nnunet(machine: Machine) -> Findings:
    """Let our step and nnU-Net's take turns: residual encoder M, 128 x 128 x 128, batch 2, neither compiled."""
    configuration = large_configuration(machine, "residual_unet")
    theirs = nnunet_step(machine, configuration)
    ours = bare_step(machine, configuration)
    own, other = machine.take_turns([ours, theirs], SECONDS_PER_STEP_MEASUREMENT)
    return [
        Finding(f"our step, {machine.fast_precision}", 1000 * own, "ms"),
        Finding("nnU-Net's step, fp16" if machine.has_gpu else "nnU-Net's step, fp32", 1000 * other, "ms"),
        machine.judge(at_least("speed-up", other / own, MIN_SPEEDUP, "times")),
    ]


def nnunet_step(machine: Machine, configuration: Configuration) -> Callable[[], None]:
    """One step as nnU-Net's trainer does it, on noise that lies on the device.

    Raises:
        SkippedError: If nnU-Net is not installed.
    """
    network = _build_network(configuration.network).to(machine.device)
    loss = _build_loss(len(configuration.network.features) - 1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, weight_decay=3e-5, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.has_gpu)
    image = torch.randn(
        configuration.batch_size, configuration.network.input_channels, *configuration.patch_size, device=machine.device
    )
    targets = _draw_targets(machine, configuration)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(machine.device.type, enabled=machine.has_gpu):
            value = loss(network(image), targets)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()

    return step


def _build_network(spec: NetworkSpec) -> nn.Module:
    try:
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    except ModuleNotFoundError as error:
        raise SkippedError(f"nnU-Net v2 is not installed here: {error}") from error
    network: nn.Module = ResidualEncoderUNet(
        spec.input_channels, len(spec.features), spec.features, nn.Conv3d, spec.kernel_sizes, spec.strides,
        spec.encoder_blocks, spec.output_channels, spec.decoder_blocks, True, nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True}, None, None, nn.LeakyReLU, {"inplace": True}, deep_supervision=True,
    )  # fmt: skip
    return network


def _build_loss(levels: int) -> nn.Module:
    try:
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
        from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    except ModuleNotFoundError as error:
        raise SkippedError(f"nnU-Net v2 is not installed here: {error}") from error
    weights = np.array([1 / 2**level for level in range(levels)])
    weights[-1] = 0
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss: nn.Module = DeepSupervisionWrapper(
        DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, ignore_label=None, dice_class=MemoryEfficientSoftDiceLoss),
        weights / weights.sum(),
    )
    return loss


def _draw_targets(machine: Machine, configuration: Configuration) -> list[Tensor]:
    """Labels at the size of each level's output."""
    targets, shape = [], np.array(configuration.patch_size)
    for stride in configuration.network.strides[:-1]:
        shape = shape // stride
        labels = torch.randint(
            0, configuration.network.output_channels, (configuration.batch_size, 1, *map(int, shape))
        )
        targets.append(labels.float().to(machine.device))
    return targets
