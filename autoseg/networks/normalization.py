"""Instance normalisation that is fast in every memory layout; used by the bricks in `blocks`."""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.devices import memory_format

SQUARES_AT_ONCE: Final = 2**18
"""Numbers; 1 MB in float32, which stays near the processor."""


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
    return features.is_contiguous(memory_format=memory_format(features.ndim - 2))
