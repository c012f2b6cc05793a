"""Post-processing of a finished label map: the steps of a recipe, as data."""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.records.dataset import LabelValues
from autoseg.records.files import Record

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
