"""The bricks of every network: layer types by dimension, the convolution block, the start values of weights.

Instance normalisation has its own implementation, which is fast in every memory layout.

Tested in tests/networks/test_blocks.py and tests/networks/test_normalization.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.layout import channels_last

SQUARES_AT_ONCE: Final = 2**18
"""Numbers; 1 MB in float32, which stays near the processor."""

LEAKY_SLOPE: Final = 0.01
"""Slope of the activation below zero; the start values of the weights are scaled for it."""

LINEAR_DEVIATION: Final = 0.02
"""Standard deviation of a linear layer's first weights."""

NORMALIZATION_EPSILON: Final = 1e-5

FAULTY_SLICES: Final = 2
"""Voxels of a first axis over which oneDNN makes wrong gradients; see `Convolution3d`."""


class InstanceNormalization(nn.Module):
    """Every feature map of every sample gets mean 0 and variance 1 over its voxels, then a learnt scale and shift.

    In two and three dimensions. Parameter names, start values and results are those of torch's `nn.InstanceNorm2d` and
    `nn.InstanceNorm3d` with affine parameters; statistics are float32 for 16-bit features too.

    References:
        Ulyanov et al., "Instance normalization: the missing ingredient for fast stylization", 2016.
    """

    def __init__(self, features: int, *, eps: float) -> None:
        """Scale 1 and shift 0.

        Args:
            features: Number of feature maps.
            eps: Added to the variance.
        """
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S); on a CPU in the same memory layout, without gradients in channels-last."""
        if not _goes_sample_by_sample(features):
            return F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        if not torch.is_grad_enabled() and _is_channels_last(features):
            return _normalize_rows(features, self.weight, self.bias, self.eps)
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for sample in torch.split(features, 1)
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


def _normalize_rows(features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The same numbers from elementary operations along rows; forward only.

    A row is all that lies behind the first spatial axis, channels included: thousands of numbers, which a processor
    adds and multiplies at full width. torch's own kernels go through channels-last features channel by channel, 4 or 8
    numbers at a time in narrow networks. On one core (AVX2) this takes half of batch normalisation's time with 8
    channels, a tenth with 4, and errs less: 5e-5 of the logits instead of 5e-4, against float64.
    """
    rows = features.movedim(1, -1).reshape(len(features), features.shape[2], -1)
    channels, repeats = features.shape[1], math.prod(features.shape[3:])
    centred = rows - _per_channel(rows.mean(1, dtype=torch.promote_types(rows.dtype, torch.float32)), channels)
    variance = _per_channel(_mean_squares(centred), channels)
    scale = variance.add_(eps).rsqrt_().mul_(weight.repeat(repeats))
    normalized = torch.addcmul(bias.to(centred.dtype).repeat(repeats), centred, scale, out=centred).to(features.dtype)
    return normalized.view(len(features), *features.shape[2:], channels).movedim(-1, 1)


