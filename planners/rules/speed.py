"""How fast the device computes a network: measured where the budget says so, assumed otherwise.

Called by the rules that fit a time per fold or a prediction time.

Example: a U-Net of 8 feature maps was measured at 2e10 multiply-accumulates per second of a whole training step, one
of 32 at 6e10. 16 feature maps lie halfway in the logarithm: 4e10. A batch of 4 patches at 1.5e9
multiply-accumulates each takes 0.15 s.

References:
    Own rule.
"""

import itertools
import math
from collections.abc import Sequence

from autoseg.costs.architectures import ARCHITECTURES, FORWARD_FRACTION, forward_macs
from autoseg.records.budget import Budget, Throughput
from autoseg.records.network import NetworkSpec

ASSUMED_MACS_PER_SECOND = {"cpu": 10e9, "cuda": 1e12}
"""Without a measurement: what two slow cores, or a small graphics card, do in a whole step of a plain U-Net."""


def step_seconds(budget: Budget, network: NetworkSpec, patch_size: Sequence[int], batch_size: int) -> float:
    """Expected time of one training step."""
    macs = forward_macs(network, patch_size) * batch_size
    return macs / macs_per_second(budget, network)


def forward_seconds(budget: Budget, network: NetworkSpec, patch_size: Sequence[int]) -> float:
    """Expected time of predicting one window."""
    macs = forward_macs(network, patch_size)
    measured = [point for point in budget.throughput if point.prediction_macs_per_second is not None]
    if not measured:
        return FORWARD_FRACTION * macs / macs_per_second(budget, network)
    forward = [
        point.model_copy(update={"macs_per_second": point.prediction_macs_per_second or point.macs_per_second})
        for point in measured
    ]
    return macs / macs_per_second(budget.model_copy(update={"throughput": tuple(forward)}), network)


def macs_per_second(budget: Budget, network: NetworkSpec) -> float:
    """Throughput at a network's width: interpolated between measured widths in the logarithm of the width.

    Beyond the widest measured network it stays as there; below the narrowest it falls in proportion to the width,
    because narrow convolutions use a device badly. An assumed figure where nothing was measured.
    """
    measured, factor = _measured(budget, network), 1.0
    if not measured:
        plain = network.model_copy(update={"architecture": "unet"})
        measured, factor = _measured(budget, plain), ARCHITECTURES[network.architecture].relative_speed
    if not measured:
        return ASSUMED_MACS_PER_SECOND[budget.device] * factor
    return factor * _interpolate(measured, network.features[0])


def is_measured(budget: Budget, network: NetworkSpec) -> bool:
    """Whether networks of this kind were measured, and not only assumed."""
    return bool(_measured(budget, network))


def _interpolate(measured: Sequence[Throughput], base_features: int) -> float:
    if base_features <= measured[0].base_features:
        return measured[0].macs_per_second * base_features / measured[0].base_features
    for low, high in itertools.pairwise(measured):
        if low.base_features < base_features <= high.base_features:
            position = math.log(base_features / low.base_features) / math.log(high.base_features / low.base_features)
            return low.macs_per_second + position * (high.macs_per_second - low.macs_per_second)
    return measured[-1].macs_per_second


def _measured(budget: Budget, network: NetworkSpec) -> list[Throughput]:
    points = [
        point for point in budget.throughput
        if (point.dimensions, point.architecture) == (network.dimensions, network.architecture)
    ]  # fmt: skip
    return sorted(points, key=lambda point: (point.base_features, point.macs_per_second))
