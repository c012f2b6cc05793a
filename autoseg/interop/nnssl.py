"""Encoders that nnssl pretrained, such as those of OpenMind, from its checkpoints, without running code from them.

    {"network_weights": tensors by name, "nnssl_adaptation_plan": {"key_to_encoder": "encoder.stages",
     "key_to_stem": "encoder.stem", "pretrain_num_input_channels": 1, "architecture_plans": {...}, ...}}

Some encoders lie deeper (`online_encoder.stages`); the plan in the file says where. Layers below these keys have
nnU-Net's names, each of them twice.

References:
    Wald et al., "An OpenMind for 3D medical vision self-supervised learning", ICCV 2025; nnssl (MIC-DKFZ) for the
    format.

Tested in tests/interop/test_nnssl.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from autoseg.errors import InteropError
from autoseg.interop.nnunet_checkpoint import find_fault, unpickle, without_prefixes
from autoseg.interop.nnunet_weights import name_encoder_layer
from autoseg.networks.build import build_network
from autoseg.records.network import Architecture, NetworkSpec

ENDINGS: Final = (".pth", ".pt")
"""Endings of torch's checkpoints."""

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "ResEncL": "residual_unet",
    "ResidualEncoderUNet": "residual_unet",
    "PlainConvUNet": "unet",
    "NoSkipResEncL": "residual_unet",
}
"""Our architectures by nnssl's names of those that have such an encoder."""

POSITIONS: Final = (0, 1)
"""Places of the convolution in a shortcut: second where pooling comes first."""


@dataclass(frozen=True)
class NnsslEncoder:
    """Tensors of a pretrained encoder, and what is known of its training."""

    path: Path
    architecture: str
    """Name that nnssl gives it."""
    tensors: Mapping[str, Tensor]
    """Tensors by nnU-Net's names within the encoder, `stem...` and `stages...`."""

    def name_for(self, spec: NetworkSpec) -> dict[str, Tensor]:
        """Tensors by the names of a planned network, as far as the file has them.

        Raises:
            InteropError: If the network is of another architecture.
        """
        if ARCHITECTURES.get(self.architecture) != spec.architecture:
            raise InteropError(
                f"--pretrained {self.path}: its network is {self.architecture}, and the planned one is a "
                f"{spec.architecture}. Plan with --planner {_planner_for(self.architecture)}, or take another file."
            )
        with torch.device("meta"):  # names alone are wanted
            names = build_network(spec, deep_supervision=True).state_dict().keys()
        found = {name: self._find(name, spec) for name in names if name.startswith("encoder.")}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def _find(self, name: str, spec: NetworkSpec) -> Tensor | None:
        for theirs in _candidates(name, spec):
            if theirs in self.tensors:
                return self.tensors[theirs]
        return None


def read_nnssl_encoder(path: Path) -> NnsslEncoder:
    """Read the encoder of a checkpoint of nnssl.

    Raises:
        InteropError: If the file is damaged, could run code, is no checkpoint of nnssl, or has weights that are not
            plain tensors of finite numbers.
    """
    content = unpickle(path)
    try:
        plan: Mapping[str, Any] = content["nnssl_adaptation_plan"]
        stages, stem = str(plan["key_to_encoder"]), str(plan["key_to_stem"])
        architecture = str(plan["architecture_plans"]["arch_class_name"])
        weights = {without_prefixes(str(name)): tensor for name, tensor in content["network_weights"].items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise InteropError(
            f"{path}: not a checkpoint of nnssl: {type(error).__name__} {error} is missing. A model of nnU-Net becomes "
            "one of autoseg with autoseg import-nnunet, whose output --pretrained takes."
        ) from error
    tensors = {**_below(weights, stages, "stages"), **_below(weights, stem, "stem")}
    for name, tensor in tensors.items():
        if fault := find_fault(tensor):
            raise InteropError(f"{path}: the weights {name} {fault}. Copy or download the file again.")
    if not tensors:
        raise InteropError(f"{path}: has no weights below {stages} and {stem}, where its plan says that they are")
    return NnsslEncoder(path, architecture, tensors)


def _below(weights: Mapping[str, Tensor], key: str, name: str) -> dict[str, Tensor]:
    return {f"{name}{found[len(key) :]}": tensor for found, tensor in weights.items() if found.startswith(f"{key}.")}


def _candidates(name: str, spec: NetworkSpec) -> Iterator[str]:
    """Names that a tensor of ours may have in the file; its shortcuts may pool where ours do not."""
    for theirs in name_encoder_layer(name, spec):
        yield theirs
        before, found, after = theirs.partition(".skip.")
        if found:
            layer = after.split(".", 1)[1]
            yield from (f"{before}.skip.{position}.{layer}" for position in POSITIONS)


def _planner_for(architecture: str) -> str:
    return {"unet": "unet", "residual_unet": "resenc-l"}.get(ARCHITECTURES.get(architecture, "residual_unet"), "unet")
