"""Plans of networks of other packages, whose costs were made up."""

import pytest

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides, Throughput
from autoseg.records.external import CostPoint, ExternalNetwork, NetworkCosts, NetworkDeclaration
from autoseg.testing import synthetic_fingerprint
from planners import external

VOLUMES = synthetic_fingerprint([(2.5, 1.0, 0.8)] * 20, [(60, 200, 240)] * 20, label_values=range(3))
SLICES = synthetic_fingerprint([(1.0, 1.0, 1.0)] * 20, [(1, 200, 240)] * 20)
OPTIONS = Overrides(options={"network": "small:deep", "width": "8"})


def known(dimensions, kept=100, **declared) -> ExternalNetwork:
    """Keeps so many numbers of each voxel."""
    points = tuple(
        CostPoint(voxels=n, macs=1000 * n, kept_elements=kept * n, largest_elements=32 * n) for n in (4096, 40960)
    )
    return ExternalNetwork(
        name="small:deep", package="small-networks", options={"width": "8"}, dimensions=dimensions,
        declaration=NetworkDeclaration(**declared), costs=NetworkCosts(parameters=1000, operations=9, points=points),
    )  # fmt: skip


def budget(*networks, **changes) -> Budget:
    return Budget(overrides=OPTIONS, external_networks=networks, **changes)


def test_patches_are_what_the_network_takes():
    plan = external.plan(VOLUMES, budget(known(2, divisors=(1, 32, 32)), known(3, divisors=(4, 32, 16))))
    flat, full = (plan.configurations[name] for name in ("2d", "3d_fullres"))
    assert [edge % 32 for edge in flat.patch_size] == [0, 0]
    assert [edge % step for edge, step in zip(full.patch_size, (4, 32, 16), strict=True)] == [0, 0, 0]
    assert full.network.network_name == "small:deep"
    assert full.network.network_options == {"width": "8"}
    assert full.estimates.macs == 1000 * full.patch_size[0] * full.patch_size[1] * full.patch_size[2]


def test_a_network_that_keeps_more_gets_a_smaller_patch_and_stays_within_the_memory():
    sizes = []
    for kept in (50, 400, 3000):
        plan = external.plan(VOLUMES, budget(known(2), known(3, kept), memory_gigabytes=6.0))
        configuration = plan.configurations["3d_fullres"]
        sizes.append(configuration.patch_size[0] * configuration.patch_size[1] * configuration.patch_size[2])
        assert configuration.estimates.training_memory_bytes is not None
        assert configuration.estimates.training_memory_bytes < 6e9
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_the_time_of_its_steps_decides_about_the_patch():
    sizes = []
    for speed in (1e12, 1e8):
        point = Throughput(architecture="external", dimensions=3, base_features=32, macs_per_second=speed)
        limited = budget(known(3), device="cpu", time_per_fold_seconds=600.0, throughput=(point,))
        sizes.append(external.plan(VOLUMES, limited).configurations["3d_fullres"].patch_size)
    assert sizes[0] > sizes[1]


def test_a_network_that_follows_the_plan_gets_strides_and_kernels_of_the_data():
    plan = external.plan(VOLUMES, budget(known(2, divisors=None), known(3, divisors=None)))
    network = plan.configurations["3d_fullres"].network
    assert network.strides[1] == (1, 2, 2)
    assert network.kernel_sizes[0] == (1, 3, 3)


def test_a_network_of_volumes_alone_or_of_slices_alone():
    assert list(external.plan(VOLUMES, budget(known(3))).configurations) == ["3d_fullres"]
    assert list(external.plan(VOLUMES, budget(known(2))).configurations) == ["2d"]
    with pytest.raises(PlanningError, match=r"'small:deep' has no 2D form"):
        external.plan(SLICES, budget(known(3)))


def test_what_is_missing_is_named():
    with pytest.raises(PlanningError, match=r"--planner-option network=NAME"):
        external.plan(VOLUMES, Budget())
    with pytest.raises(PlanningError, match=r"no measurement of the network 'small:deep'"):
        external.plan(VOLUMES, budget())
    assert external.external_networks(budget()) == (("small:deep", {"width": "8"}),)
