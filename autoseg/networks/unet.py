"""The outer form of every network: an encoder, a decoder, and skips between them, in two and three dimensions.

What a level does is in modules of its own: in `parts` for U-Nets, beside this one for other architectures.

Tested in tests/networks/test_unet.py and tests/networks/test_residual.py.
"""

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from autoseg.networks.blocks import choose_layers
from autoseg.records.network import NetworkSpec, list_head_levels


class Encoder(nn.Module):
    """Levels one after the other, each of which works on the features of the one above it.

    Parameter names: `levels.<level>...`, level 0 at full resolution.
    """

    def __init__(self, levels: Iterable[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    @override
    def forward(self, image: Tensor, *, recompute: bool = False) -> list[Tensor]:
        """(B, C, *S) -> the features of every level, full resolution first; for `recompute` see `run_level`."""
        maps: list[Tensor] = []
        features = image
        for level in self.levels:
            features = run_level(level, features, recompute=recompute)
            maps.append(features)
        return maps


def run_level(level: nn.Module, *features: Tensor, recompute: bool) -> Tensor:
    """Features of one level.

    Args:
        level: The level.
        features: What it works on, (B, F, *S) each.
        recompute: Keep nothing but `features` for the backward pass, which then computes the level once more.

    References:
        Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    if recompute and torch.is_grad_enabled():
        output: Tensor = checkpoint(level, *features, use_reentrant=False)
    else:
        output = level(*features)
    return output


class Decoder(nn.Module):
    """All decoder levels and their heads.

    With deep supervision in the spec every level has a head, used or not, so that weights fit whether training sees
    all of them or not; otherwise only the finest one has. That is level 0, or the coarse level of a point head; then
    the levels above it are left out, and the others keep their names.

    Parameter names: `levels.<level>...` (of a U-Net `upsampling|blocks.<block>...`) and `heads.<level>`, level 0 at
    full resolution.
    """

    def __init__(self, spec: NetworkSpec, levels: Iterable[nn.Module]) -> None:
        """Make the heads.

        Args:
            spec: The network.
            levels: Full resolution first; each takes the features of the level below and the encoder's at its own.
        """
        super().__init__()
        self.finest = spec.coarse_level
        self.levels = nn.ModuleList(
            module if level >= self.finest else nn.Identity() for level, module in enumerate(levels)
        )
        convolution, with_head = choose_layers(spec.dimensions).convolution, list_head_levels(spec)
        self.heads = nn.ModuleList(
            convolution(spec.features[level], spec.output_channels, kernel_size=1)
            if level in with_head
            else nn.Identity()
            for level in range(with_head.stop)
        )

    @override
    def forward(self, maps: Sequence[Tensor], *, all_levels: bool, recompute: bool = False) -> list[Tensor]:
        """The encoder's features -> logits of all levels that have a head or of the finest; the finest first."""
        return self.decode(maps, all_levels=all_levels, recompute=recompute)[1]

    def decode(self, maps: Sequence[Tensor], *, all_levels: bool, recompute: bool) -> tuple[Tensor, list[Tensor]]:
        """The encoder's features -> features of the finest level, and logits as from `forward`."""
        logits: list[Tensor] = []
        last = len(self.heads) if all_levels else self.finest + 1
        features = maps[-1]
        for level in reversed(range(self.finest, len(self.levels))):
            features = run_level(self.levels[level], features, maps[level], recompute=recompute)
            if level < last:
                logits.append(self.heads[level](features))
        return features, logits[::-1]


class UNet(nn.Module):
    """An encoder and a decoder that share their levels; what a level does is decided by who builds them.

        encoder level 0 ------------ skip ------------> decoder level 0 --> logits, full resolution
              | strides of level 1                             ^
        encoder level 1 ------------ skip ------------> decoder level 1 --> logits (deep supervision)
              |                                                ^
        encoder level 2, the lowest ---------------------------'

    The names of its parameters are the checkpoint format; changing one makes old checkpoints unreadable.

    Attributes:
        deep_supervision: Whether training also sees the logits of lower decoder levels; may be switched any time, and
            has no effect on a network whose spec has heads at full resolution only.

    References:
        Ronneberger et al. 2015; with plain levels as configured by nnU-Net v2 (Isensee et al. 2021): strided instead
        of pooled, instance normalisation, leaky ReLU, transposed convolutions.
    """

    def __init__(self, spec: NetworkSpec, encoder: nn.Module, decoder: nn.Module, *, deep_supervision: bool) -> None:
        """Join the halves; weights stay as they are.

        Args:
            spec: What the halves were built from.
            encoder: Gives the features of all levels.
            decoder: Gives the logits; one level fewer.
            deep_supervision: Start value of the attribute.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.recompute_activations = False
        self.total_stride = tuple(prod(strides) for strides in zip(*spec.strides, strict=True))
        self._has_lower_heads = spec.deep_supervision
        self.encoder = encoder
        self.decoder = decoder

    @override
    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            image: (B, C, *S), every spatial size a multiple of the network's total stride along that axis.

        Returns:
            In training mode with deep supervision a list of the logits of all decoder levels, full resolution first;
            otherwise, and always where the spec has no deep supervision, one tensor (B, K, *S). No final nonlinearity.

        Raises:
            ValueError: If a size does not fit, or if only one voxel would be left at the lowest level.
        """
        check_sizes(tuple(image.shape[2:]), self.total_stride)
        all_levels = self.deep_supervision and self.training and self._has_lower_heads
        recompute = self.recompute_activations
        maps: list[Tensor] = self.encoder(image, recompute=recompute)
        logits: list[Tensor] = self.decoder(maps, all_levels=all_levels, recompute=recompute)
        return logits if all_levels else logits[0]


def check_sizes(sizes: Sequence[int], total_stride: Sequence[int]) -> None:
    """Refuse a patch that a network cannot divide.

    Args:
        sizes: Voxels along each axis.
        total_stride: Product of the strides of all levels along each axis.

    Raises:
        ValueError: If a size does not fit, or if only one voxel would be left at the lowest level.
    """
    fits = len(sizes) == len(total_stride) and all(
        size % stride == 0 for size, stride in zip(sizes, total_stride, strict=True)
    )
    if not fits:
        raise ValueError(
            f"spatial size {tuple(sizes)} does not fit the network: every size must be a multiple of the total "
            f"stride {tuple(total_stride)} along its axis; pad or crop the patch"
        )
    if tuple(sizes) == tuple(total_stride):
        raise ValueError(
            f"spatial size {tuple(sizes)} leaves one voxel at the lowest level (total stride {tuple(total_stride)}), "
            "which normalisation over space cannot work with; use a larger patch"
        )
