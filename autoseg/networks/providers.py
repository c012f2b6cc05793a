"""Networks of other packages, found by the entry-point group `autoseg.networks`; loads no torch itself.

A package adds one by naming the function that builds it:

    [project.entry-points."autoseg.networks"]
    mine = "my_package:build"

`build(spec)` takes a `NetworkSpec` and returns a torch module (B, C, *S) -> logits (B, K, *S). A function
`declare(name, options)` beside it, in the same module, says what patches it takes; both import torch only inside
`build`. One entry point may stand for many networks: of `mine:small` it is given the whole name.
`autoseg.testing.network_violations` checks both.

Tested in tests/networks/test_providers.py.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from autoseg import DISTRIBUTION
from autoseg.entry_points import find_entries, load_function
from autoseg.errors import UsageError
from autoseg.records.external import NetworkDeclaration

GROUP = "autoseg.networks"

SEPARATOR = ":"
"""Between the name of the entry point and what chooses one of its networks."""

# What a builder returns is a torch module; this module does not load torch.
Builder = Callable[..., Any]
"""NetworkSpec -> torch.nn.Module"""


class Provider(NamedTuple):
    """Where a network comes from."""

    package: str
    """Distribution that has the entry point."""
    build: Builder
    declare: Callable[[str, Mapping[str, str]], object]
    """(name, options) -> NetworkDeclaration"""


def network_names() -> tuple[str, ...]:
    """Names of all installed entry points, sorted."""
    return tuple(sorted(find_entries(GROUP)))


def names_of_other_packages() -> tuple[str, ...]:
    """Names of the entry points that autoseg does not have itself, sorted."""
    return tuple(sorted(name for name, packages in find_entries(GROUP).items() if set(packages) != {DISTRIBUTION}))


def find_network(name: str, package: str = "") -> Provider:
    """Load the entry point of a network.

    Args:
        name: Name of the network, whose part before a colon is that of the entry point.
        package: Distributions that a plan says it needs, for the message; empty: not known.

    Raises:
        UsageError: If no package, or more than one, has it, or it cannot be loaded.
    """
    packages = find_entries(GROUP).get(name.partition(SEPARATOR)[0], {})
    if not packages:
        installed = f"installed: {', '.join(network_names()) or 'none'}"
        if package:
            raise UsageError(
                f"The network '{name}' needs {package}, which is not installed here ({installed}). Install it: "
                f"pip install {package}"
            )
        raise UsageError(
            f"No installed package has a network '{name}'; {installed}. Install the package that has it, or give "
            "another name."
        )
    found, build = load_function(f"The network '{name}'", packages, UsageError)
    declare = getattr(sys.modules.get(build.__module__), "declare", _declare_nothing)
    return Provider(found, build, declare)


def declare_network(name: str, options: Mapping[str, str]) -> tuple[str, NetworkDeclaration]:
    """The package of a network, and what it declares of itself.

    Raises:
        UsageError: If the network is not installed, or its package refuses name or options.
    """
    provider = find_network(name)
    try:
        declaration = provider.declare(name, options)
    except (ValueError, TypeError, LookupError) as error:
        raise UsageError(f"The network '{name}' of package '{provider.package}': {error}") from error
    if not isinstance(declaration, NetworkDeclaration):
        raise UsageError(
            f"The network '{name}' of package '{provider.package}': `declare` gives a {type(declaration).__name__}, "
            "expected a NetworkDeclaration. Report this to its maintainers."
        )
    return provider.package, declaration


def _declare_nothing(_name: str, _options: Mapping[str, str]) -> NetworkDeclaration:
    return NetworkDeclaration()
