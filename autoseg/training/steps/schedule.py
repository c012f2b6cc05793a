"""The learning rate over the progress of training, counted in epochs or by the clock."""

from math import cos, pi, pow
from typing import Final

from autoseg.records.plan import TrainingSpec

POLY_EXPONENT: Final = 0.9


def learning_rate(progress: float, spec: TrainingSpec) -> float:
    """The learning rate at a moment of training.

    Rises linearly from 0 over the warm-up, then falls from `spec.learning_rate` to 0 over the rest.

    Args:
        progress: Fraction of the training that is done; values outside [0, 1] count as the nearer bound.
        spec: Peak, schedule and warm-up.

    References:
        poly: Chen et al., "DeepLab", 2017, with nnU-Net v2's exponent 0.9; cosine: Loshchilov and Hutter, "SGDR",
        2017, a single period.

    Examples:
        >>> round(learning_rate(0.5, TrainingSpec(mirror_axes=(), batch_dice=False)), 6)
        0.005359
    """
    progress = min(max(progress, 0.0), 1.0)
    warmup = spec.warmup_fraction
    if progress < warmup:
        return spec.learning_rate * progress / warmup
    remaining = (1.0 - progress) / (1.0 - warmup) if warmup < 1.0 else 1.0
    match spec.schedule:
        case "poly":
            return spec.learning_rate * pow(remaining, POLY_EXPONENT)
        case "cosine":
            return spec.learning_rate * 0.5 * (1.0 - cos(pi * remaining))
