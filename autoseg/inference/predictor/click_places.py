"""Where clicks are: from a user's indices or mm to voxels of the image, and on to the grid of a network.

Tested in tests/stages/test_correct.py.
"""

from collections.abc import Sequence

import numpy as np

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.clicks import PlacedClick
from autoseg.records.case import Grid, Orientation, PreprocessedCase, Triple
from autoseg.records.clicks import Click
from autoseg.records.dataset import BACKGROUND, LabelEncoding


def place_clicks(clicks: Sequence[Click], grid: Grid, encoding: LabelEncoding) -> list[PlacedClick]:
    """Label index and voxel (z, y, x) of each click.

    Args:
        clicks: Clicks of a user.
        grid: The image's own grid.
        encoding: Labels that may be clicked: by name, or by value in label maps.

    Raises:
        PredictionError: If a label is unknown, or a click is outside the image; it names the click by its number.
    """
    return [
        PlacedClick(_find_index(click, encoding, f"click {number}"), _find_voxel(click, grid, f"click {number}"))
        for number, click in enumerate(clicks, start=1)
    ]


def _find_index(click: Click, encoding: LabelEncoding, shown: str) -> int:
    names = {BACKGROUND: 0} | {head.name: head.painted_index for head in encoding.heads}
    if click.label in names:
        return names[click.label]
    if click.label in encoding.values:
        return encoding.values.index(click.label)
    values = ", ".join(map(str, encoding.values))
    raise PredictionError(
        f"{shown}: its label is {click.label!r}, expected one of {', '.join(names)}, or a value of label maps: {values}"
    )


def _find_voxel(click: Click, grid: Grid, shown: str) -> Triple:
    if click.x_mm is not None:
        point = np.array([click.x_mm, click.y_mm, click.z_mm, 1.0])
        z, y, x = (int(place) for place in np.rint(np.linalg.solve(np.array(grid.affine), point)[:3]))
        found = f"x_mm {click.x_mm:g}, y_mm {click.y_mm:g}, z_mm {click.z_mm:g} is voxel x {x}, y {y}, z {z}"
    else:
        if click.z is None and grid.shape[0] != 1:
            raise PredictionError(f"{shown}: z is missing; the image has {grid.shape[0]} slices, so name one of them")
        z, y, x = click.z or 0, click.y or 0, click.x or 0
        found = f"it is at voxel x {x}, y {y}, z {z}"
    if not all(0 <= place < size for place, size in zip((z, y, x), grid.shape, strict=True)):
        last = [size - 1 for size in reversed(grid.shape)]
        raise PredictionError(
            f"{shown} is outside the image: {found}, expected x 0 to {last[0]}, y 0 to {last[1]}, z 0 to {last[2]}"
        )
    return z, y, x


def position_on_grid(
    position: Sequence[int], orientation: Orientation, shape: Sequence[int], record: PreprocessedCase
) -> Triple:
    """The voxel of a network's grid that holds a voxel of the image, or is next to it where that was cropped away.

    Args:
        position: Voxel in stored order.
        orientation: Way from stored to working axes.
        shape: Shape of the working array.
        record: What preprocessing did.
    """
    working = [
        size - 1 - position[axis] if is_flipped else position[axis]
        for axis, is_flipped, size in zip(orientation.axes, orientation.flips, shape, strict=True)
    ]
    places = []
    for axis, start, stop, size in zip(
        record.transpose, record.crop_start, record.crop_stop, record.shape, strict=True
    ):
        inside = min(max(working[axis], start), stop - 1) - start
        places.append(min(int((inside + 0.5) * size / (stop - start)), size - 1))
    return places[0], places[1], places[2]
