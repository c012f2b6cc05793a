"""Networks of the zoo: patches and settings that suit them, from made-up costs."""

import pytest

from autoseg.errors import PlanningError
from autoseg.records.budget import Budget, Overrides
from autoseg.records.external import CostPoint, ExternalNetwork, NetworkCosts
from autoseg.records.zoo import declare_of_zoo
from autoseg.testing import synthetic_fingerprint
from planners import zoo

VOLUMES = synthetic_fingerprint([(3.0, 1.0, 1.0)] * 8, [(37, 169, 138)] * 8)
PICTURES = synthetic_fingerprint([(999.0, 1.0, 1.0)] * 8, [(1, 321, 250)] * 8)


def measured(name, numbers_per_voxel=500):
    points = tuple(
        CostPoint(voxels=n, macs=90 * n, kept_elements=numbers_per_voxel * n, largest_elements=32 * n)
        for n in (10**3, 10**6)
    )
    costs = NetworkCosts(parameters=10**6, operations=50, points=points)
    declaration = declare_of_zoo(name)
    return tuple(
        ExternalNetwork(
            name=name, package="autoseg-med", dimensions=dimensions, declaration=declaration, costs=costs
        )
        for dimensions in declaration.dimensions
    )  # fmt: skip


def plan_network(name, fingerprint=VOLUMES, **budget):
    overrides = Overrides(options={"network": name})
    return zoo.plan(fingerprint, Budget(external_networks=measured(name), overrides=overrides, **budget))


@pytest.mark.parametrize(
    ("name", "divisor"),
    [("SegResNet", 8), ("VNet", 16), ("UNETR", 16), ("SwinUNETR", 32), ("MedNeXt", 16), ("BasicUNetPlusPlus", 16)],
)
def test_patches_are_what_the_network_divides(name, divisor):
    plan = plan_network(f"monai:{name}")
    assert plan.planner == "zoo"
    for configuration in plan.configurations.values():
        assert all(edge % divisor == 0 for edge in configuration.patch_size)
        network = configuration.network
        assert (network.architecture, network.network_name) == ("external", f"monai:{name}")
        assert network.deep_supervision is (name == "MedNeXt")
    assert {"2d", "3d_fullres"} <= set(plan.configurations)


def test_networks_that_take_it_get_the_planned_strides():
    network = plan_network("monai:DynUNet").configurations["3d_fullres"].network
    assert network.strides[:2] == ((1, 1, 1), (1, 2, 2))  # slices of 3 mm are pooled later
    assert network.kernel_sizes[0] == (1, 3, 3)
    assert network.deep_supervision


@pytest.mark.parametrize(("name", "least"), [("smp:PAN/resnet18", 128), ("smp:Unet/tu-hrnet_w18", 32)])
def test_networks_of_two_axes_plan_slices(name, least):
    plan = plan_network(name, memory_gigabytes=0.5)
    assert list(plan.configurations) == ["2d"]
    assert min(plan.configurations["2d"].patch_size) >= least
    assert list(plan_network(name, PICTURES).configurations) == ["2d"]


def test_a_plan_holds_the_name_and_no_code():
    text = plan_network("smp:FPN/resnet18").model_dump_json()
    assert "smp:FPN/resnet18" in text
    assert "import" not in text


def test_without_a_name_all_are_listed():
    for options in ({}, {"network": "monai:Unknown"}, {"network": "smp:PAN/vgg16_bn"}):
        budget = Budget(overrides=Overrides(options=options))
        for refused in (lambda budget=budget: zoo.plan(PICTURES, budget), lambda b=budget: zoo.external_networks(b)):
            with pytest.raises(PlanningError, match=r"(?s)--planner-option network=.*resnet34"):
                refused()


def test_other_options_are_refused():
    budget = Budget(overrides=Overrides(options={"network": "monai:VNet", "width": "2"}))
    with pytest.raises(PlanningError, match=r"width.*no such setting; it has: network"):
        zoo.external_networks(budget)


def test_the_network_is_named_for_the_measurement():
    budget = Budget(overrides=Overrides(options={"network": "monai:VNet"}))
    assert zoo.external_networks(budget) == (("monai:VNet", {}),)
    assert zoo.architectures(budget) == ("external",)
