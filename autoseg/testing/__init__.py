"""Tools for tests: the contracts of planners and of networks, and phantom volumes made by code.

from autoseg.testing import network_violations, planner_violations
assert planner_violations(my_planner) == []
assert network_violations("my-network") == []
"""

from autoseg.testing.fingerprints import synthetic_fingerprint
from autoseg.testing.network_contract import network_violations
from autoseg.testing.phantoms import PHANTOM_LABELS, PhantomCase, make_phantom_case, write_phantom_dataset
from autoseg.testing.planner_contract import planner_violations

__all__ = [
    "PHANTOM_LABELS",
    "PhantomCase",
    "make_phantom_case",
    "network_violations",
    "planner_violations",
    "synthetic_fingerprint",
    "write_phantom_dataset",
]
