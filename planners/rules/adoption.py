"""What a plan takes over from another model, so that training can start from its weights.

Called when the budget names a model.

Example: a model of channels T1 and T2 adopted for images of channels T2 and FLAIR: T2 keeps the model's normalisation,
FLAIR gets the one that its own name and data ask for. Spacing, patch, strides, kernels and widths stay the model's;
inputs and outputs follow the data.

References:
    Own rule; nnU-Net v2 moves plans between datasets for fine-tuning in the same sense.
"""

import math
from collections.abc import Mapping, Sequence

from autoseg.errors import PlanningError
from autoseg.records.budget import AdoptedModel
from autoseg.records.network import NetworkSpec, NormalizationSpec
from planners.rules import Decided
from planners.rules.topology import Topology

ESTIMATE_TOLERANCE = 1.15
"""The estimate of training memory may be too high by so much."""


def adopt_normalization(
    model: AdoptedModel, channel_names: Sequence[str], own: Sequence[NormalizationSpec]
) -> Decided[tuple[NormalizationSpec, ...]]:
    """The model's normalisation for channels that it knows by name, their own for the others."""
    first = next(iter(model.configurations.values()))
    known = {name.lower(): spec for name, spec in zip(model.channel_names, first.normalization, strict=True)}
    specs = tuple(known.get(name.lower(), spec) for name, spec in zip(channel_names, own, strict=True))
    others = [name for name in channel_names if name.lower() not in known]
    if not others:
        return Decided(specs, f"That of {model.model}, with its statistics.")
    names = ", ".join(others)
    return Decided(specs, f"That of {model.model}; by their names for channels that it does not know: {names}.")


def adopt_topology(network: NetworkSpec, patch_size: Sequence[int]) -> Topology:
    """The model's levels, and a patch enlarged to what they can divide.

    Raises:
        PlanningError: If the patch would leave one voxel at the lowest level.
    """
    divisors = tuple(math.prod(stride[axis] for stride in network.strides) for axis in range(network.dimensions))
    padded = tuple(math.ceil(edge / divisor) * divisor for edge, divisor in zip(patch_size, divisors, strict=True))
    if padded == divisors:
        raise PlanningError(
            f"--patch-size {' '.join(map(str, patch_size))} leaves one voxel at the lowest level of the network, "
            f"whose total stride is {' '.join(map(str, divisors))}; take more along one axis at least."
        )
    return Topology(padded, network.strides, network.kernel_sizes, divisors)


def check_adopted_memory(smallest_bytes: Mapping[str, int], memory_gigabytes: float) -> None:
    """Refuse a model whose smallest batch does not fit, as far as the estimate can tell.

    Args:
        smallest_bytes: Estimated training memory by configuration.
        memory_gigabytes: Training memory of the device.

    Raises:
        PlanningError: Names the memory that would do for all configurations.
    """
    needed = max(smallest_bytes.values(), default=0) / 1e9 / ESTIMATE_TOLERANCE
    if needed > memory_gigabytes:
        largest = max(smallest_bytes, key=lambda name: smallest_bytes[name])
        raise PlanningError(
            f"The model's {largest} does not fit in {memory_gigabytes:g} GB: it needs a memory budget of "
            f"{math.ceil(needed * 1000) / 1000:.10g} GB. Take a smaller --patch-size, or plan with a larger --memory."
        )
