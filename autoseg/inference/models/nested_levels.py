"""A U-Net++ with fewer levels than it was trained with, which predicts faster.

Every column of a U-Net++ ends at full resolution, with a head that was trained. So the upper levels are a network of
their own: of N levels the columns up to N - 1.

References:
    Zhou et al., "UNet++: redesigning skip connections to exploit multiscale features in image segmentation", 2020,
    pruning.
"""

from collections.abc import Sequence

from torch import nn

from autoseg.errors import UsageError
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.networks.parts.nested import NestedDecoder
from autoseg.networks.unet import Encoder, UNet
from autoseg.records.network import NetworkSpec

MIN_LEVELS = 3
"""The head of the shallowest column has no part in the loss, as the lowest head of every network."""


def keep_nested_levels(members: Sequence[LoadedConfiguration], num_levels: int) -> None:
    """Leave out the lower levels of all networks, those of earlier cascade steps too, in place.

    Args:
        members: Configurations with their networks.
        num_levels: Levels that are kept.

    Raises:
        UsageError: If a network is no U-Net++, has a point head, or has no trained head for so many levels.
    """
    for member in members:
        _check_levels(member.name, member.configuration.network, num_levels)
        for network in member.networks:
            _cut(network, num_levels)
        if member.previous is not None:
            keep_nested_levels((member.previous,), num_levels)


def _check_levels(name: str, spec: NetworkSpec, num_levels: int) -> None:
    if spec.skip != "nested":
        raise UsageError(
            f"--nested-levels {num_levels}: the network of {name} is no U-Net++ (skip=nested), and has no other levels "
            "that predict; leave the option out"
        )
    if spec.head == "points":
        raise UsageError(
            f"--nested-levels {num_levels}: the point head of {name} has learnt from the last column, which needs all "
            "levels; leave the option out"
        )
    most = len(spec.features)
    least = min(MIN_LEVELS, most) if spec.deep_supervision else most
    if not least <= num_levels <= most:
        expected = f"{least} to {most}" if least < most else str(most)
        raise UsageError(f"--nested-levels {num_levels}: expected {expected} for the network of {name}")


def _cut(network: nn.Module, num_levels: int) -> None:
    """Leave out the encoder's lower levels and the columns that need them."""
    if not isinstance(network, UNet):
        raise TypeError(f"{type(network).__name__} has no encoder and decoder")
    encoder, decoder = network.encoder, network.decoder
    if not isinstance(encoder, Encoder) or not isinstance(decoder, NestedDecoder):
        raise TypeError(f"{type(decoder).__name__} is not a decoder with nested skips")
    encoder.levels = encoder.levels[:num_levels]
    decoder.last_column = num_levels - 1
