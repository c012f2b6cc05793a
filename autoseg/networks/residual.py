"""The levels of a residual encoder."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LEAKY_SLOPE, ConvolutionBlock, LayerTypes, choose_layers
from autoseg.records.network import NetworkSpec


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut around them; a new block gives its shortcut alone, because it starts with zero.

        input --- convolution, norm, leaky ReLU --- convolution, norm --- + --- leaky ReLU
              `-- average pooling, 1 x 1 convolution, norm ---------------'

    The first convolution carries the stride. The shortcut pools only where there is a stride, and convolves (without
    bias) only where the number of features changes.

    References:
        He et al., "Bag of tricks for image classification with convolutional neural networks", 2019, ResNet-D; as in
        nnU-Net v2's residual encoder (Isensee et al. 2024, "nnU-Net revisited"), without stochastic depth.
    """

    def __init__(
        self,
        layers: LayerTypes,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        ones = (1,) * layers.dimensions
        self.first = ConvolutionBlock(layers, in_features, out_features, kernel_size, stride)
        self.second = ConvolutionBlock(layers, out_features, out_features, kernel_size, ones, activation=nn.Identity())
        nn.init.zeros_(self.second.normalization.weight)
        nn.init.zeros_(self.second.normalization.bias)
        self.pooling: nn.Module = nn.Identity()
        if tuple(stride) != ones:
            self.pooling = layers.average_pooling(tuple(stride), tuple(stride))  # type: ignore[arg-type]
        self.projection: nn.Module = nn.Identity()
        if in_features != out_features:
            self.projection = ConvolutionBlock(
                layers, in_features, out_features, ones, ones, bias=False, activation=nn.Identity()
            )
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        shortcut = self.projection(self.pooling(features))
        activated: Tensor = self.activation(self.second(self.first(features)) + shortcut)
        return activated


def residual_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """Residual blocks per level, the first with the level's stride; before those of level 0 a stem, one convolution.

    Parameter names: `<block>.first|second|projection.convolution|normalization.weight|bias`; at level 0 block 0 is the
    stem, `0.convolution|normalization.weight|bias`.
    """
    layers = choose_layers(spec.dimensions, spec.normalization)
    no_stride = (1,) * spec.dimensions
    stem = ConvolutionBlock(layers, spec.input_channels, spec.features[0], spec.kernel_sizes[0], no_stride)
    in_features = spec.features[0]
    for level, features in enumerate(spec.features):
        blocks: list[nn.Module] = [stem] if level == 0 else []
        for position in range(spec.encoder_blocks[level]):
            stride = spec.strides[level] if position == 0 else no_stride
            blocks.append(ResidualBlock(layers, in_features, features, spec.kernel_sizes[level], stride))
            in_features = features
        yield nn.Sequential(*blocks)
