"""One configuration of a plan: patch, batch, network and schedule, first by memory, then by time.

Called by `planners.composition` for each configuration that is planned, and before that for how much of an image a
patch covers. Each value comes from one rule, with its reason.

Tested in tests/planners/test_unet.py, test_overrides.py and test_adoption.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.costs.memory import (
    DEVICES_OF_16_BITS,
    count_feature_map_elements,
    estimate_training_memory_bytes,
)
from autoseg.costs.usual_detection import with_usual_detection
from autoseg.records.budget import AdoptedConfiguration
from autoseg.records.network import NetworkSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Decision
from autoseg.records.training import TrainingSpec
from planners.context import PlanningContext
from planners.optional_decisions import list_asked, list_growth, list_of_preset
from planners.rules import Decided, as_decision
from planners.rules.channels import choose_channel_dropout, count_inputs
from planners.rules.devices import check_asked_batch, largest_share, scale_rate, spread_batch, timed_batch
from planners.rules.growth import choose_growth
from planners.rules.memory import (
    MIN_BATCH,
    MemoryReference,
    cap_batch_size,
    choose_batch_size,
    count_patches_of_data,
    explain_asked_patch,
    explain_patch,
    fit_patch,
    take_batch_size,
    take_patch,
)
from planners.rules.sampling import choose_case_sampling
from planners.rules.schedule import (
    choose_mirror_axes,
    choose_schedule,
    expected_steps,
    is_limited,
    time_per_fold,
)
from planners.rules.sides import find_sides
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
from planners.rules.topology import Topology, adopt_topology, describe_levels

MAX_STEP_FRACTION = 0.75
"""A patch that finds objects is halved only where its step takes no more than this fraction of the time: below that the
heads are most of it, and a smaller patch cuts more objects for little."""

NO_NEIGHBORS = Decided(0, "Every slice is segmented on its own.")


@dataclass(frozen=True)
class ConfigurationPlanner:
    """Plans one configuration whose spacing is known; 2D: pairs (y, x)."""

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

    def plan(self, batch_dice: Decided[bool]) -> tuple[Configuration, tuple[Decision, ...]]:
        """The configuration, and each of its decisions.

        Raises:
            BudgetError: If nothing fits the memory or the time.
            PlanningError: If the user's own patch or batch does not fit.
        """
        context, budget = self.context, self.context.budget
        patch, base_features, batch_size = self._fit_time() if is_limited(budget) else self._fit_memory()
        topology = patch.value
        network = self.plan_network(topology, base_features.value)
        levels = describe_levels(topology, context.preset.depth(self.dimensions))
        if self.adopted is not None and budget.like is not None:
            levels, base_features = (replace_reason(part, budget.like.model) for part in (levels, base_features))
        mirror_axes = choose_mirror_axes(self.dimensions, context.fingerprint, budget, context.transpose)
        full = self._plan_training(network, mirror_axes.value, batch_dice=batch_dice.value)
        timed, min_steps = timed_batch(budget, batch_size.value), context.preset.min_steps
        costed = self._as_trained(network)
        schedule = choose_schedule(full, budget, costed, topology.patch_size, timed, min_steps)
        total, rate = self._spread(batch_size, topology.patch_size, schedule.value)
        growth = choose_growth(
            budget,
            costed,
            topology.patch_size,
            total.value,
            are_slices_far_apart=self._suits_small_patches,
            expected_steps=self._count_expected_steps(costed, topology, timed),
        )
        training = rate.value.model_copy(update={"growing_patches": growth.value})
        epochs = f"{training.optimizer}, {training.epochs} epochs of {training.steps_per_epoch} steps"
        decisions = {
            "spacing": self.spacing,
            "patch_size": Decided(topology.patch_size, patch.reason),
            "batch_size": total,
            "levels": levels,
            "base_features": base_features,
            "schedule": Decided(epochs, schedule.reason),
            **list_asked(context, self.neighbor_slices),
            **({} if budget.devices == 1 else {"learning_rate": Decided(rate.value.learning_rate, rate.reason)}),
            **list_growth(budget, growth),
            "batch_dice": batch_dice,
            "mirror_axes": mirror_axes,
            **(list_of_preset(context.preset) if self.adopted is None else {}),
        }
        configuration = self._assemble(network, topology.patch_size, total.value, training)
        return configuration, tuple(as_decision(f"{self.name}.{what}", decided) for what, decided in decisions.items())

    def _assemble(
        self, network: NetworkSpec, patch_size: tuple[int, ...], batch_size: int, training: TrainingSpec
    ) -> Configuration:
        context, devices = self.context, self.context.budget.devices
        return Configuration(
            spacing=self.spacing.value,
            median_shape=self.median_shape,
            patch_size=patch_size,
            batch_size=batch_size,
            network=network,
            normalization=context.normalization,
            resampling=ResamplingSpec() if self.adopted is None else self.adopted.resampling,
            training=training,
            estimates=context.estimate_costs(
                network, patch_size, largest_share(batch_size, devices), training.optimizer
            ),
            preprocessed_as=self.name,
            neighbor_slices=self.neighbor_slices.value,
            channel_presence=context.fingerprint.missing_channels,
        )

    def _plan_training(self, network: NetworkSpec, mirror_axes: tuple[int, ...], *, batch_dice: bool) -> TrainingSpec:
        """The full schedule, before the time is looked at."""
        context, budget = self.context, self.context.budget
        sampling = choose_case_sampling(context.fingerprint, budget)
        weights = context.preset.initial_weights if self.adopted is None else None
        full = TrainingSpec(
            mirror_axes=mirror_axes,
            sides=find_sides(self.dimensions, context.fingerprint, budget, context.transpose),
            case_sampling="uniform" if sampling is None else sampling.value,
            contrasts=budget.overrides.contrasts or "usual",
            channel_dropout=choose_channel_dropout(context.fingerprint).value,
            regularizer=budget.overrides.regularizer or "none",
            batch_dice=batch_dice,
            initial_weights=None if weights is None else weights.value,
            encoder_rate=ARCHITECTURES[network.architecture].encoder_rate,
        )
        return full if self.adopted is not None else full.model_copy(update=dict(context.preset.full_training))

    def _spread(
        self, batch_size: Decided[int], patch_size: Sequence[int], training: TrainingSpec
    ) -> tuple[Decided[int], Decided[TrainingSpec]]:
        """The batch of all devices from that of one, and the schedule with the rate for it."""
        context, devices, asked = self.context, self.context.budget.devices, self.context.budget.overrides.batch_size
        if devices == 1 or asked is not None:
            total = batch_size if asked is None else Decided(asked, batch_size.reason)
            return total, Decided(training, "As for one device.")
        by_data = count_patches_of_data(patch_size, self._dataset_voxels, context.preset.dataset_fraction)
        total = spread_batch(batch_size, devices, by_data)
        return total, scale_rate(training, total.value, batch_size.value)

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
    def _dataset_voxels(self) -> float:
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

    def _as_trained(self, network: NetworkSpec) -> NetworkSpec:
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
        elements = max(self._count_elements_of(each, topology) for each in (network, self._as_trained(network)))
        if asked is not None:
            return take_batch_size(largest_share(asked, devices), elements, reference, context.memory_gigabytes)
        batch_size = choose_batch_size(
            elements,
            topology.patch_size,
            self._dataset_voxels,
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
        for patch, width, batch_size, required_steps in self._list_sizes():
            patch_size = patch.value.patch_size
            network = self._as_trained(self.plan_network(patch.value, width))
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
        if is_free and self._suits_small_patches and not budget.finds_objects:
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
        network = self._as_trained(self.plan_network(topology, self._widths[-1]))
        return step_seconds(self.context.budget, network, topology.patch_size, 1)

    @property
    def _suits_small_patches(self) -> bool:
        """Whether slices are far apart, for networks that learn from nothing at a speed that was measured."""
        context = self.context
        is_usual = context.preset.wanted_steps == WANTED_STEPS and bool(context.budget.throughput)
        return is_usual and are_slices_far_apart(context.spacing, self.image_shape)

    def _count_expected_steps(self, network: NetworkSpec, topology: Topology, batch_size: int) -> float:
        """Steps in the time of a fold, for networks that learn from nothing at a measured speed; else infinity."""
        preset, budget = self.context.preset, self.context.budget
        if preset.wanted_steps != WANTED_STEPS or not budget.throughput:
            return math.inf
        return expected_steps(budget, network, topology.patch_size, batch_size)

    def _explain_width(self, width: int, predicted_seconds: float) -> str:
        budget, reasons = self.context.budget, []
        if time_per_fold(budget) is not None:
            reasons.append(explain_width(width, self._widths, self.context.preset.wanted_steps))
        if budget.latency_seconds is not None:
            reasons.append(explain_latency(budget, predicted_seconds))
        return " ".join(reasons)


def replace_reason(decided: Decided[int], model: str) -> Decided[int]:
    """The same value, with the model that it was taken from as its reason."""
    return Decided(decided.value, f"That of {model}.")
