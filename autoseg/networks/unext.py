"""The levels of a UNeXt: few, narrow convolutions, and tokenised perceptrons where the image is small.

Every voxel's features are a token, and tokens meet by being shifted. Tokens are (B, *S, C), which is how a
channels-last feature map lies in memory, so that layers over features and convolutions follow each other without a
copy.

References:
    Valanarasu and Patel, "UNeXt: MLP-based rapid medical image segmentation network", MICCAI 2022; its published code
    where that and the text differ. Differs: strides and kernels per axis, in two and three dimensions; any number of
    levels of either kind; heads for deep supervision; a skip at full resolution on demand.

Tested in tests/networks/test_unext.py and tests/networks/test_tokens.py.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import NORMALIZATION_EPSILON, ConvolutionBlock, LayerTypes, choose_layers
from autoseg.records.network import NetworkSpec

NUM_GROUPS: Final = 5
"""Groups of features, shifted by -2, -1, 0, 1 and 2 voxels."""

FARTHEST: Final = NUM_GROUPS // 2
"""Voxels."""

MIN_SHIFTED_AXIS: Final = NUM_GROUPS
"""Voxels; on a shorter axis most of what a shift moves would leave the image."""


def shift_tokens(tokens: Tensor, axis: int) -> Tensor:
    """Move groups of features along one axis by different distances; zeros come in, what leaves is lost.

    The features are divided as `torch.chunk` does it, into five groups of ceil(C / 5), the last ones smaller or
    missing. Group g = 0..4 moves by g - 2 voxels towards higher indices.

    Args:
        tokens: (B, *S, C).
        axis: Spatial axis, 0 being the first of S.

    Returns:
        (B, *S, C); `tokens` itself where the axis has fewer than 5 voxels.

    References:
        Valanarasu and Patel, "UNeXt: MLP-based rapid medical image segmentation network", 2022, axial shift. Differs:
        short axes are left alone; each group is cropped and padded instead of rolled within a padded image.
    """
    if tokens.shape[1 + axis] < MIN_SHIFTED_AXIS:
        return tokens
    # padding is listed from the last axis, the features, backwards
    other_axes = (0, 0) * (tokens.ndim - 2 - axis)
    groups = (
        group if distance == 0 else F.pad(group, (*other_axes, distance, -distance))
        for distance, group in enumerate(tokens.chunk(NUM_GROUPS, dim=-1), start=-FARTHEST)
    )
    return torch.cat(list(groups), dim=-1)


class ShiftedPerceptron(nn.Module):
    """Per axis a shift and a linear layer; after the first one a depthwise convolution and a GELU.

    Parameter names: `linears.<axis>` and `depthwise`.

    References:
        Valanarasu and Patel 2022, tokenised MLP block, as in its published code: the first axis first, all layers as
        wide as the input. Differs: in 3D a third shift and linear layer; the kernel is free.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(features, features) for _ in range(layers.dimensions))
        self.depthwise = layers.convolution(
            features,
            features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            padding=tuple(size // 2 for size in kernel_size),  # type: ignore[arg-type]
            groups=features,
        )

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """(B, *S, C) -> (B, *S, C)."""
        for axis, linear in enumerate(self.linears):
            tokens = linear(shift_tokens(tokens, axis))
            if axis == 0:
                tokens = F.gelu(self.depthwise(tokens.movedim(-1, 1))).movedim(1, -1)
        return tokens


class ShiftedBlock(nn.Module):
    """A shifted perceptron with a shortcut around it and a layer normalisation before and after it.

    References:
        Valanarasu and Patel 2022, tokenised MLP block.
    """

    def __init__(self, layers: LayerTypes, features: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.normalization = nn.LayerNorm(features)
        self.perceptron = ShiftedPerceptron(layers, features, kernel_size)
        self.last_normalization = nn.LayerNorm(features)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S)."""
        tokens = features.movedim(1, -1)
        tokens = tokens + self.perceptron(self.normalization(tokens))
        mixed: Tensor = self.last_normalization(tokens)
        return mixed.movedim(-1, 1)


class PatchEmbedding(nn.Module):
    """A strided convolution that makes tokens of overlapping patches, and a layer normalisation over their features.

    References:
        Valanarasu and Patel 2022, after Xie et al., "SegFormer", 2021.
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
        self.convolution = layers.convolution(
            in_features,
            out_features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple(size // 2 for size in kernel_size),  # type: ignore[arg-type]
        )
        self.normalization = nn.LayerNorm(out_features)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        tokens: Tensor = self.normalization(self.convolution(features).movedim(1, -1))
        return tokens.movedim(-1, 1)


def unext_encoder_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """What leads into each level: a pooled convolution, or at the token levels a patch embedding and a shifted block.

    A convolution works at the resolution above its level, before it is pooled; so the one of level 1 makes the
    features of level 0. Taking the maximum after the ReLU or before it is the same.

    Parameter names: `convolution|normalization.weight|bias` at level 0; level 1 has none; below `0.` and, of the
    shifted block, `1.`. Where level 1 holds tokens, level 0 is the image and has none either.
    """
    yield _finest_level(spec)
    for level in range(1, len(spec.features)):
        yield _token_level(spec, level) if level >= _first_token_level(spec) else _pooled_level(spec, level)


def _finest_level(spec: NetworkSpec) -> nn.Module:
    if _first_token_level(spec) > 1:
        return _convolution_at(spec, 0, spec.input_channels, spec.features[0])
    return nn.Identity()


def _pooled_level(spec: NetworkSpec, level: int) -> nn.Module:
    stride = spec.strides[level]
    pooling = choose_layers(spec.dimensions).max_pooling(stride, stride)
    if level == 1:
        return pooling
    return nn.Sequential(_convolution_at(spec, level - 1, spec.features[level - 1], spec.features[level]), pooling)


def _token_level(spec: NetworkSpec, level: int) -> nn.Module:
    layers = choose_layers(spec.dimensions)
    inputs = spec.input_channels if level == 1 else spec.features[level - 1]
    features, kernel_size = spec.features[level], spec.kernel_sizes[level]
    return nn.Sequential(
        PatchEmbedding(layers, inputs, features, kernel_size, spec.strides[level]),
        ShiftedBlock(layers, features, kernel_size),
    )


def _convolution_at(spec: NetworkSpec, level: int, in_features: int, out_features: int) -> ConvolutionBlock:
    layers = choose_layers(spec.dimensions, spec.normalization)
    no_stride = (1,) * spec.dimensions
    return ConvolutionBlock(
        layers, in_features, out_features, spec.kernel_sizes[level], no_stride, activation=nn.ReLU(inplace=True)
    )


def _first_token_level(spec: NetworkSpec) -> int:
    return len(spec.features) - spec.token_levels


class ShiftedDecoderLevel(nn.Module):
    """Convolve the level below, interpolate, add the encoder's features; above a token level mix by a shifted block.

    The convolution has the kernel of the level below, whose resolution it works at. Level 0 has no normalisation, and
    adds the encoder's features only with `full_resolution_skip`.

    Parameter names: `convolution`, `normalization`, and `mixing...` of the shifted block.
    """

    def __init__(self, spec: NetworkSpec, level: int) -> None:
        super().__init__()
        layers = choose_layers(spec.dimensions, spec.normalization)
        features = spec.features[level]
        kernel_below = spec.kernel_sizes[level + 1]
        self.convolution = layers.convolution(
            spec.features[level + 1],
            features,
            kernel_size=kernel_below,  # type: ignore[arg-type]  # torch wants tuples of fixed length
            padding=tuple(size // 2 for size in kernel_below),  # type: ignore[arg-type]
        )
        self.normalization: nn.Module = nn.Identity()
        if level > 0:
            self.normalization = layers.normalization(features, eps=NORMALIZATION_EPSILON)
        self.mixing: nn.Module = nn.Identity()
        if level + 1 >= _first_token_level(spec):
            self.mixing = ShiftedBlock(layers, features, spec.kernel_sizes[level])
        self.interpolation = layers.interpolation
        self.adds_skip = level > 0 or spec.full_resolution_skip

    @override
    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Features of the level below and of the encoder at this level, (B, F, *S) -> features of this level."""
        features = self.normalization(self.convolution(below))
        features = F.interpolate(features, size=skip.shape[2:], mode=self.interpolation, align_corners=False)
        features = F.relu(features, inplace=True)
        if self.adds_skip:
            features = features + skip
        mixed: Tensor = self.mixing(features)
        return mixed


def unext_decoder_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """A UNeXt's decoder levels, full resolution first."""
    return (ShiftedDecoderLevel(spec, level) for level in range(len(spec.features) - 1))
