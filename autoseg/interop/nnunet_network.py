"""Conversion of nnU-Net's networks: their description, and the names of their weights.

nnU-Net lists every layer twice (`all_modules`), the encoder once more inside the decoder, and decoder levels from the
lowest one up; autoseg counts them from full resolution down.

References:
    nnU-Net v2 (Isensee et al. 2021) and its package dynamic-network-architectures: PlainConvUNet, ResidualEncoderUNet.

Tested in tests/interop/test_nnunet_import.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from autoseg.errors import InteropError
from autoseg.interop.nnunet_files import NETWORK_CLASSES, JsonObject, PlannedConfiguration
from autoseg.networks.build import build_network
from autoseg.records.network import Architecture, NetworkSpec, Sizes

ARCHITECTURES: Mapping[str, Architecture] = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "residual_unet"}
BLOCKS = {"unet": "n_conv_per_stage", "residual_unet": "n_blocks_per_stage"}
"""Argument with the encoder's number of blocks per level."""

NEUTRAL = {
    "block": ("BasicBlockD",),
    "bottleneck_channels": (None,),
    "deep_supervision": (True, False, None),
    "nonlin_first": (False, None),
}
"""Arguments that are accepted with these values; dropout is accepted with any, as it has no effect at prediction."""
DROPOUT = ("dropout_op", "dropout_op_kwargs")
MAX_NAMES_SHOWN = 4

MAX_INDEX_DIGITS = 4
"""Largest number of digits of a layer's index in a name."""

MAX_LEVELS = 32
"""Largest plausible number of levels: the lowest one would have a voxel of every 2^31."""

_PARTS = {"conv": "convolution", "norm": "normalization"}
_CONVOLUTIONS = {"conv1": "first", "conv2": "second"}


def describe_network(
    configuration: PlannedConfiguration, inputs: int, heads: int, weights: Mapping[str, Tensor], where: str
) -> NetworkSpec:
    """The network of a configuration.

    Args:
        configuration: Configuration in plans.json.
        inputs: Number of input channels: of the image and, in a cascade, of the previous step's foreground labels.
        heads: Number of output channels.
        weights: Weights with nnU-Net's names; they tell whether batch normalisation was trained, which a trainer may
            choose regardless of the plans.
        where: File and configuration, for messages.

    Raises:
        InteropError: If autoseg does not have this network; names the class or argument.
    """
    described = configuration.architecture
    module, _, name = described.network_class_name.rpartition(".")
    known = module.startswith("dynamic_network_architectures.architectures.") and name in ARCHITECTURES
    if not known:
        raise InteropError(
            f"{where}: the network is {described.network_class_name}; autoseg imports "
            f"{' and '.join(NETWORK_CLASSES.values())}. Predict with nnU-Net, or train one of these networks."
        )
    architecture, arguments = ARCHITECTURES[name], described.arch_kwargs
    dimensions: Literal[2, 3] = 2 if len(configuration.patch_size) == 2 else 3
    levels = int(arguments["n_stages"])
    if not 1 <= levels <= MAX_LEVELS:
        raise InteropError(f"{where}: architecture.arch_kwargs.n_stages is {levels}, expected 1 to {MAX_LEVELS}")
    features = _per_level(arguments, "features_per_stage", levels, where)
    _refuse_foreign_arguments(arguments, architecture, dimensions, features, where)
    return NetworkSpec(
        architecture=architecture,
        dimensions=dimensions,
        input_channels=inputs,
        output_channels=heads,
        features=features,
        strides=_sizes_per_level(arguments, "strides", levels, dimensions, where),
        kernel_sizes=_sizes_per_level(arguments, "kernel_sizes", levels, dimensions, where),
        encoder_blocks=_per_level(arguments, BLOCKS[architecture], levels, where),
        decoder_blocks=_per_level(arguments, "n_conv_per_stage_decoder", levels - 1, where)[::-1],
        normalization="batch" if any(key.endswith(".running_mean") for key in weights) else "instance",
    )


def rename_weights(weights: Mapping[str, Tensor], spec: NetworkSpec, where: str) -> dict[str, Tensor]:
    """Weights with the names of autoseg's network, complete and of the right shape, float32.

    Args:
        weights: Weights with nnU-Net's names, without prefixes.
        spec: The network.
        where: File and trainer, for messages.

    Returns:
        The state dict of the network. Convolutions that nnU-Net built without bias get zeros.

    Raises:
        InteropError: If the weights are those of another network.
    """
    lowest = len(spec.features) - 1
    renamed: dict[str, Tensor] = {}
    strange: list[str] = []
    for name, tensor in weights.items():
        if ".all_modules." in name or name.startswith("decoder.encoder."):
            continue
        ours = _our_name(name.split("."), lowest)
        if ours is None:
            strange.append(name)
        else:
            renamed[ours] = tensor.detach() if ours.endswith(".num_batches_tracked") else tensor.detach().float()
    with torch.device("meta"):
        expected = build_network(spec, deep_supervision=False).state_dict()
    for name, tensor in expected.items():
        if name not in renamed and name.endswith((".convolution.bias", ".upsampling.bias")):
            renamed[name] = torch.zeros(tensor.shape)
    strange += [f"{name} (missing)" for name in expected if name not in renamed]
    strange += [f"{name} (surplus)" for name in renamed if name not in expected]
    strange += [
        f"{name} ({_times(renamed[name])} instead of {_times(tensor)})"
        for name, tensor in expected.items()
        if name in renamed and renamed[name].shape != tensor.shape
    ]
    if strange:
        more = f" and {len(strange) - MAX_NAMES_SHOWN} more" if len(strange) > MAX_NAMES_SHOWN else ""
        raise InteropError(
            f"{where}: the weights do not belong to the network in plans.json, so this trainer builds another one: "
            f"{', '.join(strange[:MAX_NAMES_SHOWN])}{more}. Custom networks cannot be imported. Predict with nnU-Net."
        )
    return renamed


