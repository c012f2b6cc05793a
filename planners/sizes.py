"""Patch, batch and width of one configuration, first by memory, then by time; each value with its reason.

Tested in tests/planners/test_unet.py, test_overrides.py and test_adoption.py.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from autoseg.costs.memory import DEVICES_OF_16_BITS, count_feature_map_elements, estimate_training_memory_bytes
from autoseg.costs.usual_detection import with_usual_detection
from autoseg.records.budget import AdoptedConfiguration
from autoseg.records.network import NetworkSpec
from planners.context import PlanningContext
from planners.rules import Decided
from planners.rules.channels import count_inputs
from planners.rules.devices import check_asked_batch, largest_share, timed_batch
from planners.rules.memory import (
    MIN_BATCH,
    MemoryReference,
    cap_batch_size,
    choose_batch_size,
    explain_asked_patch,
    explain_patch,
    fit_patch,
    take_batch_size,
    take_patch,
)
from planners.rules.schedule import expected_steps, is_limited, time_per_fold
from planners.rules.slices import Size, are_slices_far_apart, list_sizes_of_slices
from planners.rules.speed import (
    WANTED_STEPS,
    explain_latency,
    explain_width,
    keeps_latency,
    prediction_seconds,
    refuse_latency,
    smaller_batches,
    smaller_patches,
    step_seconds,
)
from planners.rules.topology import Topology, adopt_topology

MAX_STEP_FRACTION = 0.75
"""A patch that finds objects is halved only where its step takes no more than this fraction of the time: below that the
heads are most of it, and a smaller patch cuts more objects for little."""

NO_NEIGHBORS = Decided(0, "Every slice is segmented on its own.")


@dataclass(frozen=True)
class SizePlanner:
    """Finds the sizes of a configuration whose spacing is known; 2D: pairs (y, x)."""

    context: PlanningContext
    name: str
    spacing: Decided[tuple[float, ...]]
    """Target spacing, mm."""
    image_shape: tuple[float, float, float]
    """Median image at this spacing, all three axes, voxels."""
    image_voxels: float
    """Voxels of the median image, before its shape was rounded."""
    adopted: AdoptedConfiguration | None = None
    """The configuration of another model that this one follows."""
    neighbor_slices: Decided[int] = NO_NEIGHBORS
    """Neighbouring slices on each side that a 2D network gets too."""

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.spacing.value)

    @property
    def median_shape(self) -> tuple[float, ...]:
        """Median image along the axes of the patch, voxels."""
        return self.image_shape[-self.dimensions :]

    @cached_property
    def patch(self) -> Decided[Topology]:
        """The user's patch, the adopted one, or the largest that fits the memory at the preset's full width.

        Raises:
            BudgetError: If no patch fits the memory.
            PlanningError: If the user's own patch does not fit.
        """
        reference, memory = self._reference, self.context.memory_gigabytes
        depth = self.context.preset.depth(self.dimensions)
        asked, budget = self._asked_patch, self.context.budget
        if self.adopted is not None and budget.like is not None:
            topology = adopt_topology(self.adopted.network, asked or self.adopted.patch_size)
            if asked is None:
                return Decided(topology, f"That of {budget.like.model}.")
            return Decided(topology, explain_asked_patch(asked, topology.patch_size))
        if asked is not None:
            topology = take_patch(asked, self.spacing.value, reference, memory, self._count_elements, depth)
            return Decided(topology, explain_asked_patch(asked, topology.patch_size))
        topology = fit_patch(self.spacing.value, self.median_shape, reference, memory, self._count_elements, depth)
        reason = explain_patch(topology.patch_size, self.median_shape, memory)
        if budget.overrides.batch_size is not None:
            reason += f" The requested batch of {budget.overrides.batch_size} has to fit, too."
        return Decided(topology, reason)

    @property
    def _asked_patch(self) -> tuple[int, ...] | None:
        """Patch size that the user gave, if it is meant for a configuration of so many axes."""
        asked = self.context.budget.overrides.patch_size
        return asked if asked is not None and len(asked) == self.dimensions else None

    @property
    def _reference(self) -> MemoryReference:
        """Feature-map elements that fit the memory; a larger batch that the user requested is guaranteed, too."""
        reference = self.context.preset.memory_references[self.dimensions]
        asked = self.context.budget.overrides.batch_size
        if asked is None:
            return reference
        smallest = 1 if self._asked_patch is not None else reference.guaranteed_batch
        share = largest_share(asked, self.context.budget.devices)
        return replace(reference, guaranteed_batch=max(share, smallest))

    @property
    def dataset_voxels(self) -> float:
        """Voxels of all cases at this spacing, about."""
        return self.image_voxels * len(self.context.fingerprint.cases)

    @property
    def _widths(self) -> tuple[int, ...]:
        """Feature maps at full resolution that are allowed, best first."""
        return self.context.preset.widths if self.adopted is None else (self.adopted.network.features[0],)

    def plan_network(self, topology: Topology, base_features: int) -> NetworkSpec:
        """The network for a topology; an adopted one has the inputs and outputs of this data."""
        encoding, slices = self.context.fingerprint.encoding, 2 * self.neighbor_slices.value + 1
        inputs = count_inputs(self.context.fingerprint, slices)
        if self.adopted is None:
            network = self.context.preset.plan_network(topology, base_features, inputs, len(encoding.heads))
        else:
            changes = {"input_channels": inputs, "output_channels": len(encoding.heads)}
            network = self.adopted.network.model_copy(update=changes)
        if network.head != "points":
            return network
        return network.model_copy(update={"independent_heads": encoding.activation == "sigmoid"})

    def as_trained(self, network: NetworkSpec) -> NetworkSpec:
        """The network whose costs count: with the heads that take its decoder's place, where it gets such."""
        return with_usual_detection(network) if self.context.budget.finds_objects else network

    def _count_elements(self, topology: Topology) -> int:
        """Feature-map elements at the preset's full width."""
        return self._count_elements_of(self.plan_network(topology, self.context.preset.widths[0]), topology)

    def _count_elements_of(self, network: NetworkSpec, topology: Topology) -> int:
        return count_feature_map_elements(
            network, topology.patch_size, output_channels=len(self.context.fingerprint.labels)
        )

    def estimate_smallest_bytes(self) -> int:
        """Estimated training memory with the smallest batch that may be planned."""
        budget, topology = self.context.budget, self.patch.value
        return estimate_training_memory_bytes(
            self.plan_network(topology, self.context.preset.widths[0]),
            topology.patch_size,
            largest_share(budget.overrides.batch_size or MIN_BATCH * budget.devices, budget.devices),
            mixed_precision=budget.device in DEVICES_OF_16_BITS,
            optimizer="sgd" if time_per_fold(budget) is None else "adamw",
        )

    def fit(self) -> tuple[Decided[Topology], Decided[int], Decided[int]]:
        """Patch, width and batch of one device, that keep to the limits.

        Raises:
            BudgetError: If nothing fits the memory or the time.
            PlanningError: If the user's own patch or batch does not fit.
        """
        return self._fit_time() if is_limited(self.context.budget) else self._fit_memory()

    def _fit_memory(self) -> tuple[Decided[Topology], Decided[int], Decided[int]]:
        """Patch, width and batch by memory alone."""
        return self.patch, Decided(self._widths[0], self.context.preset.width_reason), self._choose_batch_size()

    def _choose_batch_size(self) -> Decided[int]:
        """Patches that one device takes; see `_spread` for all of them."""
        context, topology = self.context, self.patch.value
        asked, caps, devices = context.budget.overrides.batch_size, context.preset.max_batch, context.budget.devices
        if asked is not None:
            check_asked_batch(asked, devices)
        if asked is not None and self.adopted is not None:
            # the adopted network was compared with the memory in bytes
            return Decided(largest_share(asked, devices), "Requested.")
        network, reference = self.plan_network(topology, context.preset.widths[0]), self._reference
        elements = max(self._count_elements_of(each, topology) for each in (network, self.as_trained(network)))
        if asked is not None:
            return take_batch_size(largest_share(asked, devices), elements, reference, context.memory_gigabytes)
        batch_size = choose_batch_size(
            elements,
            topology.patch_size,
            self.dataset_voxels,
            context.preset.dataset_fraction,
            reference,
            context.memory_gigabytes,
        )
        return batch_size if caps is None else cap_batch_size(batch_size, caps[self.dimensions])

    def _fit_time(self) -> tuple[Decided[Topology], Decided[int], Decided[int]]:
        """Patch, width and batch that keep to the time; the last ones tried where none gets its steps.

        Sizes are tried in one fixed order, from the most to the least expensive, so more time never gives a smaller
        network. A size that predicts a median case too slowly is passed over.

        Raises:
            BudgetError: If none predicts a median case fast enough; names the latency that would do.
        """
        budget = self.context.budget
        chosen, fastest = None, math.inf
        for number, (patch, width, batch_size, required_steps) in enumerate(self._list_sizes()):
            if number > 0 and not self.context.preset.is_deep_enough(patch.value):
                break
            patch_size = patch.value.patch_size
            network = self.as_trained(self.plan_network(patch.value, width))
            seconds = prediction_seconds(budget, network, patch_size, self.image_shape)
            fastest = min(fastest, seconds)
            if not keeps_latency(budget, seconds):
                continue
            chosen = patch, Decided(width, self._explain_width(width, seconds)), batch_size
            if expected_steps(budget, network, patch_size, timed_batch(budget, batch_size.value)) >= required_steps:
                break
        if chosen is None:
            raise refuse_latency(budget, fastest, self.dimensions)
        return chosen

    def _list_sizes(self) -> Iterator[Size]:
        """Patch, width, batch, and the training steps that they must get.

        First narrower networks, then smaller batches, then smaller patches; patches come first where slices are far
        apart and the speed was measured. Without a time per fold only the width varies: batch and patch do not make
        prediction faster. What the user chose stays as it is.
        """
        budget, preset, widths, patch = self.context.budget, self.context.preset, self._widths, self.patch
        batches = [self._choose_batch_size()]
        if time_per_fold(budget) is None:
            yield from ((patch, width, batches[0], preset.min_steps) for width in widths)
            return
        if budget.overrides.batch_size is None:
            batches = list(smaller_batches(batches[0], self.dimensions))
        is_free = self._asked_patch is None and self.adopted is None
        grid = self.spacing.value, self.median_shape, preset.depth(self.dimensions)
        if is_free and self.suits_small_patches and not budget.finds_objects:
            yield from list_sizes_of_slices(patch, widths, batches, *grid)
            return
        yield from ((patch, width, batches[0], preset.wanted_steps) for width in widths[:-1])
        yield from ((patch, widths[-1], batch_size, preset.min_steps) for batch_size in batches)
        if is_free:
            smaller = smaller_patches(patch, *grid, preset.min_steps)
            for worthwhile in self._keep_worthwhile(patch, smaller) if budget.finds_objects else smaller:
                yield worthwhile, widths[-1], batches[-1], preset.min_steps

    def _keep_worthwhile(
        self, patch: Decided[Topology], smaller: Iterator[Decided[Topology]]
    ) -> Iterator[Decided[Topology]]:
        """Smaller patches, as long as each saves enough of the step of the one before: the heads stay as they are."""
        seconds = self._narrowest_step_seconds(patch.value)
        for each in smaller:
            before, seconds = seconds, self._narrowest_step_seconds(each.value)
            if seconds > MAX_STEP_FRACTION * before:
                return
            yield each

    def _narrowest_step_seconds(self, topology: Topology) -> float:
        network = self.as_trained(self.plan_network(topology, self._widths[-1]))
        return step_seconds(self.context.budget, network, topology.patch_size, 1)

    @property
    def suits_small_patches(self) -> bool:
        """Whether slices are far apart, for networks that learn from nothing at a speed that was measured."""
        context = self.context
        is_usual = context.preset.wanted_steps == WANTED_STEPS and bool(context.budget.throughput)
        return is_usual and are_slices_far_apart(context.spacing, self.image_shape)

    def _explain_width(self, width: int, predicted_seconds: float) -> str:
        budget, reasons = self.context.budget, []
        if time_per_fold(budget) is not None:
            reasons.append(explain_width(width, self._widths, self.context.preset.wanted_steps))
        if budget.latency_seconds is not None:
            reasons.append(explain_latency(budget, predicted_seconds))
        return " ".join(reasons)
