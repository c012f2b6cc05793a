"""The recipe that prediction follows by default: post-processing steps, refinement, and the selection that has them.

Tested in tests/records/test_selection.py, tests/selection/test_refinement.py and tests/stages/test_select.py.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from autoseg.records.confidence import Confidence
from autoseg.records.contrast import Adaptation
from autoseg.records.dataset import LabelValues
from autoseg.records.files import Record, refuse_faults
from autoseg.records.names import FileName
from autoseg.records.network import NetworkSpec

Names = tuple[str, ...]
"""Names of one configuration, or of two whose probabilities are averaged."""

MemberWeights = Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(max_length=2)]
"""Parts of the mean of probabilities, in the order of two configurations; their sum is 1. Empty: equal parts."""

Interval = tuple[float, float]
"""Lower and upper bound; 95 % of bootstrap samples of the cases lie between them."""

LabelDecision = Literal["argmax", "expected-dice"]
"""How labels follow from probabilities. argmax: the most probable label; regions where they exceed their threshold.
expected-dice: as many of the most probable voxels of each label as maximise its expected Dice in the case."""

Positives = tuple[PositiveInt, PositiveInt, PositiveInt]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
LabelNames = Annotated[tuple[str, ...], Field(min_length=1)]


class KeepLargestComponent(Record):
    """Keep only the largest connected component(s) of the union of some labels; equal sizes are all kept."""

    operation: Literal["keep_largest_component"] = "keep_largest_component"
    labels: LabelNames
    """Names of the labels of the union; removed voxels become background."""


class RemoveSmallComponents(Record):
    """Remove connected components of the union of some labels that are smaller than a volume."""

    operation: Literal["remove_small_components"] = "remove_small_components"
    labels: LabelNames
    """Names of the labels of the union; removed voxels become background."""
    min_volume_mm3: Annotated[float, Field(gt=0.0)]
    """A component of exactly this volume is kept. Files of two axes have no thickness: mm², and pixels if a
    2D image has no spacing."""


class FillHoles(Record):
    """Fill the background that one label or region encloses."""

    operation: Literal["fill_holes"] = "fill_holes"
    label: str
    """Name of the label or region; holes of a region get the value that it is written with."""


PostprocessingStep = Annotated[
    KeepLargestComponent | RemoveSmallComponents | FillHoles, Field(discriminator="operation")
]


class PostprocessingRecipe(Record):
    """Steps and the values of their labels, so that they can be applied to label maps without a model."""

    schema_version: Literal[1] = 1
    labels: dict[str, LabelValues]
    """Name -> value, or all values of a region, in the files; `background` and `ignore` as in a dataset."""
    regions_class_order: tuple[int, ...] | None = None
    """With regions: the value that each is written with, in the order of `labels`."""
    steps: tuple[PostprocessingStep, ...]
    """Steps in the order in which they are applied."""


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


class Candidate(Record):
    """A configuration or ensemble that can be selected, with its cross-validated score."""

    configurations: tuple[FileName, ...]
    """Name of one configuration, or of a pair whose probabilities are averaged."""
    member_weights: MemberWeights = Field(default=(), exclude_if=lambda value: value == ())
    folds: tuple[FileName, ...]
    num_cases: int
    mean_foreground_dice: float | None
    interval: Interval | None = None
    """Interval of the mean foreground Dice; None: not known."""
    relative_cost: float | None = None
    """Multiply-accumulates of predicting a typical case with one fold, relative to the cheapest candidate."""


class EnsembleOrigin(Record):
    """The JSON beside validation label maps of an ensemble: the weights and cases that they were made from."""

    schema_version: Literal[1] = 1
    configurations: tuple[FileName, ...]
    fold: FileName
    origin: str
    """Hash of the weights of all members and cascade steps, and of the cases."""


class ThresholdSweep(Record):
    """Result of a sweep over the thresholds of regions; stored, so that it is not repeated for the same weights."""

    schema_version: Literal[1] = 1
    origin: str
    """Hash of the weights and of the sweep's settings."""
    finished: bool
    """False: the sweep was begun and not completed."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    reasons: tuple[str, ...] = ()


def is_mean(weights: MemberWeights, configurations: Names) -> bool:
    """Whether weights belong to that many configurations, and add up to 1 but for rounding."""
    return len(weights) == len(configurations) and abs(sum(weights) - 1) < 1e-6


class Selection(Record):
    """The chosen recipe, with scores and reasons."""

    schema_version: Literal[1] = 1
    configurations: Annotated[tuple[FileName, ...], Field(min_length=1)]
    """Name of one configuration, or of several whose probabilities are averaged."""
    member_weights: MemberWeights = Field(default=(), exclude_if=lambda value: value == ())
    folds: tuple[FileName, ...]
    region_thresholds: dict[str, Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(default_factory=dict)
    """Probability above which a voxel belongs to a region, by region; one half for regions that are not named."""
    decision: LabelDecision = Field(default="argmax", exclude_if=lambda value: value == "argmax")
    """How labels follow from probabilities; thresholds of regions are for argmax alone."""
    adaptation: Adaptation = Field(default="none", exclude_if=lambda value: value == "none")
    """What is done by default to images whose contrast is unlike that of the training images."""
    refinement: Refinement | None = None
    """Boundary refinement, before post-processing; None: no refinement."""
    postprocessing: tuple[PostprocessingStep, ...] = ()
    confidence: Confidence | None = Field(default=None, exclude_if=lambda value: value is None)
    """What held-out cases say of the probabilities; it changes no label map. None: not learnt."""
    mean_foreground_dice: float | None
    """Cross-validated mean foreground Dice after post-processing."""
    interval: Interval | None = None
    """Interval of the mean foreground Dice; None: not known."""
    candidates: tuple[Candidate, ...]
    """The chosen one first, then by score."""
    reasons: tuple[str, ...]
    weights: dict[FileName, dict[FileName, str]] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Hash of the training (`checkpoint.training_hash`) behind each network of the recipe, by configuration and fold,
    cascade steps included; folds that were trained again since have another one. Empty: not known."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.member_weights and not is_mean(self.member_weights, self.configurations):
            what = "weights must be two with the sum 1, for two configurations; leave them out for equal parts"
            refuse_faults([(("member_weights",), what)])
        refuse_faults(
            (
                ("region_thresholds", name),
                "a threshold of its own contradicts the decision expected-dice, which finds thresholds in each case; "
                "leave out one of them",
            )
            for name in (self.region_thresholds if self.decision == "expected-dice" else ())
        )
        return self
