"""Shifted tokens in the published way, channels first, to compare with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rolled(features: Tensor, axis: int) -> Tensor:
    """The published way, channels first: pad all axes by 2, roll five chunks of channels by -2 to 2, crop."""
    spatial = features.ndim - 2
    padded = F.pad(features, (2, 2) * spatial)
    chunks = torch.chunk(padded, 5, dim=1)
    padded = torch.cat([torch.roll(x, s, axis + 2) for x, s in zip(chunks, range(-2, 3), strict=False)], dim=1)
    for i, size in enumerate(features.shape[2:]):
        padded = padded.narrow(i + 2, 2, size)
    return padded


def perceptron_by_hand(weights: dict[str, Tensor], features: Tensor) -> Tensor:
    """Channels first, and 1 x 1 convolutions for linear layers."""
    convolve = {2: F.conv2d, 3: F.conv3d}[features.ndim - 2]
    ones = (1,) * (features.ndim - 2)
    for axis, size in enumerate(features.shape[2:]):
        features = rolled(features, axis) if size >= 5 else features
        weight = weights[f"linears.{axis}.weight"]
        features = convolve(features, weight.reshape(*weight.shape, *ones), weights[f"linears.{axis}.bias"])
        if axis == 0:
            kernel = weights["depthwise.weight"]
            padding = [size // 2 for size in kernel.shape[2:]]
            features = convolve(features, kernel, weights["depthwise.bias"], padding=padding, groups=len(kernel))
            features = 0.5 * features * (1 + torch.erf(features / 2**0.5))
    return features


def normalized(features: Tensor) -> Tensor:
    mean = features.mean(dim=1, keepdim=True)
    return (features - mean) / torch.sqrt(features.var(dim=1, keepdim=True, unbiased=False) + 1e-5)