def _our_name(parts: Sequence[str], lowest: int) -> str | None:
    """The name in autoseg's network; None for an unknown layer."""
    match parts:
        case "encoder", "stages", level, "0", "convs", block, layer, kind if layer in _PARTS:
            return f"encoder.levels.{level}.{block}.{_PARTS[layer]}.{kind}"
        case "encoder", "stem", "convs", "0", layer, kind if layer in _PARTS:
            return f"encoder.levels.0.0.{_PARTS[layer]}.{kind}"
        case "encoder", "stages", level, "blocks", block, "skip", _, layer, kind if layer in _PARTS and _is_index(
            block
        ):
            return f"encoder.levels.{level}.{_after_stem(level, block)}.projection.{_PARTS[layer]}.{kind}"
        case "encoder", "stages", level, "blocks", block, step, layer, kind if (
            step in _CONVOLUTIONS and layer in _PARTS and _is_index(block)
        ):
            return f"encoder.levels.{level}.{_after_stem(level, block)}.{_CONVOLUTIONS[step]}.{_PARTS[layer]}.{kind}"
        case "decoder", "stages", step, "convs", block, layer, kind if layer in _PARTS and _is_index(step):
            return f"decoder.levels.{lowest - 1 - int(step)}.blocks.{block}.{_PARTS[layer]}.{kind}"
        case "decoder", "transpconvs", step, kind if _is_index(step):
            return f"decoder.levels.{lowest - 1 - int(step)}.upsampling.{kind}"
        case "decoder", "seg_layers", step, kind if _is_index(step):
            return f"decoder.heads.{lowest - 1 - int(step)}.{kind}"
        case _:
            return None


def _is_index(text: str) -> bool:
    return text.isdecimal() and len(text) <= MAX_INDEX_DIGITS


def _after_stem(level: str, block: str) -> int:
    """Index of a residual block in its level; at level 0 the stem comes first."""
    return int(block) + (level == "0")


def _refuse_foreign_arguments(
    arguments: JsonObject, architecture: Architecture, dimensions: int, features: Sizes, where: str
) -> None:
    expected: dict[str, tuple[Any, ...]] = {
        **NEUTRAL,
        "conv_op": (f"Conv{dimensions}d",),
        "norm_op": (f"InstanceNorm{dimensions}d", f"BatchNorm{dimensions}d"),
        "nonlin": ("LeakyReLU",),
        "stem_channels": (None, features[0]),
    }
    read = {"n_stages", "features_per_stage", "strides", "kernel_sizes", "n_conv_per_stage_decoder", "conv_bias"}
    read |= {BLOCKS[architecture], "norm_op_kwargs", "nonlin_kwargs", *DROPOUT}
    faults = [f"{name} = {value!r}" for name, value in arguments.items() if name not in read and name not in expected]
    faults += [
        f"{name} = {arguments[name]!r}"
        for name, allowed in expected.items()
        if name in arguments and _last_word(arguments[name]) not in allowed
    ]
    norm, activation = arguments.get("norm_op_kwargs") or {}, arguments.get("nonlin_kwargs") or {}
    if norm.get("eps", 1e-5) != 1e-5 or norm.get("track_running_stats", False) is True:
        faults.append(f"norm_op_kwargs = {norm}")
    if activation.get("negative_slope", 0.01) != 0.01:
        faults.append(f"nonlin_kwargs = {activation}")
    if faults:
        raise InteropError(
            f"{where}: the network is built with {'; '.join(faults)}, which autoseg does not support. Predict with "
            "nnU-Net, or train one of its standard networks."
        )


def _per_level(arguments: JsonObject, name: str, levels: int, where: str) -> Sizes:
    value = arguments.get(name)
    values = [value] * levels if isinstance(value, int) else value
    if not isinstance(values, list | tuple) or not all(isinstance(number, int) for number in values):
        raise InteropError(f"{where}: architecture.arch_kwargs.{name} is {value!r}, expected whole numbers")
    return tuple(values)


def _sizes_per_level(arguments: JsonObject, name: str, levels: int, dimensions: int, where: str) -> tuple[Sizes, ...]:
    value = arguments.get(name)
    rows = [value] * levels if isinstance(value, int) else value
    if not isinstance(rows, list | tuple):
        raise InteropError(f"{where}: architecture.arch_kwargs.{name} is {value!r}, expected numbers per level")
    return tuple((row,) * dimensions if isinstance(row, int) else tuple(row) for row in rows)


def _last_word(value: object) -> object:
    return value.rpartition(".")[2] if isinstance(value, str) else value


def _times(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