def _mean_squares(rows: Tensor) -> Tensor:
    """(B, N, R) -> (B, R), without the squares of all rows at once."""
    at_once = max(1, SQUARES_AT_ONCE * rows.shape[1] // rows.numel())
    first, *others = (piece.square().sum(1) for piece in torch.split(rows, at_once, dim=1))
    for squares in others:
        first += squares
    return first.div_(rows.shape[1])


def _per_channel(means: Tensor, channels: int) -> Tensor:
    """Means of the columns of rows, (B, R) -> means of their channels, repeated, (B, 1, R)."""
    by_channel = means.view(len(means), -1, channels).mean(1, keepdim=True)
    return by_channel.repeat(1, means.shape[1] // channels, 1).view(len(means), 1, -1)


def _goes_sample_by_sample(features: Tensor) -> bool:
    """Whether normalising one sample at a time, or rows, in the layout that is found is the better way.

    On a CPU torch's batch normalisation of one sample, which is the same thing, keeps the memory layout. Its instance
    normalisation copies channels-last features into the ordinary layout, so that the next convolution has to copy
    back; and for a batch of one (torch 2.13) it gives wrong gradients when features and gradient differ in layout. A
    compiler makes kernels of its own, for which one operation for the batch is better than many.
    """
    if features.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return len(features) == 1 or _is_channels_last(features)


def _is_channels_last(features: Tensor) -> bool:
    return features.is_contiguous(memory_format=channels_last(features.ndim - 2))


NormalizationType = type[InstanceNormalization | nn.BatchNorm2d | nn.BatchNorm3d]


class Convolution3d(nn.Conv3d):
    """torch's convolution, in float32 where oneDNN's gradient of its weights in bf16 is wrong.

    A kernel of 3 that moves by 1 over an axis of 2 voxels, the first one: its gradient has whatever lay in memory
    (torch 2.13, CPU with AVX-512 and bf16). Features of so few slices are small, so float32 costs little there.
    """

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, F, *S / stride)."""
        if not self._has_wrong_gradient(features):
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(torch.get_autocast_dtype("cpu"))

    def _has_wrong_gradient(self, features: Tensor) -> bool:
        return (
            features.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.is_grad_enabled()
            and features.shape[2] == FAULTY_SLICES
            and self.kernel_size[0] > 1
            and self.stride[0] == 1
        )


@dataclass(frozen=True)
class LayerTypes:
    """The classes of torch that do the same thing in two and in three dimensions."""

    dimensions: int
    convolution: type[nn.Conv2d] | type[nn.Conv3d]
    transposed_convolution: type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]
    average_pooling: type[nn.AvgPool2d] | type[nn.AvgPool3d]
    max_pooling: type[nn.MaxPool2d] | type[nn.MaxPool3d]
    normalization: NormalizationType
    interpolation: Literal["bilinear", "trilinear"]


_NORMALIZATIONS: Final[Mapping[tuple[str, int], NormalizationType]] = MappingProxyType(
    {
        ("instance", 2): InstanceNormalization,
        ("instance", 3): InstanceNormalization,
        ("batch", 2): nn.BatchNorm2d,
        ("batch", 3): nn.BatchNorm3d,
    }
)


def choose_layers(dimensions: Literal[2, 3], normalization: Literal["instance", "batch"] = "instance") -> LayerTypes:
    """The layer types of a network: by its number of spatial axes, and by what its convolutions are normalised over."""
    chosen = _NORMALIZATIONS[normalization, dimensions]
    if dimensions == 2:
        return LayerTypes(2, nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, nn.MaxPool2d, chosen, "bilinear")
    return LayerTypes(3, Convolution3d, nn.ConvTranspose3d, nn.AvgPool3d, nn.MaxPool3d, chosen, "trilinear")


def convolve(convolution: nn.Conv2d | nn.Conv3d, features: Tensor) -> Tensor:
    """(B, C, *S) -> (B, F, *S / stride), by oneDNN for a single small image too.

    torch leaves a batch of one with less than some 20 000 numbers before the last axis to kernels of its own, which
    take several times longer (a whole 40 x 56 x 40 U-Net of 8 features: 5 times).
    """
    if not _is_small_image(features):
        convolved: Tensor = convolution(features)
        return convolved
    return torch.mkldnn_convolution(
        features, convolution.weight, convolution.bias,
        convolution.padding, convolution.stride, convolution.dilation, convolution.groups,  # type: ignore[arg-type]
    )  # fmt: skip


def _is_small_image(features: Tensor) -> bool:
    """A single image of float32 on a CPU, forward only, outside autocast and compilers, where oneDNN is available."""
    return (
        not torch.compiler.is_compiling()  # first: an exporter would take the batch of its example for a fixed size
        and len(features) == 1
        and features.device.type == "cpu"
        and features.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class ConvolutionBlock(nn.Module):
    """Convolution, normalisation with affine parameters, leaky ReLU.

    The padding keeps the size when the stride is 1, and divides it (rounding up) by the stride otherwise.

    References:
        nnU-Net v2 (Isensee et al. 2021), plain convolutional U-Net; as published, dropout left out.
    """

    def __init__(
        self,
        layers: LayerTypes,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        *,
        bias: bool = True,
        activation: nn.Module | None = None,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        """Draw torch's own start values; see `initialize_weights`.

        Args:
            layers: Types of convolution and normalisation.
            in_features: Feature maps of the input.
            out_features: Feature maps of the output.
            kernel_size: Voxels along each axis, odd.
            stride: Voxels along each axis.
            bias: Whether the convolution has a bias.
            activation: What follows the normalisation instead of the leaky ReLU; `nn.Identity()` for nothing.
            dilation: Distance in voxels between the places that the kernel sees, along each axis.
            groups: Number of parts of the feature maps that are convolved each by itself.
        """
        super().__init__()
        self.convolution = layers.convolution(
            in_features,
            out_features,
            kernel_size=tuple(kernel_size),  # type: ignore[arg-type]  # torch wants tuples of fixed length
            stride=tuple(stride),  # type: ignore[arg-type]
            padding=tuple((size - 1) // 2 * dilation for size in kernel_size),  # type: ignore[arg-type]
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.normalization = layers.normalization(out_features, eps=NORMALIZATION_EPSILON)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True) if activation is None else activation

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S / stride)."""
        normalized: Tensor = self.activation(self.normalization(convolve(self.convolution, features)))
        return normalized


def initialize_weights(network: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers, and set their biases to zero, in place.

    Convolutions: He's normal distribution. Linear layers: a normal distribution of deviation LINEAR_DEVIATION, cut off
    at -2 and 2. Normalisation layers keep their start. Uses torch's global generator.

    References:
        He et al., "Delving deep into rectifiers", 2015, for a leaky ReLU of slope 0.01; used so by nnU-Net v2 for
        plain and transposed convolutions alike. Linear layers as in vision transformers (Dosovitskiy et al. 2021).
    """
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in network.modules():
        if isinstance(module, convolutions):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=LINEAR_DEVIATION)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
