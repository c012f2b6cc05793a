"""The U-Net, in two and three dimensions."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import initialize_weights
from autoseg.networks.decoder import Decoder
from autoseg.networks.encoder import Encoder
from autoseg.records.plan import NetworkSpec


class UNet(nn.Module):
    """The plain convolutional U-Net.

        encoder level 0 ------------ skip ------------> decoder level 0 --> logits, full resolution
              | strided convolution                            ^ transposed convolution
        encoder level 1 ------------ skip ------------> decoder level 1 --> logits (deep supervision)
              |                                                ^
        encoder level 2, the lowest ---------------------------'

    The names of its parameters are the checkpoint format; changing one makes old checkpoints unreadable.

    Attributes:
        deep_supervision: Whether training also sees the logits of lower decoder levels; may be switched any time.

    References:
        Ronneberger et al. 2015; as configured by nnU-Net v2 (Isensee et al. 2021): strided instead of pooled,
        instance normalisation, leaky ReLU, transposed convolutions.
    """

    def __init__(self, spec: NetworkSpec, *, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.total_stride = tuple(prod(strides) for strides in zip(*spec.strides, strict=True))
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        initialize_weights(self)

    @override
    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            image: (B, C, *S), every spatial size a multiple of the network's total stride along that axis.

        Returns:
            In training mode with deep supervision the logits of all decoder levels, full resolution first; otherwise
            one tensor (B, K, *S). No final nonlinearity.

        Raises:
            ValueError: If a size does not fit, or if only one voxel would be left at the lowest level.
        """
        self._check_sizes(tuple(image.shape[2:]))
        all_levels = self.deep_supervision and self.training
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
                "which instance normalisation cannot work with; use a larger patch"
            )
