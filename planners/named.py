"""Planners of U-Nets that papers have named: each is the planner `unet` with parts of its own.

The names, their parts and papers are in `planners.parts.NAMED_PARTS`; each is an entry point of the group
`autoseg.planners`.

Tested in tests/planners/test_parts.py.
"""

from autoseg.records.budget import Budget
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import Architecture
from autoseg.records.plan import Plan
from planners.composition import compose
from planners.heads import HEAD_OPTIONS
from planners.parts import NAMED_PARTS, PART_NAMES, read_parts
from planners.preset import check_options
from planners.unet import make_preset_of_parts


def architectures(_budget: Budget) -> tuple[Architecture, ...]:
    """Kinds of networks that may be planned for a budget."""
    return ("unet",)


def plan_vnet(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a V-Net: residual blocks in encoder and decoder."""
    return _plan("vnet", fingerprint, budget)


def plan_r2unet(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan an R2U-Net: recurrent residual blocks."""
    return _plan("r2unet", fingerprint, budget)


def plan_multiresunet(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a MultiResUNet: chained convolutions, and residual paths as skips."""
    return _plan("multiresunet", fingerprint, budget)


def plan_nested(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a U-Net++: nested skips."""
    return _plan("unet++", fingerprint, budget)


def plan_attention(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan an attention U-Net: gates on the skips."""
    return _plan("attention-unet", fingerprint, budget)


def plan_squeeze(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a U-Net with squeeze and excitation."""
    return _plan("se-unet", fingerprint, budget)


def plan_nonlocal(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a U-Net with a non-local block at the lowest level."""
    return _plan("nonlocal-unet", fingerprint, budget)


def plan_deeplab(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a U-Net with an atrous pyramid at the lowest level."""
    return _plan("deeplab-unet", fingerprint, budget)


def plan_erfnet(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """Plan a U-Net of factorized residual blocks."""
    return _plan("erfnet", fingerprint, budget)


def _plan(name: str, fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan of a named planner; the options of the parts change those that the name stands for.

    Raises:
        PlanningError: Under the conditions of `planners.unet.plan`.
    """
    options = budget.overrides.options
    check_options(options, ("base_features", *PART_NAMES, *HEAD_OPTIONS), name)
    return compose(make_preset_of_parts(name, read_parts(options, NAMED_PARTS[name]), options), fingerprint, budget)
