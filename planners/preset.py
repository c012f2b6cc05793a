"""What distinguishes one planner from another: values, and how it shapes a network.

`planners.composition` turns a preset into plans; each planner's own file holds its presets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoseg.records.budget import Budget
from autoseg.records.network import NetworkSpec
from planners.rules.patch_size import MemoryReference
from planners.rules.topology import Topology

NetworkBuilder = Callable[[Topology, int, int, int], NetworkSpec]
"""(topology, base features, input channels, output channels) -> the network; a wider one has more base features."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The constants of a planner."""

    name: str
    memory_gigabytes: float
    """Training memory it plans for unless the budget says otherwise."""
    memory_references: Mapping[int, MemoryReference]
    """What fits, by dimension."""
    dataset_fraction: float
    """A batch covers at most this part of the dataset's voxels."""
    widths: tuple[int, ...]
    """Feature maps at full resolution, best first. The first is taken when time is not limited."""
    width_reason: str
    """Why the first."""
    build_network: NetworkBuilder
    max_levels: int | None = None
    """As deep as the network is meant to be; None: as deep as the patch allows."""
    max_batch: Mapping[int, int] | None = None
    """Cap by dimension; None: nnU-Net's rule, which has none."""

    def memory_for(self, budget: Budget) -> tuple[float, str]:
        """Gigabytes to plan for, and the reason."""
        if budget.memory_gigabytes is not None:
            return budget.memory_gigabytes, "Asked for."
        if budget.available_gigabytes is not None and budget.available_gigabytes < self.memory_gigabytes:
            return budget.available_gigabytes, (
                f"The device has no more; {self.name} is meant for {self.memory_gigabytes:g} GB."
            )
        return self.memory_gigabytes, f"What {self.name} is meant for."
