"""Axes along which a loaded model averages over mirrored images: those of its training, or others on request."""

from collections.abc import Sequence
from dataclasses import replace

from autoseg.errors import UsageError
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.records.plan import Plan
from autoseg.records.sides import find_sided_names, left_right_axes

AXIS_LETTERS = "zyx"
"""Letters of the axes of a patch; one of two axes has the last two."""


def with_mirror_axes(members: Sequence[LoadedConfiguration], letters: str) -> tuple[LoadedConfiguration, ...]:
    """Networks that are mirrored along other axes than in training, with the cascade steps before them.

    Args:
        members: Configurations with their networks.
        letters: Letters of `AXIS_LETTERS`, of which a patch takes those that it has, or `all`.

    Raises:
        UsageError: If no patch has one of the axes.
    """
    possible = "".join(map(_letters_of, members))
    letters = possible if letters == "all" else letters
    unknown = sorted(set(letters) - set(possible))
    if unknown:
        names = ", ".join(member.name for member in members)
        raise UsageError(f"--mirror-axes: patches of {names} have no axis {unknown[0]}; leave it out")
    return tuple(_mirrored(member, letters) for member in members)


def _mirrored(member: LoadedConfiguration, letters: str) -> LoadedConfiguration:
    axes = tuple(axis for axis, letter in enumerate(_letters_of(member)) if letter in letters)
    previous = None if member.previous is None else _mirrored(member.previous, letters)
    return replace(member, mirror_axes=axes, previous=previous)


def _letters_of(member: LoadedConfiguration) -> str:
    return AXIS_LETTERS[-member.configuration.network.dimensions :]


def describe_mirroring(members: Sequence[LoadedConfiguration]) -> str:
    """One sentence about networks for which mirroring does nothing; empty where all are mirrored."""
    names = [member.name for member in members if not member.mirror_axes]
    if not names:
        return ""
    return (
        f"{', '.join(names)}: not averaged over mirrored images, because the networks were trained without mirroring; "
        "to do so all the same, give --mirror-axes all, or axes such as y,x"
    )


def find_swapped_sides(members: Sequence[LoadedConfiguration], plan: Plan) -> tuple[str, ...]:
    """Labels with a side that mirroring along the members' axes may exchange with those of the other side."""
    swaps = any(
        set(member.mirror_axes)
        & set(left_right_axes(plan.transpose, member.configuration.network.dimensions, plan.orientation))
        for member in members
    )
    return find_sided_names(plan.labels) if swaps else ()
