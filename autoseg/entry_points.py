"""Functions that installed packages offer as entry points, by name; nothing is loaded before it is asked for.

Tested in tests/test_plugins.py and tests/networks/test_providers.py.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autoseg.errors import AutosegError, UsageError


def find_entries(group: str) -> dict[str, dict[str, EntryPoint]]:
    """Entry points of a group by name and package."""
    found: dict[str, dict[str, EntryPoint]] = defaultdict(dict)
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist is not None else "an unnamed package"
        found[entry.name].setdefault(package, entry)
    return found


def load_function(
    what: str, packages: Mapping[str, EntryPoint], failure: type[AutosegError]
) -> tuple[str, Callable[..., Any]]:
    """Load the one entry point of a name.

    Args:
        what: What it is, for messages: "The planner 'unet'".
        packages: Packages that have it, with their entry points; one or more.
        failure: Raised if it cannot be loaded.

    Returns:
        The package, and its function.

    Raises:
        UsageError: If more than one package has it.
        AutosegError: The given failure, if the package cannot be imported, or names something that is not a function.
    """
    if len(packages) > 1:
        raise UsageError(f"{what} is in several packages: {', '.join(sorted(packages))}. Uninstall all but one.")
    [(package, entry)] = packages.items()
    try:
        found = entry.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise failure(
            f"{what} of package '{package}' cannot be loaded from {entry.value}: {error}. Install what is missing, or "
            f"{package} again."
        ) from error
    if not callable(found):
        raise failure(f"{what} of package '{package}': {entry.value} is not a function.")
    function: Callable[..., Any] = found
    return package, function
