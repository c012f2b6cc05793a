"""Networks of other packages are measured before a planner is asked: in a process of its own."""

import math
import os

import pytest

from autoseg.cli.measure_network import measure
from autoseg.errors import PlanningError, UsageError
from autoseg.records.budget import Budget, NetworkToMeasure, Overrides
from autoseg.stages import measure as stage
from autoseg.stages.measure import count_planned_networks, measure_networks
from autoseg.testing import synthetic_fingerprint
from planners import external
from tests.builders import install_networks, make_external_spec

VOLUMES = synthetic_fingerprint([(2.5, 1.0, 0.8)] * 3, [(20, 60, 50)] * 3, label_values=range(3))
BUDGET = Budget(overrides=Overrides(options={"network": "small", "features": "6"}), configurations=("2d",))


def install(folder, monkeypatch, **changes):
    install_networks(folder, **changes)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def test_it_is_counted_once_with_the_channels_of_the_data(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    budget = measure_networks(VOLUMES, BUDGET, external.plan)
    [network] = budget.external_networks
    assert (network.package, network.dimensions, network.options) == ("small-networks", 2, {"features": "6"})
    # 4 x 4 down and up, then 3 x 3 to three heads
    assert network.costs.parameters == (16 * 6 + 6) + (16 * 6 * 6 + 6) + (9 * 6 * 3 + 3)
    assert network.costs.points[0].macs == 16 * 16 * (6 + 6 * 6 + 9 * 6 * 3)
    assert budget.throughput == ()
    monkeypatch.setattr(stage, "PROGRAM", ("false",))
    assert measure_networks(VOLUMES, budget, external.plan) == budget


def test_faults_of_the_package_are_shown(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"No installed package has a network 'small'"):
        measure_networks(VOLUMES, BUDGET, external.plan)
    source = "def build(spec): raise ValueError('no such width')\n"
    install(tmp_path, monkeypatch, package="faulty_nets", entries="small = faulty_nets:build", source=source)
    with pytest.raises(PlanningError, match=r"(?s)'small' cannot be measured:.*faulty-nets.*no such width"):
        measure_networks(VOLUMES, BUDGET, external.plan)


def test_a_step_is_timed_where_the_plan_depends_on_it(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    spec = make_external_spec(2)
    measured = measure(NetworkToMeasure(network=spec, patch_sizes=((16, 16),), device="cpu", timed_patch_size=(16, 16)))
    assert measured.throughput is not None
    assert (measured.throughput.architecture, measured.throughput.dimensions) == ("external", 2)
    assert measured.throughput.macs_per_second > 0


STRIDED_NETWORK = """
from autoseg.records.external import NetworkDeclaration

def declare(name, options):
    return NetworkDeclaration(divisors=None)

def build(spec):
    import torch
    inputs, outputs = spec.input_channels, spec.output_channels
    levels = [torch.nn.Conv2d(inputs, inputs, 1, bias=False) for _ in spec.strides]
    return torch.nn.Sequential(*levels, torch.nn.Conv2d(inputs, outputs, 1, bias=False))
"""


def test_networks_that_take_planned_strides_are_counted_again(tmp_path, monkeypatch):
    entries, source = "strided = strided_nets:build", STRIDED_NETWORK
    install(tmp_path, monkeypatch, package="strided_nets", entries=entries, source=source)
    budget = BUDGET.model_copy(update={"overrides": Overrides(options={"network": "strided"})})
    budget = measure_networks(VOLUMES, budget, external.plan)
    assert budget.external_networks[0].costs.parameters == 5 * 1 + 3  # counted with five levels
    configuration = count_planned_networks(external.plan(VOLUMES, budget)).configurations["2d"]
    levels = len(configuration.network.strides)
    assert levels != 5
    assert configuration.network.costs is not None
    assert configuration.network.costs.parameters == configuration.estimates.parameters == levels * 1 + 3
    voxels = math.prod(configuration.patch_size)
    assert configuration.estimates.macs == voxels * (levels * 1 + 3)


def test_networks_that_decide_for_themselves_are_not_counted_again(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    plan = external.plan(VOLUMES, measure_networks(VOLUMES, BUDGET, external.plan))
    monkeypatch.setattr(stage, "PROGRAM", ("false",))
    assert count_planned_networks(plan) is plan
