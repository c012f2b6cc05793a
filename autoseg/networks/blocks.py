"""The bricks of every network: layer types by dimension, the convolution block, the start values of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn
from typing_extensions import override

LEAKY_SLOPE: Final = 0.01
"""Slope of the activation below zero; the start values of the weights are scaled for it."""

NORMALIZATION_EPSILON: Final = 1e-5


@dataclass(frozen=True)
class LayerTypes:
    """The classes of torch that do the same thing in two and in three dimensions."""

    convolution: type[nn.Conv2d] | type[nn.Conv3d]
    transposed_convolution: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    normalization: type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]


LAYER_TYPES: Final[Mapping[int, LayerTypes]] = MappingProxyType(
    {
        2: LayerTypes(nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d),
        3: LayerTypes(nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d),
    }
)
"""By number of spatial axes."""


class ConvolutionBlock(nn.Module):
    """Convolution with bias, instance normalisation with affine parameters, leaky ReLU.

    The padding keeps the size when the stride is 1, and divides it (rounding up) by the stride otherwise.

    References:
        nnU-Net v2 (Isensee et al. 2021), plain convolutional U-Net; as published, dropout left out.
    """

    def __init__(
        self, dimensions: int, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        layers = LAYER_TYPES[dimensions]
        self.convolution = layers.convolution(
            in_features,
            out_features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple((size - 1) // 2 for size in kernel_size),  # type: ignore[arg-type]
        )
        self.normalization = layers.normalization(out_features, eps=NORMALIZATION_EPSILON, affine=True)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        normalized: Tensor = self.activation(self.normalization(self.convolution(features)))
        return normalized


def stack_blocks(
    dimensions: int,
    in_features: int,
    out_features: int,
    kernel_size: Sequence[int],
    *,
    first_stride: Sequence[int],
    num_blocks: int,
) -> nn.Sequential:
    """Chain convolution blocks; the first one changes the number of features and carries the stride."""
    no_stride = (1,) * dimensions
    return nn.Sequential(
        *(
            ConvolutionBlock(
                dimensions,
                in_features if position == 0 else out_features,
                out_features,
                kernel_size,
                first_stride if position == 0 else no_stride,
            )
            for position in range(num_blocks)
        )
    )


def initialize_weights(network: nn.Module) -> None:
    """Draw convolution weights from He's normal distribution and set their biases to zero, in place.

    Normalisation layers keep torch's start: weight 1, bias 0. Uses torch's global generator.

    References:
        He et al., "Delving deep into rectifiers", 2015, for a leaky ReLU of slope 0.01; used so by nnU-Net v2 for
        plain and transposed convolutions alike.
    """
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in network.modules():
        if isinstance(module, convolutions):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
