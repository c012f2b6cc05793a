"""What all configurations of a plan share, made by `planners.composition` before any of them is planned.

Tested in tests/planners/test_unet.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.costs.memory import DEVICES_OF_16_BITS, estimate_costs
from autoseg.records.budget import Budget
from autoseg.records.case import Spacing, Triple
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NetworkSpec, NormalizationSpec
from autoseg.records.plan import Estimates
from planners.preset import Preset


@dataclass(frozen=True)
class PlanningContext:
    """What all configurations of a plan share; axes follow the transpose."""

    preset: Preset
    fingerprint: Fingerprint
    budget: Budget
    memory_gigabytes: float
    spacing: Spacing
    median_shape: tuple[float, float, float]
    transpose: Triple
    normalization: tuple[NormalizationSpec, ...]

    def estimate_costs(
        self, network: NetworkSpec, patch_size: Sequence[int], batch_size: int, optimizer: str
    ) -> Estimates:
        """Memory, parameters and multiply-accumulates of a network on this data and device."""
        return estimate_costs(
            network,
            patch_size,
            batch_size,
            num_labels=len(self.fingerprint.labels),
            mixed_precision=self.budget.device in DEVICES_OF_16_BITS,
            optimizer=optimizer,
        )
