"""Units of length in the headers of image files, and voxel sizes that cannot be meant.

Grids are in mm. NIfTI names its unit in `xyzt_units`, NRRD in `space units` or `units`, MetaImage in `DistanceUnits`;
a header without a unit, or with one that is not known, is read as mm. Label maps keep the unit of the image's header.
"""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

DEFAULT_UNIT = "mm"

MM_PER_UNIT = {"mm": 1.0, "um": 1e-3, "nm": 1e-6, "cm": 10.0, "m": 1000.0, "inch": 25.4}
"""Millimetres of each unit that can be read, by its short name."""

MIN_VOXEL_MM = 2e-6
"""Smallest size of a voxel: 2 nm is finer than electron microscopy of tissue."""

MAX_VOXEL_MM = 1000.0
"""Largest size of a voxel along an axis with more than one."""

_NIFTI_UNITS = {1: "m", 2: "mm", 3: "um"}
"""Unit by the lowest three bits of xyzt_units; 0 is no unit."""

_SHORT_NAMES = {
    "millimeter": "mm", "millimetre": "mm", "micron": "um", "micrometer": "um", "micrometre": "um", "µm": "um",
    "μm": "um", "nanometer": "nm", "nanometre": "nm", "centimeter": "cm", "centimetre": "cm", "meter": "m",
    "metre": "m",
}  # fmt: skip

_NRRD_UNITS = re.compile(r'(?:space )?units:\s*(?P<units>"[^"]*"(?:\s+"[^"]*")*)\s*', re.IGNORECASE)
_META_IMAGE_UNIT = re.compile(r"DistanceUnits\s*[=:]\s*(?P<unit>\S+)\s*", re.IGNORECASE)

_MAX_HEADER_LINES = 1000
"""Lines that are searched for a unit; headers in text are a few dozen lines long."""


def nifti_unit(xyzt_units: int, notes: list[str]) -> str:
    """The short name of the unit of space; mm if none is given.

    Args:
        xyzt_units: Field of the header; its upper bits are the unit of time.
        notes: Gets a sentence if the unit is not known.

    References:
        NIfTI-1 data format, xyzt_units.
    """
    code = xyzt_units % 8
    if code and code not in _NIFTI_UNITS:
        notes.append(f"the unit of space in the header (xyzt_units {xyzt_units}) is not known; mm was assumed")
    return _NIFTI_UNITS.get(code, DEFAULT_UNIT)


def text_header_unit(path: Path, notes: list[str]) -> str:
    """The short name of the unit of length in the header of an NRRD or MetaImage file; mm if none is given.

    Args:
        path: A file with a header in text.
        notes: Gets a sentence if the unit is not known.

    Raises:
        ValueError: If the axes have different units of length.

    References:
        Teem's NRRD format, "space units" and "units"; MetaIO, DistanceUnits.
    """
    named = [unit.strip().lower() for unit in _named_units(path)]
    known = {short for unit in named if (short := short_unit(unit)) in MM_PER_UNIT}
    if len(known) > 1:
        raise ValueError(f"the axes have different units ({', '.join(named)}); store all of them in mm")
    if not known and any(unit not in ("", "?", "none") for unit in named):
        notes.append(f"the unit of space in the header ({', '.join(named)}) is not known; mm was assumed")
    return known.pop() if known else DEFAULT_UNIT


def refuse_absurd_spacing(spacing: Sequence[float], shape: Sequence[int]) -> None:
    """Refuse voxels that are smaller than 2 nm, and those larger than 1 m along an axis with more than one voxel.

    Args:
        spacing: Voxel sizes in mm, in the order of `shape`.
        shape: Number of voxels along each axis.

    Raises:
        ValueError: If a voxel size cannot be meant.
    """
    for size, voxels in zip(spacing, shape, strict=True):
        if not size >= MIN_VOXEL_MM or (voxels > 1 and size > MAX_VOXEL_MM):
            sizes = " x ".join(f"{value:g}" for value in spacing)
            raise ValueError(
                f"the header gives voxels of {sizes} mm, expected {MIN_VOXEL_MM:g} to {MAX_VOXEL_MM:g} mm along each "
                "axis. Correct the voxel sizes, or their unit, in the header"
            )


def _named_units(path: Path) -> list[str]:
    with path.open(encoding="latin-1") as file:
        for line in islice(file, _MAX_HEADER_LINES):
            text = line.encode("latin-1").decode("utf-8", errors="replace").strip()
            if not text or text.startswith("ElementDataFile"):
                return []
            if match := _NRRD_UNITS.fullmatch(text):
                return re.findall(r'"([^"]*)"', match["units"])
            if match := _META_IMAGE_UNIT.fullmatch(text):
                return [match["unit"]]
    return []


def short_unit(unit: str) -> str:
    """The short name of a unit of length in small letters, singular or plural; an unknown one stays as it is."""
    return _SHORT_NAMES.get(unit.removesuffix("s"), unit)
