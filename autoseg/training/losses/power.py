"""Powers below one without their infinite slope at zero."""

from typing import Final

from torch import Tensor

MIN_BASE: Final = 1e-12
"""Anything smaller counts as 0; a probability that close to 1 has no gradient in float32 anyway."""


def fractional_power(base: Tensor, exponent: float) -> Tensor:
    """Raise to a power in (0, 1); 0 without gradient up to `MIN_BASE`."""
    return base.clamp_min(MIN_BASE) ** exponent * (base > MIN_BASE)
