"""Axes along which a loaded model averages over mirrored images: those of its training, or others on request."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from autoseg.errors import UsageError
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.records.plan import Plan
from autoseg.records.sides import AXIS_LETTERS, find_sided_names, left_right_axes, read_axes

logger = logging.getLogger("autoseg.predict")


def choose_mirroring(
    members: tuple[LoadedConfiguration, ...], plan: Plan, letters: str | None
) -> tuple[LoadedConfiguration, ...]:
    """Networks mirrored along the axes that were asked for; says where mirroring does nothing, or swaps sides.

    Args:
        members: Configurations with their networks.
        plan: Plan of the model.
        letters: Letters of `with_mirror_axes`; None: the axes of the training.

    Raises:
        UsageError: If no patch has one of the axes.
    """
    if letters is None:
        if sentence := describe_mirroring(members):
            logger.info("%s", sentence)
        return members
    members = with_mirror_axes(members, letters)
    if sided := find_swapped_sides(members, plan):
        logger.warning("--mirror-axes swaps left and right, but labels have a side: %s", ", ".join(sided))
    return members


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
    axes = read_axes(letters, member.configuration.network.dimensions)
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
    """Labels with a side that mirroring along the members' axes exchanges with those of the other side.

    Labels that change places with their partners are not among them.
    """
    sided = find_sided_names(plan.labels)
    return tuple(name for name in sided if any(_exchanges(name, member, plan) for member in members))


def _exchanges(name: str, member: LoadedConfiguration, plan: Plan) -> bool:
    dimensions = member.configuration.network.dimensions
    if not set(member.mirror_axes) & set(left_right_axes(plan.transpose, dimensions, plan.orientation)):
        return False
    if member.swap is None:
        return True
    head = next(position for position, head in enumerate(plan.encoding.heads) if name in (head.name, head.part_of))
    return member.swap.heads[head] == head
