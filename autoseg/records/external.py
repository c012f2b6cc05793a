"""What is known of a network of another package: what it declares of itself, and what was counted on it.

Tested in tests/records/test_network.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from autoseg.records.files import Record

Edge = Annotated[int, Field(gt=0, le=2**16)]

Edges = tuple[Edge, Edge, Edge]
"""Voxels, (z, y, x); a network of two dimensions takes the last two."""


class NetworkDeclaration(Record):
    """What a package says of one of its networks, so that patches can be planned without torch."""

    dimensions: tuple[Literal[2, 3], ...] = (2, 3)
    """Numbers of axes that it exists for."""
    divisors: Edges | None = (32, 32, 32)
    """Edges of a patch are multiples of these. None: the network takes the strides and kernels of its `NetworkSpec`,
    which the planner then decides as it does for a U-Net."""
    smallest_patch: Edges = (1, 1, 1)
    """Edges of the smallest patch that it takes."""
    deep_supervision: bool = False
    """Whether in training it gives a list of logits, full resolution first: one for each level of the `NetworkSpec` but
    the lowest, each of the shape of its level."""
    requires: tuple[str, ...] = ()
    """Further distributions that it needs beside its own package, by the names that pip knows, such as `monai`."""


class CostPoint(Record):
    """What a network costs on a patch, counted on the network itself; batch 1, 32 bits."""

    voxels: PositiveInt
    """Voxels of the patch."""
    macs: NonNegativeInt
    """Multiply-accumulates of one forward pass in training."""
    kept_elements: NonNegativeInt
    """Numbers that the forward pass keeps for the backward pass, the input among them; of 32 bits each."""
    largest_elements: PositiveInt
    """Elements of the largest tensor that an operation gives."""


class NetworkCosts(Record):
    """What was counted on a network that cannot be computed from its description."""

    parameters: NonNegativeInt
    operations: PositiveInt
    """Operations of the forward pass."""
    points: Annotated[tuple[CostPoint, ...], Field(min_length=1)]
    """Patches of growing size; costs of others lie on the line through their neighbours."""


class ExternalNetwork(Record):
    """A network of another package, as a planner may use it for some number of axes."""

    name: str
    """Name that the user gave: that of the entry point, and what may follow it after a colon."""
    package: str
    """Distribution that has it."""
    options: dict[str, str] = Field(default_factory=dict)
    """The network's own settings."""
    dimensions: Literal[2, 3]
    declaration: NetworkDeclaration
    costs: NetworkCosts
