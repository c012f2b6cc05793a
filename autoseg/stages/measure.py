"""Stage measure: what networks of other packages cost, before a planner sizes them.

They are counted in a process of its own, so that planning loads no torch; planners get the figures with the budget.

Tested in tests/stages/test_measure.py.
"""

import logging
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from autoseg.costs.external import describe_external, fit_edges, patches_to_count
from autoseg.costs.memory import DEVICES_OF_16_BITS, estimate_costs
from autoseg.errors import PlanningError
from autoseg.networks.providers import declare_network
from autoseg.plugins import Planner, find_external_networks
from autoseg.records.budget import Budget, MeasuredNetwork, NetworkToMeasure
from autoseg.records.external import CostPoint, ExternalNetwork, NetworkCosts
from autoseg.records.files import read_record, scratch_folder, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, Plan

logger = logging.getLogger("autoseg.plan")

PROGRAM = (sys.executable, "-m", "autoseg.cli.measure_network")

TIMED_EDGES: Mapping[int, tuple[int, ...]] = {2: (160, 160), 3: (32, 48, 48)}
"""Patches whose steps are timed, by dimension, where the network takes such: those of other networks."""

NOT_COUNTED = NetworkCosts(
    parameters=0, operations=1, points=(CostPoint(voxels=1, macs=0, kept_elements=0, largest_elements=1),)
)
"""Stands where costs will be."""


def measure_networks(fingerprint: Fingerprint, budget: Budget, planner: Planner) -> Budget:
    """Add what a planner has to know of the networks of other packages that it is asked for.

    Parameters, multiply-accumulates and memory are counted, and equal for equal versions of the package. Steps are
    timed where a plan depends on the time; figures that the budget has already are kept.

    Args:
        fingerprint: Its channels and heads are those of the network.
        budget: Names the networks, in the planner's options.
        planner: Function of the planner.

    Raises:
        UsageError: If a network is not installed, or refuses its options.
        PlanningError: If it cannot be counted.
    """
    known = list(budget.external_networks)
    throughput = list(budget.throughput)
    for name, options in find_external_networks(planner, budget):
        counted = [network.model_copy(update={"costs": NOT_COUNTED}) for network in known]
        declared = _declare(name, options, fingerprint, budget)
        missing = [network for network in declared if network not in counted]
        if not missing:
            continue
        logger.info("measuring the network %s", name)
        for network, measured in zip(missing, _measure(missing, fingerprint, budget), strict=True):
            known.append(network.model_copy(update={"costs": measured.costs}))
            throughput += [] if measured.throughput is None else [measured.throughput]
    return budget.model_copy(update={"external_networks": tuple(known), "throughput": tuple(throughput)})


def _declare(
    name: str, options: Mapping[str, str], fingerprint: Fingerprint, budget: Budget
) -> Iterator[ExternalNetwork]:
    package, declaration = declare_network(name, options)
    for dimensions in _wanted_dimensions(fingerprint, budget):
        if dimensions in declaration.dimensions:
            yield ExternalNetwork(
                name=name, package=package, options=dict(options), dimensions=dimensions, declaration=declaration,
                costs=NOT_COUNTED,
            )  # fmt: skip


def _wanted_dimensions(fingerprint: Fingerprint, budget: Budget) -> Iterator[Literal[2, 3]]:
    """Numbers of axes of the configurations that may be planned."""
    asked = budget.configurations
    is_flat = all(min(case.cropped_shape) == 1 for case in fingerprint.cases)
    if is_flat or "2d" in asked or not asked:
        yield 2
    if not is_flat and set(asked) != {"2d"}:
        yield 3


def _measure(networks: Sequence[ExternalNetwork], fingerprint: Fingerprint, budget: Budget) -> list[MeasuredNetwork]:
    """What is found of one network, for each number of axes."""
    return _run([_describe_request(network, fingerprint, budget) for network in networks])


def _run(requests: Sequence[NetworkToMeasure]) -> list[MeasuredNetwork]:
    """What a process of its own answers."""
    with scratch_folder("network") as folder:
        paths = [folder / f"{number}.json" for number in range(len(requests))]
        for request, path in zip(requests, paths, strict=True):
            write_record(request, path)
        ended = subprocess.run([*PROGRAM, *map(str, paths)], capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            name = requests[0].network.network_name
            raise PlanningError(f"The network '{name}' cannot be measured:\n{ended.stderr.strip()}")
        return [read_record(MeasuredNetwork, path.with_suffix(".measured.json")) for path in paths]


def count_planned_networks(plan: Plan) -> Plan:
    """Count networks again that took strides and kernels of the plan, which were not known when they were counted.

    Args:
        plan: Its budget has the networks that were counted.

    Raises:
        PlanningError: If one cannot be counted.
    """
    took = {known.dimensions for known in plan.budget.external_networks if known.declaration.divisors is None}
    chosen = {
        name: configuration
        for name, configuration in plan.configurations.items()
        if configuration.network.costs is not None and configuration.network.dimensions in took
    }
    if not chosen:
        return plan
    requests = [
        NetworkToMeasure(
            network=configuration.network,
            patch_sizes=(configuration.patch_size,),
            device=None,
            timed_patch_size=configuration.patch_size,
        )
        for configuration in chosen.values()
    ]
    counted = {
        name: _with_costs(chosen[name], measured.costs, plan)
        for name, measured in zip(chosen, _run(requests), strict=True)
    }
    return plan.model_copy(update={"configurations": {**plan.configurations, **counted}})


def _with_costs(configuration: Configuration, costs: NetworkCosts, plan: Plan) -> Configuration:
    network = configuration.network.model_copy(update={"costs": costs})
    estimates = estimate_costs(
        network,
        configuration.patch_size,
        math.ceil(configuration.batch_size / plan.budget.devices),
        num_labels=len(plan.labels),
        mixed_precision=plan.budget.device in DEVICES_OF_16_BITS,
        optimizer=configuration.training.optimizer,
    )
    return configuration.model_copy(update={"network": network, "estimates": estimates})


def _describe_request(network: ExternalNetwork, fingerprint: Fingerprint, budget: Budget) -> NetworkToMeasure:
    inputs = len(fingerprint.channel_names) * (2 if fingerprint.missing_channels else 1)
    is_timed = budget.device == "cpu" or budget.time_per_fold_seconds is not None or budget.latency_seconds is not None
    return NetworkToMeasure(
        network=describe_external(network, inputs, len(fingerprint.encoding.heads)),
        patch_sizes=patches_to_count(network),
        device=budget.device if is_timed else None,
        timed_patch_size=fit_edges(network.declaration, TIMED_EDGES[network.dimensions]),
    )
