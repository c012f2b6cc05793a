"""What makes one planner different from another: its constants, and the settings that its users may give.

`planners.composition` turns a preset into plans; each planner's own file holds its presets. Settings come as text,
`--planner-option width=text` as {"width": "text"}; a planner refuses settings that it does not have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.encoders import EncoderName
from autoseg.records.network import NetworkSpec
from planners.rules import Decided
from planners.rules.memory import MemoryReference
from planners.rules.speed import MIN_STEPS, WANTED_STEPS
from planners.rules.topology import Depth, FixedLevels, Topology

NetworkPlanner = Callable[[Topology, int, int, int], NetworkSpec]
"""(topology, base features, input channels, output channels) -> the network; a wider one has more base features."""


def always(_topology: Topology) -> bool:
    """Any number of levels will do."""
    return True


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The constants of a planner."""

    name: str
    memory_gigabytes: float
    """Training memory it plans for unless the budget says otherwise."""
    memory_references: Mapping[int, MemoryReference]
    """What fits, by dimension; without an entry for 3, only 2D configurations are planned."""
    dataset_fraction: float
    """Largest part of the dataset's voxels that a batch covers."""
    widths: tuple[int, ...]
    """Feature maps at full resolution, best first. The first is taken when time is not limited."""
    width_reason: str
    """Reason for the first width."""
    plan_network: NetworkPlanner
    max_levels: int | None = None
    """Largest number of levels of the network; None: as many as the patch allows."""
    fixed_levels: Mapping[int, FixedLevels] = field(default_factory=dict)
    """Levels by dimension, where the network's package has decided them."""
    max_batch: Mapping[int, int] | None = None
    """Cap by dimension; None: nnU-Net's rule, which has none."""
    wanted_steps: int = WANTED_STEPS
    """With limited time a wider network is taken only if it gets so many training steps."""
    min_steps: int = MIN_STEPS
    """With limited time batch and patch shrink until the narrowest network gets so many."""
    is_deep_enough: Callable[[Topology], bool] = always
    """Whether a topology has the levels that its networks need; with limited time patches shrink no further."""
    head: Decided[str] | None = None
    """Head other than one at full resolution, in words."""
    full_training: Mapping[str, str | float] = field(default_factory=dict)
    """Fields of `TrainingSpec` whose values in the full schedule are not nnU-Net's."""
    initial_weights: Decided[EncoderName] | None = None
    """Published weights that the encoder starts from; None: freshly drawn ones."""

    def depth(self, dimensions: int) -> Depth:
        """How deep the network is."""
        return self.fixed_levels.get(dimensions, self.max_levels)

    def choose_memory(self, budget: Budget) -> Decided[float]:
        """Gigabytes to plan for: what was asked for, at most what the device has, else the preset's own."""
        if budget.memory_gigabytes is not None:
            return Decided(budget.memory_gigabytes, "Requested.")
        if budget.available_gigabytes is not None and budget.available_gigabytes < self.memory_gigabytes:
            return Decided(
                budget.available_gigabytes,
                f"The device has no more; {self.name} is meant for {self.memory_gigabytes:g} GB.",
            )
        return Decided(self.memory_gigabytes, f"What {self.name} is meant for.")


def check_options(options: Mapping[str, str], known: Sequence[str], planner: str) -> None:
    """Refuse settings that a planner does not have.

    Raises:
        PlanningError: Names the unknown settings and those that exist.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise PlanningError(
            f"--planner-option {', '.join(unknown)}: the planner '{planner}' has no such setting; it has: "
            f"{', '.join(known) or 'none'}. Leave it out, or name the planner that has it with --planner."
        )


def choice(options: Mapping[str, str], name: str, values: Mapping[str, int], default: str) -> int:
    """One of several named values.

    Raises:
        PlanningError: If the text names none of them.
    """
    text = options.get(name, default)
    if text not in values:
        raise PlanningError(f"--planner-option {name}={text}: expected one of {', '.join(values)}.")
    return values[text]


def whole_number(options: Mapping[str, str], name: str, smallest: int, largest: int) -> int | None:
    """A whole number, or None when it is not given.

    Raises:
        PlanningError: If the text is something else or out of range.
    """
    if name not in options:
        return None
    text = options[name]
    if not text.isdecimal() or not smallest <= int(text) <= largest:
        raise PlanningError(f"--planner-option {name}={text}: expected a whole number from {smallest} to {largest}.")
    return int(text)


def yes_or_no(options: Mapping[str, str], name: str) -> bool | None:
    """`true` or `false`, or None when it is not given.

    Raises:
        PlanningError: If the text is something else.
    """
    if name not in options:
        return None
    if options[name] not in {"true", "false"}:
        raise PlanningError(f"--planner-option {name}={options[name]}: expected true or false.")
    return options[name] == "true"
