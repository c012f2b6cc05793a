"""Soft labels as one whole number for each voxel: a label, and how probable it is.

A teacher's probabilities of all labels would take many bytes for each voxel. What a student learns from is the label
that wins and how far it can be trusted: `code = label index + number of labels * level`, where the level is the
calibrated probability in sixteenths. Voxels far from surfaces have one code, so that a map is compressed to a few
percent of its two bytes a voxel.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

LEVELS: Final = 16
"""Steps of a probability from 0 to 1; the nearest one is stored."""

MAX_SOFT_LABELS: Final = np.iinfo(np.int16).max // (LEVELS + 1)
"""Largest number of labels, background included, whose codes fit."""


def encode_soft_labels(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], num_labels: int
) -> NDArray[np.int16]:
    """Codes of voxels.

    Args:
        labels: Label indices, (...), from 0 to `num_labels` - 1.
        probabilities: Probability of each of them, (...), in [0, 1].
        num_labels: Number of labels, background included, at most MAX_SOFT_LABELS.
    """
    levels = np.rint(np.asarray(probabilities, dtype=np.float32) * LEVELS).astype(np.int16)
    codes: NDArray[np.int16] = labels.astype(np.int16) + np.int16(num_labels) * levels
    return codes


def decode_soft_labels(codes: NDArray[np.number], num_labels: int) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Label indices and their probabilities, (...); a code below 0 is its own label, with probability 1."""
    whole = codes.astype(np.int16)
    levels, labels = np.divmod(whole, np.int16(num_labels))
    is_outside = whole < 0
    labels[is_outside], levels[is_outside] = whole[is_outside], LEVELS
    probabilities: NDArray[np.float32] = levels.astype(np.float32) / np.float32(LEVELS)
    return labels, probabilities


def confident_labels(codes: NDArray[np.number], num_labels: int, min_confidence: float) -> NDArray[np.int16]:
    """Label indices where they are at least so probable, `num_labels` elsewhere: the index of ignored voxels."""
    labels, probabilities = decode_soft_labels(codes, num_labels)
    labels[probabilities < min_confidence] = num_labels
    return labels


def draw_labels(
    codes: NDArray[np.number], num_labels: int, min_confidence: float, generator: np.random.Generator
) -> NDArray[np.int16]:
    """Label indices of a patch, in which a confident voxel counts as often as its label is probable.

    In the mean over many patches the loss of a voxel has its probability as weight.

    Args:
        codes: Codes, (...).
        num_labels: Number of labels, background included.
        min_confidence: Probability below which a voxel never counts.
        generator: Source of randomness.

    Returns:
        Label indices, (...), `num_labels` on voxels that do not count.
    """
    labels, probabilities = decode_soft_labels(codes, num_labels)
    draws = generator.random(codes.shape, dtype=np.float32)
    labels[(probabilities < min_confidence) | (draws >= probabilities)] = num_labels
    return labels
