"""How fast the device trains and predicts with a network, and which network predicts fast enough.

Called for every size that a planner considers, when time is limited. Speed is measured where the budget says so,
assumed otherwise.

Example: a U-Net of 8 feature maps was measured at 2e10 multiply-accumulates per second of a whole training step, one
of 32 at 6e10. 16 feature maps lie halfway in the logarithm: 4e10. A batch of 4 patches at 1.5e9
multiply-accumulates each takes 0.15 s.

Example of a latency: median shape 138 x 169 x 138, patch 128 x 128 x 128, windows that overlap by half: 2 x 2 x 2 = 8
windows. At 0.4 s per window the network needs 3.2 s; of a latency of 5 s it may take 70 %, 3.5 s, so it is fast enough.

References:
    Own rule; windows as in nnU-Net v2 (Isensee et al., Nature Methods 2021): overlap of one half.
"""

import itertools
import math
from collections.abc import Sequence

from autoseg.costs.architectures import ARCHITECTURES, FORWARD_FRACTION, forward_macs
from autoseg.costs.windows import count_windows
from autoseg.errors import BudgetError
from autoseg.records.budget import Budget, Throughput
from autoseg.records.network import NetworkSpec

ASSUMED_MACS_PER_SECOND = {"cpu": 10e9, "cuda": 1e12}
"""Without a measurement: what two slow cores, or a small graphics card, do in a whole step of a plain U-Net."""

RESERVED_FRACTION = 0.3
"""Part of the latency that is kept for reading, resampling and writing."""


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


def prediction_seconds(
    budget: Budget, network: NetworkSpec, patch_size: Sequence[int], image_shape: Sequence[float], passes: int = 1
) -> float:
    """Expected network time for one image.

    Args:
        budget: Its measured throughput.
        network: 2D or 3D.
        patch_size: (z, y, x) or (y, x), voxels.
        image_shape: (z, y, x) at the configuration's spacing; a 2D network predicts slice by slice.
        passes: Mirrored variants per window, 1 for none.
    """
    windows = count_windows(image_shape, patch_size)
    return windows * passes * forward_seconds(budget, network, patch_size)


def keeps_latency(budget: Budget, seconds: float) -> bool:
    """Whether a network time leaves room for the rest; always, without a latency."""
    return budget.latency_seconds is None or seconds <= budget.latency_seconds * (1 - RESERVED_FRACTION)


def needed_latency(network_seconds: float) -> float:
    """Latency that a network time fits in, seconds, rounded up to a tenth."""
    tenths = math.ceil(network_seconds / (1 - RESERVED_FRACTION) * 10)
    fits = network_seconds <= tenths / 10 * (1 - RESERVED_FRACTION)
    return tenths / 10 if fits else (tenths + 1) / 10  # one rounding error can be in the way


def explain_latency(budget: Budget, seconds: float) -> str:
    """The reason, for a user."""
    return (
        f"A median case takes the network about {seconds:.2g} s; with {RESERVED_FRACTION:.0%} kept for reading, "
        f"resampling and writing, that is within {budget.latency_seconds:g} s."
    )


def refuse_latency(budget: Budget, fastest_seconds: float, dimensions: int) -> BudgetError:
    """The error where not even the fastest network keeps the latency; names the latency that would do."""
    needed = needed_latency(fastest_seconds)
    return BudgetError(
        f"No {dimensions}D network of this planner predicts a median case within {budget.latency_seconds:g} s: the "
        f"fastest needs {needed:.10g} s. Give more with --latency.",
        "--latency",
        needed,
    )
