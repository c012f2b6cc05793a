"""What is done to a finished label map: the steps of a recipe, as data."""

from typing import Literal

from autoseg.records.files import Record


class KeepLargestComponent(Record):
    """Keep only the largest connected component(s) of the union of some labels; equal sizes are all kept."""

    operation: Literal["keep_largest_component"] = "keep_largest_component"
    labels: tuple[str, ...]
    """Names whose union is looked at; what is removed becomes background."""


PostprocessingStep = KeepLargestComponent
