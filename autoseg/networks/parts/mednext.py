"""MedNeXt's block: a depthwise convolution, then a perceptron at every voxel.

Tested in tests/networks/parts/test_levels.py and tests/networks/test_mednext.py.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import NORMALIZATION_EPSILON, LayerTypes

EXPANSION: Final = 2
"""How many times as wide the hidden layer is, as in the published size S."""

RESPONSE_EPSILON: Final = 1e-6
"""Added to the mean response, so that maps without any can be divided by it."""


class ResponseNormalization(nn.Module):
    """Weights each feature map by its size relative to the mean of all; a new one changes nothing.

    A map's size is the root of the sum of its squares.

    References:
        Woo et al., "ConvNeXt V2: co-designing and scaling ConvNets with masked autoencoders", CVPR 2023, global
        response normalisation.
    """

    def __init__(self, dimensions: int, features: int) -> None:
        super().__init__()
        shape = (1, features, *(1,) * dimensions)
        self.scale = nn.Parameter(torch.zeros(shape))
        self.shift = nn.Parameter(torch.zeros(shape))

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        axes = tuple(range(2, features.ndim))
        sizes = torch.linalg.vector_norm(features, dim=axes, keepdim=True, dtype=torch.float32)
        relative = sizes / (sizes.mean(dim=1, keepdim=True) + RESPONSE_EPSILON)
        weight = (1 + self.scale * relative).to(features.dtype)
        weighted: Tensor = features * weight + self.shift.to(features.dtype)
        return weighted


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm, expansion, GELU, compression, and a shortcut around all of them.

    The shortcut is a 1 x 1 convolution of every stride-th voxel where size or width change. The voxels are taken before
    it: oneDNN writes beyond its memory in the backward pass of a strided one (torch 2.13, CPU, float32, channels-last,
    2D, from 8 feature maps to 16, 64 x 64).

    References:
        Roy et al., "MedNeXt: transformer-driven scaling of ConvNets for medical image segmentation", MICCAI 2023,
        block and downsampling block; their code has the response normalisation as an option. Differs: kernels and
        strides per axis, in two and three dimensions.
    """

    def __init__(
        self,
        layers: LayerTypes,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        *,
        expansion: int = EXPANSION,
        response_normalization: bool = False,
    ) -> None:
        """Draw torch's own start values; see `initialize_weights`.

        Args:
            layers: Types of convolution and normalisation.
            in_features: Feature maps of the input.
            out_features: Feature maps of the output.
            kernel_size: Voxels along each axis of the depthwise convolution, odd.
            stride: Voxels along each axis.
            expansion: How many times as wide as the input the hidden layer is.
            response_normalization: Whether the hidden layer is normalised by its responses.
        """
        super().__init__()
        hidden, resample = expansion * in_features, self._choose_resampling(layers)
        self.depthwise = resample(
            in_features,
            in_features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple(size // 2 for size in kernel_size),  # type: ignore[arg-type]
            groups=in_features,
        )
        self.normalization = layers.normalization(in_features, eps=NORMALIZATION_EPSILON)
        self.expansion = layers.convolution(in_features, hidden, kernel_size=1)
        self.response: nn.Module = nn.Identity()
        if response_normalization:
            self.response = ResponseNormalization(layers.dimensions, hidden)
        self.compression = layers.convolution(hidden, out_features, kernel_size=1)
        self.stride = tuple(stride)
        self.shortcut: nn.Module = nn.Identity()
        if in_features != out_features or set(stride) != {1}:
            self.shortcut = self._make_shortcut(layers, in_features, out_features)

    @staticmethod
    def _choose_resampling(
        layers: LayerTypes,
    ) -> type[nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d]:
        return layers.convolution

    def _make_shortcut(self, layers: LayerTypes, in_features: int, out_features: int) -> nn.Module:
        return layers.convolution(in_features, out_features, kernel_size=1)

    def _pass_by(self, features: Tensor) -> Tensor:
        every = tuple(slice(None, None, step) for step in (1, 1, *self.stride))
        passed: Tensor = self.shortcut(features[every])
        return passed

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        hidden = self.response(F.gelu(self.expansion(self.normalization(self.depthwise(features)))))
        added: Tensor = self.compression(hidden) + self._pass_by(features)
        return added


class MedNeXtUpBlock(MedNeXtBlock):
    """The same block with transposed convolutions.

    An odd kernel makes (n - 1) * stride + 1 voxels of n, so zeros are added in front of each axis.

    References:
        Roy et al. 2023, as above, upsampling block; the zeros as in their code.
    """

    @override
    def __init__(
        self,
        layers: LayerTypes,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        *,
        expansion: int = EXPANSION,
        response_normalization: bool = False,
    ) -> None:
        super().__init__(
            layers, in_features, out_features, kernel_size, stride,
            expansion=expansion, response_normalization=response_normalization,
        )  # fmt: skip
        self.margins = tuple(margin for step in reversed(stride) for margin in (step - 1, 0))

    @staticmethod
    @override
    def _choose_resampling(
        layers: LayerTypes,
    ) -> type[nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d]:
        return layers.transposed_convolution

    @override
    def _make_shortcut(self, layers: LayerTypes, in_features: int, out_features: int) -> nn.Module:
        return layers.transposed_convolution(in_features, out_features, kernel_size=1, stride=self.stride)  # type: ignore[arg-type]

    @override
    def _pass_by(self, features: Tensor) -> Tensor:
        passed: Tensor = self.shortcut(features)
        return passed

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S * stride)."""
        return F.pad(super().forward(features), self.margins)
