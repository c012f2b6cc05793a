"""Boundary refinement as data: small networks that look again at the surface of what was predicted."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from autoseg.records.files import Record
from autoseg.records.network import NetworkSpec

Positives = tuple[PositiveInt, PositiveInt, PositiveInt]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PatchSettings(Record):
    """Patches along a surface, at the image's own resolution; sizes follow the plan's transpose."""

    size: Positives
    """Voxels; a 2D refiner has 1 along the first axis."""
    training_distance: Positives
    """Voxels; centres are at least so far apart along one axis at least."""
    prediction_distance: Positives
    """The same, at prediction: denser, at most half the size, so that every surface voxel lies in a patch."""


class Refiner(Record):
    """The JSON beside one refiner's weights."""

    schema_version: Literal[1] = 1
    inputs_hash: Hash
    """Of all that decided about the weights: model, cases, settings."""
    weights_hash: Hash
    """SHA-256 of the weights file."""
    num_cases: PositiveInt
    num_patches: PositiveInt
    steps: NonNegativeInt
    seconds: NonNegativeFloat
    loss: NonNegativeFloat
    """Mean over the last tenth of the steps."""


class RefinementScores(Record):
    """Means over labels of their means over cases, by cross-validation."""

    mean_foreground_dice: float | None
    surface_dice: float | None
    hausdorff_95_mm: float | None


class Refinement(Record):
    """Refiners that were found to help; `models/refinement` holds their weights."""

    patches: PatchSettings
    network: NetworkSpec
    refiners: Annotated[tuple[Hash, ...], Field(min_length=1)]
    """SHA-256 of `refiner_<index>.safetensors`, whose probabilities are averaged; each was trained without one group
    of cases."""
    tolerance_mm: PositiveFloat
    """Of the surface Dice."""
    before: RefinementScores
    after: RefinementScores
