"""The `external` planner: a network of another package, sized by what was counted on it.

`--planner-option network=NAME` names it; all other options are the network's own. What it takes and costs comes with
the budget (`autoseg.stages.measure`), so that this planner, like all, loads no torch and measures nothing.

Tested in tests/planners/test_external.py.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from autoseg.costs.external import describe_external, fit_edges, level_strides
from autoseg.costs.memory import count_feature_map_elements, count_saved_elements
from autoseg.errors import PlanningError
from autoseg.records.budget import Budget
from autoseg.records.external import ExternalNetwork
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture, NetworkSpec
from autoseg.records.plan import Plan
from autoseg.records.trials import Candidate
from planners.candidates import list_candidates
from planners.composition import compose
from planners.preset import Preset
from planners.rules.memory import MemoryReference
from planners.rules.topology import FixedLevels, Topology, compute_topology
from planners.unet import DATASET_FRACTION, MEMORY_REFERENCES, WIDTHS, plan_unet

NAME = "external"

NETWORK = "network"
"""The planner option that names the network."""

WIDTH_REASON = "What the network's builder is told; the package decides."

REFERENCE_EDGES = {2: 512.0, 3: 128.0}
"""Patch of a plain U-Net with which memory is compared, by dimension."""

FLAT_REASON = "Left out: the network takes volumes alone."


def plan(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a network of another package for all configurations that it exists for.

    Args:
        fingerprint: Facts about the dataset.
        budget: `external_networks` has what is known of the network. Planner options: `network`, and the network's own.

    Raises:
        PlanningError: If no network is named or it was not measured, and under the conditions of `planners.unet.plan`.
    """
    # a model to start from has its own network, which no option names
    network = "" if budget.like is not None else name_network(budget.overrides.options)
    return plan_external(NAME, network, fingerprint, budget)


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("external",)


def external_networks(budget: Budget) -> tuple[tuple[str, Mapping[str, str]], ...]:
    """Networks that have to be measured before this planner is asked, with their own settings.

    Raises:
        PlanningError: If no network is named.
    """
    options = budget.overrides.options
    return ((name_network(options), {key: value for key, value in options.items() if key != NETWORK}),)


def variants(networks: Sequence[str]) -> tuple[dict[str, str], ...]:
    """Planner options of the networks that a list shows: each that is installed."""
    return tuple({NETWORK: name} for name in networks)


def candidates(name: str, plan: Plan, trial_seconds: float) -> tuple[Candidate, ...]:
    """What is tried where trials decide; see `planners.candidates`."""
    return list_candidates({name: None}, plan, (), trial_seconds)


def name_network(options: Mapping[str, str]) -> str:
    """The network that the options name.

    Raises:
        PlanningError: If they name none.
    """
    if not options.get(NETWORK):
        raise PlanningError(
            "The planner 'external' needs the name of a network: --planner-option network=NAME. `autoseg networks` "
            "lists those that are installed."
        )
    return options[NETWORK]


def plan_external(planner: str, network: str, fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan one network of another package.

    Args:
        planner: Name of the planner.
        network: Name of the network.
        fingerprint: Facts about the dataset.
        budget: `external_networks` has what is known of the network.

    Raises:
        PlanningError: If it was not measured, or has not as many dimensions as what was asked for.
    """
    if budget.like is not None:  # its network is known
        return compose(_make_preset(planner, network, {}), fingerprint, budget)
    found: dict[int, ExternalNetwork] = {
        known.dimensions: known for known in budget.external_networks if known.name == network
    }
    if not found:
        raise PlanningError(f"The budget has no measurement of the network '{network}', which the planner needs.")
    left_out = {} if 2 in found else {"2d": FLAT_REASON}
    return compose(_make_preset(planner, network, found), fingerprint, budget, left_out=left_out)


def _make_preset(planner: str, name: str, found: Mapping[int, ExternalNetwork]) -> Preset:
    """The constants of a network of another package."""
    is_flat = 3 not in found and bool(found)
    return Preset(
        name=planner,
        memory_gigabytes=8.0,
        memory_references={
            dimensions: _make_reference(dimensions)
            for dimensions in MEMORY_REFERENCES
            if dimensions == 2 or not is_flat
        },
        dataset_fraction=DATASET_FRACTION,
        widths=(WIDTHS[0],),
        width_reason=WIDTH_REASON,
        plan_network=partial(_plan_network, name=name, found=found),
        fixed_levels={
            dimensions: FixedLevels(
                level_strides(network.declaration.divisors, dimensions), partial(fit_edges, network.declaration)
            )
            for dimensions, network in found.items()
            if network.declaration.divisors is not None
        },
    )


def _plan_network(
    topology: Topology,
    _base_features: int,
    input_channels: int,
    output_channels: int,
    *,
    name: str,
    found: Mapping[int, ExternalNetwork],
) -> NetworkSpec:
    network = found.get(len(topology.patch_size))
    if network is None:
        raise PlanningError(
            f"The network '{name}' has no {len(topology.patch_size)}D form. Plan another configuration with -c, or "
            "take another network."
        )
    levels: Sequence[tuple[int, ...]] = topology.strides
    return describe_external(network, input_channels, output_channels, levels, topology.kernel_sizes)


def _make_reference(dimensions: int) -> MemoryReference:
    """What fits 8 GB: as many kept numbers as of the plain U-Net, whose feature maps are counted instead."""
    edges = (REFERENCE_EDGES[dimensions],) * dimensions
    topology = compute_topology((1.0,) * dimensions, edges)
    network = plan_unet(topology, WIDTHS[0], 1, 2)
    elements = count_feature_map_elements(network, topology.patch_size, output_channels=2)
    kept_per_element = count_saved_elements(network, topology.patch_size) / elements
    reference = MEMORY_REFERENCES[dimensions]
    return MemoryReference(elements=reference.elements * kept_per_element, batch_size=reference.batch_size)
