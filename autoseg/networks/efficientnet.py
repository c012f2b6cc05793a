"""The levels of an EfficientNet-Lite0 as the encoder of a U-Net, whose weights were trained on photographs.

Batch normalisation with fixed statistics is a scale and a shift per feature map, so the published layers' are part of
the convolutions here: a convolution with a bias, then ReLU6. No batch is too small for it, training and prediction
compute the same, and there is one tensor less to keep per layer.

References:
    Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019; the Lite variant
    (Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020). Differs: normalisation as part of the
    convolutions; strides per axis and the number of levels from the plan; no classifier.

Tested in tests/networks/test_efficientnet.py.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import LayerTypes, choose_layers, convolve
from autoseg.networks.parts.levels import DecoderLevel
from autoseg.records.encoders import (
    EFFICIENTNET_LEVELS,
    STEM_FEATURES,
    STEM_KERNEL,
    InvertedStage,
    encoder_features,
)
from autoseg.records.network import NetworkSpec

CEILING: Final = 6.0
"""Largest activation (ReLU6)."""


class AsymmetricConvolution(nn.Module):
    """Convolution with a bias, padded as TensorFlow does it, then ReLU6 where asked for.

    A stride of 2 sees an even axis from its first voxel on: one row of zeros less comes before it than after it.

    Parameter names: `convolution.weight|bias`.
    """

    def __init__(
        self,
        layers: LayerTypes,
        in_features: int,
        out_features: int,
        kernel_size: int,
        stride: Sequence[int],
        *,
        depthwise: bool = False,
        activated: bool = True,
    ) -> None:
        super().__init__()
        before = [(kernel_size - step) // 2 if step > 1 else kernel_size // 2 for step in stride]
        after = [kernel_size - step - first for step, first in zip(stride, before, strict=True)]
        is_even = before == after
        self.padding = (
            ()
            if is_even
            else tuple(edge for pair in zip(reversed(before), reversed(after), strict=True) for edge in pair)
        )
        self.activated, self.depthwise = activated, depthwise
        self.convolution = layers.convolution(
            in_features,
            out_features,
            kernel_size=(kernel_size,) * layers.dimensions,  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple(before) if is_even else 0,  # type: ignore[arg-type]
            groups=in_features if depthwise else 1,
        )

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        if self.padding:
            features = F.pad(features, self.padding)
        if self.depthwise and self.training and features.device.type == "cpu":
            # gradients of depthwise kernels in 16 bits take three times as long there (oneDNN, one core)
            with torch.autocast("cpu", enabled=False):
                convolved: Tensor = self.convolution(features.float())
        else:
            convolved = convolve(self.convolution, features)
        if not self.activated:
            return convolved
        # in place, autograd would keep a copy of what is overwritten
        return F.hardtanh(convolved, 0.0, CEILING, inplace=not torch.is_grad_enabled())


class InvertedResidual(nn.Module):
    """Widen, convolve each feature map by itself, narrow; the input is added where nothing changes in size.

    Parameter names: `expansion`, `depthwise` and `projection`, each with `convolution.weight|bias`.

    References:
        Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018.
    """

    def __init__(self, layers: LayerTypes, in_features: int, stage: InvertedStage, stride: Sequence[int]) -> None:
        super().__init__()
        wide, no_stride = in_features * stage.expansion, (1,) * layers.dimensions
        self.expansion: nn.Module = nn.Identity()
        if stage.expansion > 1:
            self.expansion = AsymmetricConvolution(layers, in_features, wide, 1, no_stride)
        self.depthwise = AsymmetricConvolution(layers, wide, wide, stage.kernel_size, stride, depthwise=True)
        self.projection = AsymmetricConvolution(layers, wide, stage.features, 1, no_stride, activated=False)
        self.is_residual = in_features == stage.features and set(stride) == {1}

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        narrowed: Tensor = self.projection(self.depthwise(self.expansion(features)))
        return features + narrowed if self.is_residual else narrowed


def efficientnet_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """The encoder's levels, full resolution first; level 0 gives the image, level 1 begins with the stem."""
    layers = choose_layers(spec.dimensions)
    features = STEM_FEATURES
    for level, (stages, stride) in enumerate(zip(EFFICIENTNET_LEVELS, spec.strides, strict=False)):
        if level == 0:
            yield nn.Identity()
            continue
        modules: list[nn.Module] = []
        if level == 1:
            modules.append(AsymmetricConvolution(layers, spec.input_channels, features, STEM_KERNEL, stride))
            stride = (1,) * spec.dimensions
        for stage in stages:
            for _ in range(stage.blocks):
                modules.append(InvertedResidual(layers, features, stage, stride))
                features, stride = stage.features, (1,) * spec.dimensions
        yield nn.Sequential(*modules)


def efficientnet_decoder_levels(spec: NetworkSpec) -> Iterator[nn.Module]:
    """A U-Net's decoder levels, full resolution first; what the encoder adds to each is as wide as published."""
    skips = (spec.input_channels, *encoder_features(len(spec.features))[1:])
    return (DecoderLevel(spec, level, skips[level]) for level in range(len(spec.features) - 1))
