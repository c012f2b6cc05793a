"""The rules of planning, one module for each subject, with constants, reasons and sources.

What a rule decides is a `Decided`.
"""

from typing import Generic, NamedTuple, TypeVar

from autoseg.records.plan import Decision, JsonValue

Value = TypeVar("Value", covariant=True)


class Decided(NamedTuple, Generic[Value]):
    """What a rule decided, with the reason for it, which users read in the plan."""

    value: Value
    reason: str


def as_decision(what: str, decided: Decided[JsonValue]) -> Decision:
    """What a rule decided, under the name that it has in the plan."""
    return Decision(what=what, value=decided.value, reason=decided.reason)
