"""Colour masks: label maps whose labels are colours.

A pixel is the nearest declared colour. Colours that are far from all declared ones are soft edges (anti-aliasing, JPEG)
as long as they lie along edges; where one of them covers an area, or all of them together one that is wider than an
edge, they are structures that nobody declared, and the mask is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.errors import ColorMaskError, ImageFileError
from autoseg.imaging.formats.volume import AnyArray
from autoseg.records.dataset import MaskColor, Rgb

COLOR_TOLERANCE = 48.0
"""Distance of red, green and blue (0 to 255) up to which a colour is that of a label: JPEG changes colours by less."""

MAX_EDGE_PIXELS = 6
"""Width of soft edges: a blur with a standard deviation of 2 pixels, or the colours of JPEG, stored at half size."""

MAX_INNER_FRACTION = 0.05
"""Part of the pixels of soft edges that may have four neighbours of the same kind. Measured on made-up masks: soft
edges and JPEG have at most 0.04, regions of a parcellation and discs with a radius of 3 at least 0.3."""

SOFT_EDGES_NOTE = (
    f"pixels whose colour is further than {COLOR_TOLERANCE:g} (red, green, blue) from every declared one lie along "
    "edges; they count as the nearest declared colour"
)

_MAX_EXACT_COLORS = 32
"""A mask with more colours has noise or soft edges."""

MIN_EXACT_FRACTION = 1e-3
"""Part of all pixels from which on a colour that covers no area, but hardly varies, is named as one of the mask's."""

_MAX_COLORS = 255
"""Number of colours that a mask is searched for."""

_LISTED = 10
"""Number of colours that a message names; it counts the others."""


def values_of_colors(array: AnyArray, colors: Sequence[MaskColor], path: Path) -> tuple[AnyArray, tuple[str, ...]]:
    """Label values of a colour mask, each pixel that of the nearest declared colour.

    Args:
        array: Red, green and blue, (3, Z, Y, X), 8 bits each.
        colors: Declared colours.
        path: File of the mask, for the message.

    Returns:
        Label values, (1, Z, Y, X), and notes: one when there are soft edges.

    Raises:
        ColorMaskError: If colours that are not declared cover areas.
    """
    positions, found, pixels = _unique_colors(array)
    distances = _distances(found, [color.rgb for color in colors])
    is_far = distances.min(axis=1) > COLOR_TOLERANCE
    if is_far.any() and not _are_edges(positions, is_far, pixels):
        undeclared = {
            rgb: count
            for rgb, count in _main_colors(positions, found, pixels).items()
            if min(np.linalg.norm(np.subtract(rgb, color.rgb)) for color in colors) > COLOR_TOLERANCE
        }
        raise ColorMaskError(
            f"{path}: {pixels[is_far].sum()} pixels have colours that are further than {COLOR_TOLERANCE:g} from every "
            f"declared one: {list_colors(undeclared)}. Declare them with --label-colors too",
            undeclared,
        )
    values = np.array([color.value for color in colors], dtype=np.int32)[distances.argmin(axis=1)]
    return values[positions][np.newaxis], (SOFT_EDGES_NOTE,) if is_far.any() else ()


def main_colors(array: AnyArray) -> dict[Rgb, int]:
    """The colours of a mask (3, Z, Y, X) with their numbers of pixels, the most frequent first.

    In a mask of many colours, those within COLOR_TOLERANCE of a more frequent one are counted with it, as noise, and
    those that lie only along edges are left out.
    """
    return _main_colors(*_unique_colors(array))


def list_colors(colors: Mapping[Rgb, int]) -> str:
    """`(255, 0, 0) in 120, (0, 255, 0) in 40`: the first colours with their numbers of pixels, and how many more."""
    shown = ", ".join(f"{rgb} in {count}" for rgb, count in [*colors.items()][:_LISTED])
    return f"{shown} and {len(colors) - _LISTED} more" if len(colors) > _LISTED else shown


def refuse_colors(array: AnyArray, path: Path) -> NoReturn:
    """Say which colours a mask (3, Z, Y, X) has, of which none is declared.

    Raises:
        ColorMaskError: Always.
    """
    colors = main_colors(array)
    raise ColorMaskError(
        f"{path}: the label map is a colour mask. Its {len(colors)} colours (red, green, blue), with their numbers of "
        f"pixels: {list_colors(colors)}. Say which labels they are with --label-colors",
        colors,
    )


