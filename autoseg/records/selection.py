"""The recipe that prediction follows when nothing else is asked for."""

from typing import Literal

from autoseg.records.files import Record


class KeepLargestComponent(Record):
    """Keep only the largest connected component(s) of the union of some labels; equal sizes are all kept."""

    operation: Literal["keep_largest_component"] = "keep_largest_component"
    labels: tuple[str, ...]
    """Names whose union is looked at; what is removed becomes background."""


class Candidate(Record):
    """One thing that could have been selected, and its cross-validated score."""

    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    num_cases: int
    mean_foreground_dice: float | None


class Selection(Record):
    """What was chosen, and why."""

    schema_version: Literal[1] = 1
    configurations: tuple[str, ...]
    """One, or several whose probabilities are averaged."""
    folds: tuple[str, ...]
    postprocessing: tuple[KeepLargestComponent, ...] = ()
    mean_foreground_dice: float | None
    """Cross-validated, after post-processing."""
    candidates: tuple[Candidate, ...]
    reasons: tuple[str, ...]
