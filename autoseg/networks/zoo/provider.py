"""The entry points `monai` and `smp` of the group `autoseg.networks`; neither torch nor a library until it builds.

Tested in tests/networks/zoo/test_provider.py.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from autoseg.errors import UsageError
from autoseg.records.external import NetworkDeclaration
from autoseg.records.network import NetworkSpec
from autoseg.records.zoo import INSTALLATION, MODULES, MONAI, declare_of_zoo

if TYPE_CHECKING:
    from torch import nn


def declare(name: str, options: Mapping[str, str]) -> NetworkDeclaration:
    """What a network of the zoo takes; see `autoseg.networks.providers`.

    Args:
        name: `monai:NETWORK` or `smp:DECODER/ENCODER`.
        options: Must be empty: the settings are those that suit.

    Raises:
        ValueError: If there is no such name, or an option.
        UsageError: If its library is not installed.
    """
    declaration = declare_of_zoo(name)
    if options:
        raise ValueError(f"it has no settings, but was given {', '.join(sorted(options))}. Leave them out.")
    _check_installed(name)
    return declaration


def build(spec: NetworkSpec) -> "nn.Module":
    """Build a network of the zoo with freshly drawn weights; nothing is fetched from a network.

    Args:
        spec: Its name is `monai:NETWORK` or `smp:DECODER/ENCODER`.

    Raises:
        ValueError: If there is no such name, or the network does not take so many channels.
        UsageError: If its library is not installed.
    """
    declare(spec.network_name, spec.network_options)
    library, _, network = spec.network_name.partition(":")
    if library == MONAI:
        from autoseg.networks.zoo.monai_networks import build_monai

        return build_monai(network, spec)
    from autoseg.networks.zoo.smp_networks import build_smp

    decoder, _, encoder = network.partition("/")
    return build_smp(decoder, encoder, spec)


def _check_installed(name: str) -> None:
    missing = [module for module in MODULES[name.partition(":")[0]] if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"The network '{name}' needs what is not installed here: {', '.join(missing)}. Install it: {INSTALLATION}"
        )
