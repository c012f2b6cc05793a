"""Clicks by which a user corrects a label map, as files hold them; how far a click reaches, as plans hold it.

Tested in tests/records/test_clicks.py.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from autoseg.records.files import Record, refuse_faults


class ClickSettings(Record):
    """How clicks become channels of a network's input."""

    reach_mm: PositiveFloat
    """Geodesic distance from a click, mm, at which its channel has fallen from 1 to 0; beyond it nothing changes."""
    edge_weight: NonNegativeFloat = 1.0
    """What a place costs that has the mean gradient of the click's surroundings, in mm for each mm, besides the way
    itself; 0 makes distances those of a ruler."""


class Click(Record):
    """One voxel, and the label that it should have: by indices of the voxel, or by a point in mm."""

    label: str | NonNegativeInt
    """Name of a label, or its value in label maps; `background` for none."""
    x: int | None = None
    """Index along the first axis of the file, which is the last one of an array (Z, Y, X)."""
    y: int | None = None
    z: int | None = None
    """None for images with a single slice."""
    x_mm: float | None = None
    """World coordinate, mm to the right; those that follow are to the front and to the head, as NIfTI's affine has
    them."""
    y_mm: float | None = None
    z_mm: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        in_voxels = [value is not None for value in (self.x, self.y)]
        in_mm = [value is not None for value in (self.x_mm, self.y_mm, self.z_mm)]
        has_voxels, has_mm = any(in_voxels) or self.z is not None, any(in_mm)
        if has_voxels == has_mm or not (all(in_voxels) or all(in_mm)):
            found = ", ".join(name for name, value in self if name != "label" and value is not None) or "nothing"
            refuse_faults([((), f"the place is given by {found}, expected x, y, z (voxels) or x_mm, y_mm, z_mm")])
        return self


class CaseClicks(Record):
    """The file of `autoseg predict --clicks`."""

    advice: ClassVar[str] = "Fix the fields listed above in the file of clicks, and run the command again."

    schema_version: Literal[1] = 1
    cases: dict[str, tuple[Click, ...]] = Field(min_length=1)
    """Clicks by case id, in the order in which they were made: of several in one voxel the last one counts."""
