"""Random contrasts: images as unknown scanners and sequences might show them, with the same anatomy.

Each channel goes through a small network of random convolutions, drawn again for every sample. Kernels of one voxel
make curves of intensity, inverted ones among them; kernels of three change texture, too. The answer is mixed with the
channel, and gets its mean and standard deviation.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autoseg.training.data.augmentation.intensity import MIN_RANGE

LAYERS = 4
HIDDEN_FEATURES = 2
KERNELS = (1, 3)
"""Edges of kernels, voxels; each layer draws one."""

NEGATIVE_SLOPE = 0.01
"""Slope of the leaky ReLU between layers, for negative values."""


def change_contrast_randomly(image: NDArray[np.float32], generator: np.random.Generator) -> None:
    """Overwrite each channel by a random mixture of itself and its image under random convolutions.

    Args:
        image: (C, Z, Y, X) or (C, Y, X); a constant channel stays as it is.
        generator: Source of randomness.

    References:
        Ouyang et al., "Causality-inspired single-source domain generalization for medical image segmentation", IEEE
        TMI 2022 (global intensity non-linear augmentation). Differs: every channel has convolutions of its own, and
        mean and standard deviation are kept instead of the Frobenius norm, as normalised images have them.
    """
    for channel in image:
        mean, std = channel.mean(), channel.std()
        if std < MIN_RANGE:
            continue
        changed = _convolve_randomly((channel - mean) / std, generator)
        weight = np.float32(generator.uniform())
        mixed = weight * _standardize(changed) + (1 - weight) * (channel - mean) / std
        channel[...] = _standardize(mixed) * std + mean


def _convolve_randomly(channel: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    convolve = F.conv3d if channel.ndim == 3 else F.conv2d
    features = torch.from_numpy(np.ascontiguousarray(channel))[None, None]
    widths = (1, *[HIDDEN_FEATURES] * (LAYERS - 1), 1)
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        kernel = int(generator.choice(KERNELS))
        edges = [kernel if size >= kernel else 1 for size in channel.shape]
        shape = (outputs, inputs, *edges)
        weights = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
        biases = torch.from_numpy(generator.standard_normal(outputs, dtype=np.float32))
        features = convolve(features, weights, biases, padding=[edge // 2 for edge in edges])
        if layer < LAYERS - 1:
            features = F.leaky_relu(features, NEGATIVE_SLOPE)
    changed: NDArray[np.float32] = features[0, 0].numpy()
    return changed


def _standardize(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1; zeros where all values are equal."""
    centred = channel - channel.mean()
    standardized: NDArray[np.float32] = centred / np.float32(max(float(centred.std()), MIN_RANGE))
    return standardized
