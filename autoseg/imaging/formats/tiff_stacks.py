"""TIFF files of several pages: whether they are the slices of a volume, and how large its voxels are.

The size of voxels comes from ImageJ's description (unit, spacing, and the pages' resolution) or from OME-XML. A stack
without either has none: its voxels count as cubes of 1 mm, with a note, and a label map takes the grid of its image.
"""

import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

from PIL import Image, TiffImagePlugin

from autoseg.errors import ImageFileError
from autoseg.imaging.formats.units import MM_PER_UNIT, refuse_absurd_spacing, short_unit
from autoseg.records.case import Spacing

NO_SIZE_NOTE = (
    "the stack has no voxel size (ImageJ's unit and spacing, or OME-XML): voxels count as cubes of 1 mm; set it in "
    "Fiji with Image > Properties, or save as .nii.gz"
)

NO_DEPTH_NOTE = (
    "the stack has a pixel size, but no distance of slices (spacing); 1 of its unit was taken, as ImageJ does"
)

STACK_ENDINGS = (".tif", ".tiff")

_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION = 270, 282, 283

_OME_DEFAULT_UNIT = "µm"

_OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b(?P<attributes>[^>]*)>")
_OME_ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*["']([^"']*)["']""")


@dataclass(frozen=True)
class StackSize:
    """Size of the voxels of a stack."""

    spacing: Spacing | None
    """Voxel size in mm, (z, y, x); None: the file has none."""
    notes: tuple[str, ...] = ()


def has_pages(path: Path) -> bool:
    """Whether a file is a TIFF of several pages; False for one that cannot be read, which reading reports."""
    if not path.name.lower().endswith(STACK_ENDINGS) or not path.is_file():
        return False
    try:
        with Image.open(path) as picture:
            return int(getattr(picture, "n_frames", 1)) > 1
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return False


def measure_stack(picture: TiffImagePlugin.TiffImageFile, path: Path) -> StackSize:
    """Find the voxel size of an open TIFF of several pages.

    Raises:
        ImageFileError: If the pages are channels or times rather than slices, or the size cannot be meant.
    """
    description = _description(picture)
    if description.startswith("ImageJ="):
        size = _imagej_size(picture, description, path)
    elif "<OME" in description:
        size = _ome_size(description, path)
    else:
        size = StackSize(None, (NO_SIZE_NOTE,))
    if size.spacing is not None:
        try:
            refuse_absurd_spacing(size.spacing, (picture.n_frames, picture.height, picture.width))
        except ValueError as error:
            raise ImageFileError(f"{path}: {error}") from error
    return size


def refuse_missing_pages(picture: TiffImagePlugin.TiffImageFile, path: Path) -> None:
    """Refuse stacks beyond 4 GB as ImageJ saves them: many images, of which the file lists the first only.

    Raises:
        ImageFileError: If the description counts more images than there are pages.
    """
    fields = _imagej_fields(_description(picture))
    if int(fields.get("images", "1")) > picture.n_frames:
        raise ImageFileError(
            f"{path}: ImageJ's description counts {fields['images']} images, but the file lists {picture.n_frames} "
            "page(s). Save the stack as .nrrd or .nii.gz"
        )


def _description(picture: TiffImagePlugin.TiffImageFile) -> str:
    found = picture.tag_v2.get(_DESCRIPTION, "")
    return found if isinstance(found, str) else ""


def _imagej_fields(description: str) -> dict[str, str]:
    if not description.startswith("ImageJ="):
        return {}
    pairs = (line.partition("=") for line in description.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    counts = ("images", "channels", "frames")
    return {key: value for key, value in fields.items() if key not in counts or value.isdecimal()}


def _imagej_size(picture: TiffImagePlugin.TiffImageFile, description: str, path: Path) -> StackSize:
    fields = _imagej_fields(description)
    _refuse_other_axes(int(fields.get("channels", "1")), int(fields.get("frames", "1")), path)
    unit = _unit(fields.get("unit", ""))
    rows, columns = (float(picture.tag_v2.get(tag, 0)) for tag in (_Y_RESOLUTION, _X_RESOLUTION))
    if unit is None or not (rows > 0 and columns > 0):
        return StackSize(None, (NO_SIZE_NOTE,))
    height, width = MM_PER_UNIT[unit] / rows, MM_PER_UNIT[unit] / columns
    depth = _number(fields.get("spacing", ""))
    notes = () if depth is not None else (NO_DEPTH_NOTE,)
    return StackSize(((1.0 if depth is None else abs(depth)) * MM_PER_UNIT[unit], height, width), notes)


def _ome_size(description: str, path: Path) -> StackSize:
    tag = _OME_PIXELS.search(description)
    pixels = {} if tag is None else {key: unescape(value) for key, value in _OME_ATTRIBUTE.findall(tag["attributes"])}
    channels, times = (int(pixels[key]) if pixels.get(key, "").isdecimal() else 1 for key in ("SizeC", "SizeT"))
    _refuse_other_axes(channels, times, path)
    sizes = []
    for axis in "ZYX":
        size = _number(pixels.get(f"PhysicalSize{axis}", ""))
        unit = _unit(pixels.get(f"PhysicalSize{axis}Unit", _OME_DEFAULT_UNIT))
        if size is None or unit is None:
            return StackSize(None, (NO_SIZE_NOTE,))
        sizes.append(size * MM_PER_UNIT[unit])
    return StackSize((sizes[0], sizes[1], sizes[2]))


def _refuse_other_axes(channels: int, times: int, path: Path) -> None:
    if channels > 1 or times > 1:
        raise ImageFileError(
            f"{path}: its pages are {channels} channel(s) and {times} time(s), expected the slices of one volume. Save "
            "each channel and each time as a file of its own (channels as CASE_0000.tif, CASE_0001.tif)"
        )


def _unit(name: str) -> str | None:
    """The short name of a unit; None for one that is not known, such as pixels."""
    plain = re.sub(r"\\u00b5", "µ", name.strip(), flags=re.IGNORECASE)
    short = short_unit(plain.lower())
    return short if short in MM_PER_UNIT else None


def _number(text: str) -> float | None:
    try:
        return float(text) or None
    except ValueError:
        return None
