"""The entry points of the zoo, without the libraries. With them: scripts/check_zoo."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from autoseg.errors import UsageError
from autoseg.networks.zoo import provider
from autoseg.records.external import CostPoint, NetworkCosts
from autoseg.records.network import NetworkSpec
from autoseg.records.zoo import MONAI, SMP

COSTS = NetworkCosts(
    parameters=1, operations=1, points=(CostPoint(voxels=1, macs=0, kept_elements=0, largest_elements=1),)
)


def spec_of(name: str) -> NetworkSpec:
    return NetworkSpec(
        architecture="external", dimensions=2, input_channels=1, output_channels=2, features=(8, 16),
        strides=((1, 1), (8, 8)), kernel_sizes=((3, 3),) * 2, encoder_blocks=(1, 1), decoder_blocks=(1,),
        network_name=name, network_package="autoseg-med monai", costs=COSTS,
    )  # fmt: skip


@pytest.fixture
def libraries(monkeypatch):
    """What is installed, as far as the zoo can see."""
    installed = {"monai", "einops", "segmentation_models_pytorch"}
    monkeypatch.setattr(provider, "find_spec", lambda name: object() if name in installed else None)
    return installed


def test_both_libraries_are_entry_points():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["autoseg.networks"]
    for library in (MONAI, SMP):
        module, function = entries[library].split(":")
        assert getattr(import_module(module), function) is provider.build
    assert {"monai", "segmentation-models-pytorch", "timm", "torchvision"} <= {
        requirement.split("[")[0].split(">")[0] for requirement in project["optional-dependencies"]["zoo"]
    }


def test_a_network_says_what_it_takes(libraries):
    assert provider.declare("monai:SegResNet", {}).divisors == (8, 8, 8)
    assert provider.declare("monai:DynUNet", {}).divisors is None
    assert provider.declare("smp:PAN/resnet18", {}).divisors == (1, 128, 128)


def test_settings_are_refused(libraries):
    with pytest.raises(ValueError, match="no settings, but was given width"):
        provider.declare("monai:SegResNet", {"width": "3"})


@pytest.mark.parametrize(
    ("name", "missing"), [("monai:SegResNet", "einops"), ("smp:Unet/resnet18", "segmentation_models_pytorch")]
)
def test_a_missing_library_is_named_with_the_command(libraries, name, missing):
    libraries.remove(missing)
    for use in (lambda: provider.declare(name, {}), lambda: provider.build(spec_of(name))):
        with pytest.raises(UsageError, match=rf"{name}' needs what is not installed here: {missing}\. .*\[zoo\]"):
            use()


def test_an_unknown_name_is_refused_before_what_is_installed(libraries):
    libraries.clear()
    with pytest.raises(ValueError, match="the zoo has no"):
        provider.declare("monai:Unknown", {})
