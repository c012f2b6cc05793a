"""The outer form of every network: an encoder, a decoder, and skips between them, in two and three dimensions."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import initialize_weights
from autoseg.networks.decoder import Decoder
from autoseg.networks.encoder import Encoder
from autoseg.records.network import NetworkSpec


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

    def __init__(self, spec: NetworkSpec, encoder: Encoder, decoder: Decoder, *, deep_supervision: bool) -> None:
        """Join the halves and draw fresh weights, from torch's global generator.

        Args:
            spec: What the halves were built from.
            encoder: Gives the features of all levels.
            decoder: Gives the logits; one level fewer.
            deep_supervision: Start value of the attribute.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.total_stride = tuple(prod(strides) for strides in zip(*spec.strides, strict=True))
        self._has_lower_heads = spec.deep_supervision
        self.encoder = encoder
        self.decoder = decoder
        initialize_weights(self)

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
        self._check_sizes(tuple(image.shape[2:]))
        all_levels = self.deep_supervision and self.training and self._has_lower_heads
        logits: list[Tensor] = self.decoder(self.encoder(image), all_levels=all_levels)
        return logits if all_levels else logits[0]

    def _check_sizes(self, sizes: Sequence[int]) -> None:
        fits = len(sizes) == len(self.total_stride) and all(
            size % stride == 0 for size, stride in zip(sizes, self.total_stride, strict=True)
        )
        if not fits:
            raise ValueError(
                f"spatial size {tuple(sizes)} does not fit the network: every size must be a multiple of the total "
                f"stride {self.total_stride} along its axis; pad or crop the patch"
            )
        if tuple(sizes) == self.total_stride:
            raise ValueError(
                f"spatial size {tuple(sizes)} leaves one voxel at the lowest level (total stride {self.total_stride}), "
                "which normalisation over space cannot work with; use a larger patch"
            )
