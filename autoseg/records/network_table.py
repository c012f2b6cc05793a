"""What `autoseg networks` lists: every network that the planners plan, with its cost.

Tested in tests/stages/test_list_networks.py.
"""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from autoseg.records.files import Record
from autoseg.records.network import Sizes
from autoseg.records.plan import Target


class NetworkRow(Record):
    """One choice of a planner, for some number of axes."""

    planner: str
    options: dict[str, str] = Field(default_factory=dict)
    """Planner options that choose it."""
    configuration: str
    network: str
    """Network in words."""
    target: Target = Field(default="labels", exclude_if=lambda value: value == "labels")
    """What it learns."""
    dimensions: Literal[2, 3]
    patch_size: Sizes
    """Voxels, (z, y, x) or (y, x)."""
    batch_size: NonNegativeInt
    parameters: NonNegativeInt
    macs: NonNegativeInt
    """Multiply-accumulates of one forward pass in training, batch 1."""
    training_memory_bytes: NonNegativeInt | None
    """Peak memory of a training step of the batch, estimated."""
    step_seconds: NonNegativeFloat | None = None
    """Measured seconds of a training step of the batch; None: not measured."""
    prediction_seconds: NonNegativeFloat | None = None
    """Measured seconds of predicting one window of the size of the patch; None: not measured."""


class NetworkTable(Record):
    """All choices, cheapest first for each number of axes."""

    schema_version: Literal[1] = 1
    device: str
    """Device that was measured, in words; empty: nothing was."""
    rows: tuple[NetworkRow, ...]
    refused: dict[str, str]
    """Choices that cannot be planned here, and the reason of the planner."""