def _are_edges(positions: NDArray[np.int64], is_far: NDArray[np.bool_], pixels: NDArray[np.int64]) -> bool:
    """Whether pixels of undeclared colours lie along edges: no colour of its own covers an area, nor do all together.

    Args:
        positions: Index of each pixel's colour, (Z, Y, X).
        is_far: Whether a colour is far from all declared ones, (N,).
        pixels: Number of pixels of each colour, (N,).
    """
    inner = np.bincount(positions[_is_inner(positions)], minlength=len(pixels))
    if (is_far & (inner > MAX_INNER_FRACTION * pixels)).any():
        return False
    size = MAX_EDGE_PIXELS + 1
    return not ndimage.binary_erosion(is_far[positions], np.ones((1, size, size))).any()


def is_thin(mask: NDArray[np.bool_]) -> bool:
    """Whether hardly any voxel of a mask (Z, Y, X) has four neighbours in its plane that belong to it too."""
    return bool(np.count_nonzero(mask & _is_inner(mask)) <= MAX_INNER_FRACTION * np.count_nonzero(mask))


def _is_inner(values: AnyArray) -> NDArray[np.bool_]:
    """Whether a voxel equals its four neighbours in the plane, as far as there are any; (Z, Y, X)."""
    inner = np.ones(values.shape, dtype=np.bool_)
    below = values[:, 1:] == values[:, :-1]
    beside = values[:, :, 1:] == values[:, :, :-1]
    inner[:, 1:] &= below
    inner[:, :-1] &= below
    inner[:, :, 1:] &= beside
    inner[:, :, :-1] &= beside
    return inner


def grey_colors_to_values(array: AnyArray, colors: Sequence[MaskColor], path: Path) -> AnyArray:
    """Label values of a file with one number per pixel, in a dataset of colour masks.

    Numbers that are all label values are that; numbers that are all greys among the declared colours are those colours.

    Args:
        array: Whole numbers, (1, Z, Y, X).
        colors: Declared colours.
        path: File of the numbers, for the message.

    Raises:
        ImageFileError: If the numbers are neither.
    """
    found = set(np.unique(array).tolist())
    if found <= {color.value for color in colors}:
        return array
    by_grey = {color.rgb[0]: color.value for color in colors if len(set(color.rgb)) == 1}
    if not found <= by_grey.keys():
        wrong = ", ".join(map(str, sorted(found - by_grey.keys())[:10]))
        raise ImageFileError(
            f"{path}: has one number per pixel, {wrong} among them, which is neither a label value nor a declared grey "
            "(red, green and blue equal). Declare it with --label-colors, or save the mask in the declared colours."
        )
    values = array.copy()
    for grey, value in by_grey.items():
        values[array == grey] = value
    return values


def _unique_colors(array: AnyArray) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Positions (Z, Y, X) in the list of colours, colours (N, 3), and their numbers of pixels (N,)."""
    red, green, blue = array.astype(np.int32)
    colors, positions, pixels = np.unique(red << 16 | green << 8 | blue, return_inverse=True, return_counts=True)
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1)
    return positions.reshape(array.shape[1:]), rgb, pixels


def _distances(found: NDArray[np.int32], others: Sequence[Rgb]) -> NDArray[np.float64]:
    """Distances (N, M) of colours (N, 3) to M others."""
    squares = [np.square(found - np.array(other, dtype=np.int32)).sum(axis=1) for other in others]
    distances: NDArray[np.float64] = np.sqrt(np.stack(squares, axis=1))
    return distances


def _main_colors(positions: NDArray[np.int64], found: NDArray[np.int32], pixels: NDArray[np.int64]) -> dict[Rgb, int]:
    if len(found) <= _MAX_EXACT_COLORS:
        order = np.argsort(-pixels, kind="stable").tolist()
        return {_rgb(found[index]): int(pixels[index]) for index in order}
    main: dict[Rgb, int] = {}
    left = np.ones(len(found), dtype=np.bool_)
    while left.any() and len(main) < _MAX_COLORS:
        most = int(np.where(left, pixels, 0).argmax())
        near = left & (_distances(found, [_rgb(found[most])])[:, 0] <= COLOR_TOLERANCE)
        left &= ~near
        is_exact = 2 * pixels[most] > pixels[near].sum() >= MIN_EXACT_FRACTION * positions.size
        if is_exact or not is_thin(near[positions]):
            main[_rgb(found[most])] = int(pixels[near].sum())
    return main


def _rgb(color: NDArray[np.int32]) -> Rgb:
    red, green, blue = color.tolist()
    return red, green, blue
