"""Weights of autoseg's networks under nnU-Net's names, and the checkpoint file that holds them.

nnU-Net lists every layer twice (`all_modules`) and the encoder once more inside the decoder; torch stores such
repetitions once.

References:
    nnU-Net v2 (Isensee et al. 2021), release 2.8.1, `nnUNetTrainer.save_checkpoint`, and its package
    dynamic-network-architectures: PlainConvUNet, ResidualEncoderUNet.

Tested in tests/interop/test_nnunet_weights.py.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from autoseg.interop.nnunet_files import JsonObject
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import replacing
from autoseg.records.network import NetworkSpec

_LAYERS: Final = {"convolution": ("conv", "all_modules.0"), "normalization": ("norm", "all_modules.1")}
_STEPS: Final = {"first": "conv1", "second": "conv2"}


def name_as_nnunet(weights: Mapping[str, Tensor], spec: NetworkSpec) -> dict[str, Tensor]:
    """All entries of nnU-Net's state dict, in float32; repeated ones share their memory.

    Args:
        weights: State dict of the network.
        spec: The network: a `unet` or `residual_unet`. Without deep supervision it has no heads at lower levels;
            nnU-Net's has, and never computes them at prediction, so that they are zeros.
    """
    named: dict[str, Tensor] = {}
    for ours, tensor in weights.items():
        plain = tensor.detach().cpu().contiguous()
        written = plain if ours.endswith(".num_batches_tracked") else plain.float()
        named |= dict.fromkeys(_their_names(ours.split("."), spec), written)
    ones = (1,) * spec.dimensions
    for level, features in enumerate(spec.features[:-1]):
        step = len(spec.features) - 2 - level
        named.setdefault(f"decoder.seg_layers.{step}.weight", torch.zeros(spec.output_channels, features, *ones))
        named.setdefault(f"decoder.seg_layers.{step}.bias", torch.zeros(spec.output_channels))
    return named


def name_encoder_layer(name: str, spec: NetworkSpec) -> tuple[str, ...]:
    """Names under which nnU-Net's encoder lists a tensor of ours, without the prefix of the encoder.

    Args:
        name: Name in the state dict of the network, `encoder.levels...`.
        spec: The network: a `unet` or `residual_unet`.
    """
    _, _, *block, layer, kind = name.split(".")
    return tuple(f"{_encoder_block(block, spec)}.{alias}.{kind}" for alias in _LAYERS[layer])


def _their_names(parts: list[str], spec: NetworkSpec) -> Iterator[str]:
    lowest_step = len(spec.features) - 2
    match parts:
        case "encoder", *_:
            for entry in name_encoder_layer(".".join(parts), spec):
                yield f"encoder.{entry}"
                yield f"decoder.encoder.{entry}"
        case "decoder", "levels", level, "blocks", block, layer, kind:
            for name in _LAYERS[layer]:
                yield f"decoder.stages.{lowest_step - int(level)}.convs.{block}.{name}.{kind}"
        case "decoder", "levels", level, "upsampling", kind:
            yield f"decoder.transpconvs.{lowest_step - int(level)}.{kind}"
        case "decoder", "heads", level, kind:
            yield f"decoder.seg_layers.{lowest_step - int(level)}.{kind}"
        case _:
            raise ValueError(f"{'.'.join(parts)}: not a layer of a U-Net")


def _encoder_block(parts: list[str], spec: NetworkSpec) -> str:
    """Name of a block of the encoder, from level, block and, inside a residual block, the step."""
    level, block, *steps = parts
    if spec.architecture == "unet":
        return f"stages.{level}.0.convs.{block}"
    if not steps:
        return "stem.convs.0"
    index = int(block) - (level == "0")  # the stem is block 0 of level 0
    if steps == ["projection"]:
        pooled = int(max(spec.strides[int(level)]) > 1)  # the pooling comes first in the shortcut
        return f"stages.{level}.blocks.{index}.skip.{pooled}"
    return f"stages.{level}.blocks.{index}.{_STEPS[steps[0]]}"


def write_checkpoint(
    path: Path, weights: Mapping[str, Tensor], record: Checkpoint, trainer: str, axes: tuple[int, ...],
    described: JsonObject,
) -> None:  # fmt: skip
    """Write a checkpoint that nnU-Net predicts with and takes as pretrained weights; atomically.

    It has tensors and plain Python values only. The state of the optimiser is left out, so that nnU-Net cannot resume
    the training.

    Args:
        path: Output file.
        weights: Weights under nnU-Net's names.
        record: Record of their training.
        trainer: Name of nnU-Net's trainer.
        axes: Mirrored spatial axes.
        described: plans.json and dataset.json, with the keys `plans` and `dataset_json`.
    """
    fold = int(record.fold) if record.fold.isdecimal() else record.fold
    content = {
        "network_weights": dict(weights),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": record.best_pseudo_dice,
        "current_epoch": record.epoch,
        "init_args": {**described, "configuration": record.configuration, "fold": fold},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": axes or None,  # nnU-Net takes the largest of given axes
    }
    with replacing(path) as temporary, temporary.open("wb") as opened:
        torch.save(content, opened)
