"""Boundary refinement as data: small networks that predict the surroundings of surfaces again.

Tested in tests/selection/test_refinement.py.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from autoseg.records.files import Record
from autoseg.records.network import NetworkSpec

Positives = tuple[PositiveInt, PositiveInt, PositiveInt]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PatchSettings(Record):
    """Patches along a surface, at the image's own resolution; sizes follow the plan's transpose."""

    size: Positives
    """Patch size in voxels; a 2D refiner has 1 along the first axis."""
    training_distance: Positives
    """Distance of patch centres in training, voxels; they are at least this far apart along at least one axis."""
    prediction_distance: Positives
    """Distance of patch centres at prediction, voxels: at most half the size, so that every surface voxel lies in a
    patch."""


class Refiner(Record):
    """The JSON beside one refiner's weights."""

    schema_version: Literal[1] = 1
    inputs_hash: Hash
    """SHA-256 of everything that decided about the weights: model, cases, settings."""
    weights_hash: Hash
    """SHA-256 of the weights file."""
    num_cases: PositiveInt
    num_patches: PositiveInt
    steps: NonNegativeInt
    seconds: NonNegativeFloat
    loss: NonNegativeFloat
    """Mean training loss over the last tenth of the steps."""


class RefinementScores(Record):
    """Means over labels of their means over cases, by cross-validation."""

    mean_foreground_dice: float | None
    surface_dice: float | None
    hausdorff_95_mm: float | None


class Refinement(Record):
    """Refiners that help; `models/refinement` holds their weights."""

    patches: PatchSettings
    network: NetworkSpec
    refiners: Annotated[tuple[Hash, ...], Field(min_length=1)]
    """SHA-256 of `refiner_<index>.safetensors`, whose probabilities are averaged; each was trained without one group
    of cases."""
    tolerance_mm: PositiveFloat
    """Tolerance of the surface Dice."""
    before: RefinementScores
    after: RefinementScores
