"""Tools for tests: the contract of planners, checked on varied synthetic datasets; and phantom volumes made by code.

from autoseg.testing import planner_violations
assert planner_violations(my_planner) == []
"""

from autoseg.testing.fingerprints import synthetic_fingerprint
from autoseg.testing.phantoms import PHANTOM_LABELS, PhantomCase, make_phantom_case, write_phantom_dataset
from autoseg.testing.planner_contract import planner_violations

__all__ = [
    "PHANTOM_LABELS",
    "PhantomCase",
    "make_phantom_case",
    "planner_violations",
    "synthetic_fingerprint",
    "write_phantom_dataset",
]
