"""What is done to a finished label map: the steps of a recipe, as data."""

from typing import Annotated, Literal

from pydantic import Field

from autoseg.records.dataset import LabelValues
from autoseg.records.files import Record

LabelNames = Annotated[tuple[str, ...], Field(min_length=1)]


class KeepLargestComponent(Record):
    """Keep only the largest connected component(s) of the union of some labels; equal sizes are all kept."""

    operation: Literal["keep_largest_component"] = "keep_largest_component"
    labels: LabelNames
    """Names whose union is looked at; what is removed becomes background."""


class RemoveSmallComponents(Record):
    """Remove connected components of the union of some labels that are smaller than a volume."""

    operation: Literal["remove_small_components"] = "remove_small_components"
    labels: LabelNames
    """Names whose union is looked at; what is removed becomes background."""
    min_volume_mm3: Annotated[float, Field(gt=0.0)]
    """A component of exactly this volume is kept. Files of two axes have no thickness: mm², and pixels where a
    picture has no spacing either."""


class FillHoles(Record):
    """Give one label or region the background that it encloses."""

    operation: Literal["fill_holes"] = "fill_holes"
    label: str
    """Name; a region's holes get the value that it is painted with."""


PostprocessingStep = Annotated[
    KeepLargestComponent | RemoveSmallComponents | FillHoles, Field(discriminator="operation")
]


class PostprocessingRecipe(Record):
    """Steps, and what their names stand for: all that is needed to apply them to label maps, without a model."""

    schema_version: Literal[1] = 1
    labels: dict[str, LabelValues]
    """Name -> value, or all values of a region, in the files; `background` and `ignore` as in a dataset."""
    regions_class_order: tuple[int, ...] | None = None
    """With regions: the value that each is painted with, in the order of `labels`."""
    steps: tuple[PostprocessingStep, ...]
    """Applied in this order."""
