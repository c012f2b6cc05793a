"""One configuration of a plan: its sizes, network and schedule, and every decision.

Called by `planners.composition` for each configuration that is planned, and before that for how much of an image a
patch covers. Each value comes from one rule, with its reason.

Tested in tests/planners/test_unet.py, test_overrides.py and test_adoption.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.costs.architectures import ARCHITECTURES
from autoseg.records.network import NetworkSpec, ResamplingSpec
from autoseg.records.plan import Configuration, Decision
from autoseg.records.training import TrainingSpec
from planners.optional_decisions import list_asked, list_growth, list_of_preset
from planners.rules import Decided, as_decision
from planners.rules.channels import choose_channel_dropout
from planners.rules.devices import largest_share, scale_rate, spread_batch, timed_batch
from planners.rules.growth import choose_growth
from planners.rules.memory import count_patches_of_data
from planners.rules.sampling import choose_case_sampling
from planners.rules.schedule import choose_mirror_axes, choose_schedule, expected_steps
from planners.rules.sides import find_sides
from planners.rules.speed import WANTED_STEPS
from planners.rules.topology import Topology, describe_levels
from planners.sizes import SizePlanner


@dataclass(frozen=True)
class ConfigurationPlanner(SizePlanner):
    """Plans one configuration whose spacing is known; 2D: pairs (y, x)."""

    def plan(self, batch_dice: Decided[bool]) -> tuple[Configuration, tuple[Decision, ...]]:
        """The configuration, and each of its decisions.

        Raises:
            BudgetError: If nothing fits the memory or the time.
            PlanningError: If the user's own patch or batch does not fit.
        """
        context, budget = self.context, self.context.budget
        patch, base_features, batch_size = self.fit()
        topology = patch.value
        network = self.plan_network(topology, base_features.value)
        levels = describe_levels(topology, context.preset.depth(self.dimensions))
        if self.adopted is not None and budget.like is not None:
            levels, base_features = (replace_reason(part, budget.like.model) for part in (levels, base_features))
        mirror_axes = choose_mirror_axes(self.dimensions, context.fingerprint, budget, context.transpose)
        full = self._plan_training(network, mirror_axes.value, batch_dice=batch_dice.value)
        timed, min_steps = timed_batch(budget, batch_size.value), context.preset.min_steps
        costed = self.as_trained(network)
        schedule = choose_schedule(full, budget, costed, topology.patch_size, timed, min_steps)
        total, rate = self._spread(batch_size, topology.patch_size, schedule.value)
        growth = choose_growth(
            budget,
            costed,
            topology.patch_size,
            total.value,
            are_slices_far_apart=self.suits_small_patches,
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
        by_data = count_patches_of_data(patch_size, self.dataset_voxels, context.preset.dataset_fraction)
        total = spread_batch(batch_size, devices, by_data)
        return total, scale_rate(training, total.value, batch_size.value)

    def _count_expected_steps(self, network: NetworkSpec, topology: Topology, batch_size: int) -> float:
        """Steps in the time of a fold, for networks that learn from nothing at a measured speed; else infinity."""
        preset, budget = self.context.preset, self.context.budget
        if preset.wanted_steps != WANTED_STEPS or not budget.throughput:
            return math.inf
        return expected_steps(budget, network, topology.patch_size, batch_size)


def replace_reason(decided: Decided[int], model: str) -> Decided[int]:
    """The same value, with the model that it was taken from as its reason."""
    return Decided(decided.value, f"That of {model}.")
