"""Worst, median and best validation cases: slices with contours of reference and prediction, and a stack to scroll."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autoseg.errors import ImageFileError
from autoseg.imaging.arrays.display import (
    Window,
    box_around,
    describe_slice,
    display_grey,
    display_image,
    through_plane_axis,
)
from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.reading import read_image, read_label_map, split_ending
from autoseg.imaging.formats.volume import canonical_orientation, grid_difference, orient_array, orient_grid
from autoseg.metrics.summary import case_dice
from autoseg.records.case import Spacing
from autoseg.records.dataset import CaseFiles, DatasetDescription, LabelEncoding
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.report.charts.slices import (
    QUALITY,
    Outline,
    SliceImage,
    make_slice,
    trace_labels,
)
from autoseg.report.page.validation import PooledFolds

MAX_STACKED = 48
"""Slices of a stack; of more, evenly spaced ones are shown."""
MAX_STACK_CHARACTERS = 600_000
"""Characters of the contours of a stack; with more, slices are left out."""
STACK_EDGE = 224
"""Pixels of the longer edge of the slices of a stack."""
MAX_SHOWN_LABELS = 6
"""Labels whose Dice is shown above the images of a case, the lowest first."""


@dataclass(frozen=True)
class Stack:
    """Slices of a case in one image, one above the other, and their contours: the slider of the page scrolls them."""

    image: SliceImage
    """The slice that is shown first; its source is the image with all slices."""
    count: int
    """Number of slices."""
    first: int
    """Position of the slice that is shown first."""
    names: tuple[str, ...]
    """Orientation and number of each slice."""
    outlines: tuple[tuple[tuple[Outline, ...], tuple[Outline, ...]], ...]
    """Contours of reference and prediction, by slice."""


@dataclass(frozen=True)
class CaseCard:
    """One case with its images."""

    rank: str
    """Position among the cases, such as `second worst`."""
    case: str
    """Case id."""
    dice: str
    """Mean Dice over labels; empty without a reference."""
    labels: tuple[tuple[str, str], ...]
    """Name and Dice of the lowest labels."""
    stack: Stack | None
    """None for 2D images."""
    images: tuple[SliceImage, ...]
    """Slices through the middle of the foreground."""
    words: str = ""
    """What there is to see."""


@dataclass(frozen=True)
class _Volumes:
    """A case in working orientation."""

    image: NDArray[np.float32]
    """Intensities, (C, Z, Y, X)."""
    reference: NDArray[np.int16]
    """Label indices, (Z, Y, X)."""
    prediction: NDArray[np.int16]
    """Label indices, (Z, Y, X)."""
    spacing: Spacing
    contours: str = "reference solid, prediction dashed"
    """What the contours are, for screen readers."""
    first: str = "most disagreement"
    """What the slice shows that a stack begins with: where reference and prediction differ most."""


def choose_cases(evaluation: Evaluation) -> list[tuple[str, CaseScores]]:
    """The three worst cases, the median and the best by mean Dice, each once with its rank; unscored cases never."""
    scored = [(dice, case) for case in evaluation.cases if (dice := case_dice(case)) is not None]
    ranked = [case for _, case in sorted(scored, key=lambda pair: (pair[0], pair[1].case))]
    last = len(ranked) - 1
    names = {2: "third worst", 1: "second worst", len(ranked) // 2: "median", last: "best", 0: "worst"}
    return [(names[rank], ranked[rank]) for rank in sorted(names) if 0 <= rank <= last]


def show_validation_cases(
    validation: PooledFolds, description: DatasetDescription, folder: Path, window: Window | None = None
) -> tuple[list[CaseCard], list[str]]:
    """Cards of the worst, median and best cases; see `show_cases`."""
    return show_cases(choose_cases(validation.evaluation), validation, description, folder, window)


def show_cases(
    chosen: Sequence[tuple[str, CaseScores]],
    validation: PooledFolds,
    description: DatasetDescription,
    folder: Path,
    window: Window | None = None,
) -> tuple[list[CaseCard], list[str]]:
    """Cards of validation cases, read one at a time, and a sentence for each that cannot be shown.

    Args:
        chosen: Rank and scores of each case.
        validation: Validated folds of the configuration to show.
        description: Dataset with the files of its cases.
        folder: Folder of the dataset.
        window: Range of the first channel's intensities that is shown; None: the percentiles of each slice.
    """
    files = {case.case: case for case in description.cases}
    cards, notes = [], []
    for rank, scores in chosen:
        prediction = _find_label_map(validation.folders[scores.case], scores.case)
        if prediction is None or scores.case not in files:
            notes.append(f"{scores.case} cannot be shown: its predicted label map or its image is missing.")
            continue
        try:
            volumes = _read(folder, files[scores.case], prediction, description.encoding)
        except (ImageFileError, ValueError) as error:
            notes.append(f"{scores.case} cannot be shown: {error}")
        else:
            cards.append(_with_dice(_make_card(rank, scores.case, volumes, window), scores))
    return cards, notes


def show_prediction(
    rank: str, case: str, images: Sequence[Path], label_map: Path, encoding: LabelEncoding, window: Window | None
) -> CaseCard:
    """Card of a case without a reference.

    Args:
        rank: Position among the cases.
        case: Case id.
        images: Image files, one per channel.
        label_map: The predicted label map.
        encoding: Label encoding of the model.
        window: Range of the first channel's intensities that is shown; None: the percentiles of each slice.

    Raises:
        ImageFileError: If a file cannot be read, or the label map is not on the grid of the image.
    """
    image = read_image(images)
    predicted = read_label_map(label_map)
    difference = grid_difference(predicted.grid, image.grid)
    if difference is not None:
        raise ImageFileError(f"{label_map}: not on the grid of the image: {difference}")
    orientation = canonical_orientation(image.grid)
    labels = encode_label_map(orient_array(predicted.array[0], orientation), encoding)
    spacing = orient_grid(image.grid, orientation).spacing
    volumes = _Volumes(
        orient_array(image.array, orientation), np.zeros_like(labels), labels, spacing, "prediction", "largest area"
    )
    return _make_card(rank, case, volumes, window)


def _with_dice(card: CaseCard, scores: CaseScores) -> CaseCard:
    """The card with the mean Dice and that of the lowest labels."""
    dice = sorted((one.dice, name) for name, one in scores.labels.items() if one.dice is not None)
    labels = tuple((name, f"{value:.3f}") for value, name in dice[:MAX_SHOWN_LABELS]) if len(scores.labels) > 1 else ()
    return replace(card, dice=f"{case_dice(scores):.3f}", labels=labels)


def _find_label_map(folder: Path, case: str) -> Path | None:
    candidates = (path for path in sorted(folder.glob("*")) if path.suffix != ".json")
    return next((path for path in candidates if split_ending(path.name)[0] == case), None)


def _read(folder: Path, files: CaseFiles, prediction: Path, encoding: LabelEncoding) -> _Volumes:
    image = read_image([folder / name for name in files.images])
    maps = [read_reference(folder, files, encoding), read_label_map(prediction)]
    for label_map in maps:
        difference = grid_difference(label_map.grid, image.grid)
        if difference is not None:
            raise ImageFileError(f"{label_map.path}: not on the grid of the image: {difference}")
    orientation = canonical_orientation(image.grid)
    reference, predicted = (
        encode_label_map(orient_array(label_map.array[0], orientation), encoding) for label_map in maps
    )
    reference[reference == len(encoding.values)] = 0  # ignored voxels have no contour
    spacing = orient_grid(image.grid, orientation).spacing
    return _Volumes(orient_array(image.array, orientation), reference, predicted, spacing)


def _make_card(rank: str, case: str, volumes: _Volumes, window: Window | None) -> CaseCard:
    box, middle = box_around((volumes.reference != 0) | (volumes.prediction != 0))
    cut = replace(
        volumes,
        image=volumes.image[(slice(None), *box)],
        reference=volumes.reference[box],
        prediction=volumes.prediction[box],
    )
    offsets = [part.start or 0 for part in box]
    within = [place - offset for place, offset in zip(middle, offsets, strict=True)]
    shape = volumes.reference.shape
    axis = through_plane_axis(shape, volumes.spacing)
    disagreement = np.count_nonzero(cut.reference != cut.prediction, axis=tuple(a for a in range(3) if a != axis))
    most = int(disagreement.argmax()) if disagreement.any() else within[axis]
    title = f"{case}, {rank}"
    stack, images = None, []
    if shape[axis] > 1:
        stack = _make_stack(title, cut, axis, most, (offsets[axis], shape[axis]), window)
        planes = [axis, *(other for other in range(3) if other != axis)]
    else:
        planes = [axis]
    for plane in planes:
        place = describe_slice(plane, offsets[plane] + within[plane], shape[plane])
        words = "" if shape[axis] == 1 else f"middle: {place}"
        images.append(_cut_plane(words, f"{title}: {words or place}", cut, plane, within[plane], window))
    return CaseCard(rank, case, "", (), stack, tuple(images))


def _cut_plane(
    caption: str, description: str, volumes: _Volumes, axis: int, place: int, window: Window | None
) -> SliceImage:
    image, reference, prediction = _plane(volumes, axis, place)
    return make_slice(
        caption,
        f"{description}; {volumes.contours}",
        display_image(image, in_colour=volumes.reference.shape[axis] == 1, window=window),
        reference,
        prediction,
        _pixel_aspect(volumes.spacing, axis),
    )


def _make_stack(
    title: str, volumes: _Volumes, axis: int, first: int, place: tuple[int, int], window: Window | None
) -> Stack:
    """All slices along an axis with one grey range; `place`: start of the cut, size of the image."""
    count = volumes.reference.shape[axis]
    chosen = sorted({first, *(round(position) for position in np.linspace(0, count - 1, min(count, MAX_STACKED - 1)))})
    traced = {
        position: tuple(trace_labels(labels) for labels in _plane(volumes, axis, position)[1:]) for position in chosen
    }
    characters = sum(len(outline.path) for both in traced.values() for labels in both for outline in labels)
    thinned = chosen[:: -(-characters // MAX_STACK_CHARACTERS) or 1]
    chosen = sorted({first, *thinned})
    grey = display_grey(np.stack([_plane(volumes, axis, position)[0][0] for position in chosen]), window)
    height, width = _plane(volumes, axis, first)[1].shape
    outlines = tuple((reference, prediction) for reference, prediction in (traced[position] for position in chosen))
    shown = chosen.index(first)
    image = SliceImage(
        caption=volumes.first,
        description=f"{title}: all slices, the one with the {volumes.first} first; {volumes.contours}",
        source=_encode_strip(grey),
        width=width,
        height=height,
        aspect=width / (height * _pixel_aspect(volumes.spacing, axis)),
        reference=outlines[shown][0],
        prediction=outlines[shown][1],
    )
    names = tuple(describe_slice(axis, place[0] + position, place[1]) for position in chosen)
    return Stack(image, len(chosen), shown, names, outlines)


def _encode_strip(slices: NDArray[np.float32]) -> str:
    """Slices (N, Y, X) one above the other, each reduced to STACK_EDGE, as a WebP data URL."""
    shrunk = []
    for values in slices:
        reduced = Image.fromarray(np.round(values * 255).astype(np.uint8))
        reduced.thumbnail((STACK_EDGE, STACK_EDGE), Image.Resampling.BOX)
        shrunk.append(np.asarray(reduced))
    buffer = BytesIO()
    Image.fromarray(np.concatenate(shrunk)).save(buffer, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode("ascii")


def _plane(
    volumes: _Volumes, axis: int, place: int
) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.int16]]:
    """Image (C, rows, columns), reference and prediction (rows, columns) of one slice; superior is up."""
    up = slice(None, None, -1 if axis > 0 else 1)  # the z axis runs upwards, rows run downwards
    image = np.take(volumes.image, place, axis=1 + axis)[:, up]
    return image, np.take(volumes.reference, place, axis=axis)[up], np.take(volumes.prediction, place, axis=axis)[up]


def _pixel_aspect(spacing: Sequence[float], axis: int) -> float:
    rows, columns = (other for other in range(3) if other != axis)
    return spacing[rows] / spacing[columns]
