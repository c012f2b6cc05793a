"""The one place where a TrainingSpec becomes an optimiser, and the learning rate over the progress of training."""

from collections.abc import Mapping
from math import cos, pi, pow
from typing import Any, Final

import torch
from torch import Tensor, nn, optim

from autoseg.records.training import TrainingSpec

POLY_EXPONENT: Final = 0.9

RATE_FACTOR: Final = "rate_factor"
"""Key of a parameter group: its learning rate as a multiple of that of the training."""

ENCODER: Final = "encoder."
"""How the names of the encoder's parameters begin."""


def build_optimizer(network: nn.Module, spec: TrainingSpec) -> optim.Optimizer:
    """Make the optimiser of a network's trainable parameters, with torch's fused kernels.

    sgd: Nesterov momentum, weight decay on all parameters. adamw: decoupled weight decay, none on parameters of one
    axis (biases, normalisation).

    Args:
        network: Already on its device; frozen parameters (`requires_grad` false) are left out.
        spec: Optimiser, learning rate, momentum, weight decay, factor on the rate of the encoder.

    References:
        sgd: nnU-Net v2 (Isensee et al. 2021), as published. adamw: Loshchilov and Hutter, "Decoupled weight decay
        regularization", 2019.
    """
    groups = _rate_groups(network, spec.encoder_rate)
    match spec.optimizer:
        case "sgd":
            optimizer = optim.SGD(
                groups,
                lr=spec.learning_rate,
                momentum=spec.momentum,
                weight_decay=spec.weight_decay,
                nesterov=spec.momentum > 0.0,  # torch refuses Nesterov without momentum
                fused=True,
            )
            if spec.momentum > 0.0:
                for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
                    # the fused kernel leaves this memory as it finds it when the first fp16 step overflows
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            return optimizer
        case "adamw":
            decayed = [part for group in groups for part in _decay_groups(group, spec.weight_decay)]
            return optim.AdamW(decayed, lr=spec.learning_rate, fused=True)


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group, times the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = value * group[RATE_FACTOR]


def step_unless(is_bad: Tensor, optimizer: optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Do one step, or leave weights and moments as they are; decided on the device, so that nothing waits for it.

    Args:
        is_bad: One boolean, on the weights' device.
        optimizer: Made by `build_optimizer`; its fused kernels look at the flag.
        scaler: In fp16 it has unscaled the gradients; it skips a bad step itself, and takes a smaller scale.
    """
    if scaler.is_enabled():
        # gradients may be finite where the loss or their length is not; torch has no public way to tell the scaler
        for found in scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values():
            found.copy_(torch.maximum(found, is_bad.float()))
    else:
        optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]  # the flag that GradScaler sets as well
    scaler.step(optimizer)
    scaler.update()


def _rate_groups(network: nn.Module, encoder_rate: float) -> list[dict[str, Any]]:
    """Trainable parameters, in one group where all have the same rate; else the encoder's in the second one."""
    trainable = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    if encoder_rate == 1.0:
        return [{"params": [parameter for _, parameter in trainable], RATE_FACTOR: 1.0}]
    encoder = [parameter for name, parameter in trainable if name.startswith(ENCODER)]
    others = [parameter for name, parameter in trainable if not name.startswith(ENCODER)]
    return [{"params": others, RATE_FACTOR: 1.0}, {"params": encoder, RATE_FACTOR: encoder_rate}]


def _decay_groups(group: Mapping[str, Any], weight_decay: float) -> list[dict[str, Any]]:
    decayed = [parameter for parameter in group["params"] if parameter.ndim > 1]
    undecayed = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    return [
        {**group, "params": decayed, "weight_decay": weight_decay},
        {**group, "params": undecayed, "weight_decay": 0.0},
    ]


def learning_rate(progress: float, spec: TrainingSpec) -> float:
    """The learning rate at a moment of training.

    Rises linearly from 0 over the warm-up, then falls from `spec.learning_rate` to 0 over the rest.

    Args:
        progress: Fraction of the training that is done; values outside [0, 1] count as the nearer bound.
        spec: Peak, schedule and warm-up.

    References:
        poly: Chen et al., "DeepLab", 2017, with nnU-Net v2's exponent 0.9; cosine: Loshchilov and Hutter, "SGDR",
        2017, a single period.

    Examples:
        >>> round(learning_rate(0.5, TrainingSpec(mirror_axes=(), batch_dice=False)), 6)
        0.005359
    """
    progress = min(max(progress, 0.0), 1.0)
    warmup = spec.warmup_fraction
    if progress < warmup:
        return spec.learning_rate * progress / warmup
    remaining = (1.0 - progress) / (1.0 - warmup) if warmup < 1.0 else 1.0
    match spec.schedule:
        case "poly":
            return spec.learning_rate * pow(remaining, POLY_EXPONENT)
        case "cosine":
            return spec.learning_rate * 0.5 * (1.0 - cos(pi * remaining))
