"""What is wrong with a reference, if the prediction is right: faults that people make, each undone in turn.

Every fault is a change of the reference: a move, a mirror image, labels that change places, voxels peeled off or added
all round, a structure that is taken from the prediction. The one that brings the two label maps closest is the
explanation. Moves and mirror images only change coordinates of the labelled voxels, so no label map is made for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from autoseg.components import label_components
from autoseg.records.case import Spacing
from autoseg.records.dataset import LabelEncoding, foreground_names, indices_by_label
from autoseg.records.sides import find_side_pairs
from autoseg.records.suspects import FaultKind

MIN_GAIN = 0.05
"""Dice, summed over labels, that undoing a fault has to restore."""
MAX_PEELED = 3
"""Largest number of voxels that are peeled off or added all round."""
MAX_RELATIVE_SPACING = 2.0
"""Spacing as a multiple of the smallest beyond which no voxels are peeled off along an axis."""
MIN_PART = 0.1
"""Smallest fraction of a label that a component on one side alone has, to be a structure of its own."""

Mask = NDArray[np.bool_]

Confusion = NDArray[np.int64]
"""Numbers of voxels, (N, N), by label index of the reference (rows) and of the prediction."""


@dataclass(frozen=True)
class LabelFault:
    """A fault of a reference."""

    kind: FaultKind
    words: str
    """What the reference looks like, as a sentence without a full stop."""
    gain: float
    """Dice, summed over labels, that undoing the fault restores."""


@dataclass(frozen=True)
class MapPair:
    """Reference and prediction of a case, and the names that are compared."""

    reference: NDArray[np.int16]
    """Label indices, (Z, Y, X), as the files have them."""
    prediction: NDArray[np.int16]
    """Label indices, (Z, Y, X), on the same grid."""
    encoding: LabelEncoding
    names: Sequence[str]
    """Labels and regions whose Dice is known."""
    spacing: Spacing
    places: tuple[NDArray[np.intp], ...] = field(init=False)
    """Coordinates of labelled voxels of the reference, three arrays (n,)."""
    totals: NDArray[np.int64] = field(init=False)
    """Predicted voxels by label index, (N,)."""

    def __post_init__(self) -> None:
        """Leave ignored voxels out and find the labelled ones."""
        count = len(self.encoding.values)
        ignored = self.reference == count
        if ignored.any():
            object.__setattr__(self, "reference", np.where(ignored, 0, self.reference))
            object.__setattr__(self, "prediction", np.where(ignored, 0, self.prediction))
        object.__setattr__(self, "places", np.nonzero(self.reference))
        object.__setattr__(self, "totals", np.bincount(self.prediction.ravel(), minlength=count))

    @property
    def values(self) -> NDArray[np.int16]:
        """Label indices at `places`, (n,)."""
        return self.reference[self.places]

    def count(self, places: Sequence[NDArray[np.intp]], values: NDArray[np.int16]) -> Confusion:
        """Confusion with a reference that has `values`, (n,), at `places`; places outside the image are left out."""
        count = len(self.totals)
        inside = np.ones(len(values), dtype=bool)
        for axis, size in zip(places, self.prediction.shape, strict=True):
            inside &= (axis >= 0) & (axis < size)
        z, y, x = (axis[inside] for axis in places)
        pairs = values[inside].astype(np.int64) * count + self.prediction[z, y, x]
        confusion = np.bincount(pairs, minlength=count * count).reshape(count, count)
        confusion[0] = self.totals - confusion[1:].sum(axis=0)
        return confusion

    def measure(self, confusion: Confusion) -> NDArray[np.float64]:
        """Dice of every name, (L,); 0 where neither side has it."""
        indices = indices_by_label(self.encoding)
        found = []
        for name in self.names:
            own = list(indices[name])
            both = confusion[np.ix_(own, own)].sum()
            either = confusion[own].sum() + confusion[:, own].sum()
            found.append(2 * both / either if either else 0.0)
        return np.array(found)


def explain_fault(pair: MapPair) -> LabelFault | None:
    """Find the fault of the reference that explains most of the difference; None if none restores enough Dice.

    Working memory is about 40 bytes for every labelled voxel, and what components of one label need.
    """
    confusion = pair.count(pair.places, pair.values)
    before = pair.measure(confusion)
    tried = (*_moves(pair), *_mirror_images(pair), *_swaps(pair, confusion), *_sizes(pair))
    found = [
        LabelFault(
            kind, f"{words}: mean Dice {before.mean():.2f}, undone {after.mean():.2f}", after.sum() - before.sum()
        )
        for kind, words, after in tried
    ]
    found += _structures(pair, before)
    best = max(found, key=lambda fault: fault.gain, default=None)
    return best if best is not None and best.gain >= MIN_GAIN else None


Tried = Iterator[tuple[FaultKind, str, NDArray[np.float64]]]
"""Kind, words, and Dice by name after the fault is undone."""


def _moves(pair: MapPair) -> Tried:
    """A move by the difference of the centres of all labels."""
    predicted = np.nonzero(pair.prediction)
    if not len(pair.values) or not len(predicted[0]):
        return
    offsets = [round(float(there.mean() - here.mean())) for here, there in zip(pair.places, predicted, strict=True)]
    if any(offsets):
        places = [axis + offset for axis, offset in zip(pair.places, offsets, strict=True)]
        offsets_text = ", ".join(str(-offset) for offset in offsets)
        words = f"the reference is shifted by ({offsets_text}) voxels (z, y, x)"
        yield "shifted", words, pair.measure(pair.count(places, pair.values))


def _mirror_images(pair: MapPair) -> Tried:
    for axis, size in enumerate(pair.reference.shape):
        if size > 1:
            places = [size - 1 - own if number == axis else own for number, own in enumerate(pair.places)]
            yield (
                "mirrored",
                f"the reference is mirrored along {'zyx'[axis]}",
                pair.measure(pair.count(places, pair.values)),
            )


def _swaps(pair: MapPair, confusion: Confusion) -> Tried:
    """Labels of the reference under the names that overlap best with the prediction."""
    sizes = confusion.sum(axis=1)[:, None] + confusion.sum(axis=0)[None, :]
    dice = (2 * confusion / np.maximum(sizes, 1))[1:, 1:]
    renamed = {
        int(own) + 1: int(other) + 1
        for own, other in zip(*linear_sum_assignment(dice, maximize=True), strict=True)
        if dice[own, other] > dice[own, own]
    }
    if not renamed:
        return
    after = np.zeros_like(confusion)
    for own, row in enumerate(confusion):
        after[renamed.get(own, own)] += row
    yield "swapped", _describe_renamed(pair.encoding, renamed), pair.measure(after)


def _describe_renamed(encoding: LabelEncoding, renamed: dict[int, int]) -> str:
    names = {indices[0]: name for name, indices in indices_by_label(encoding).items() if len(indices) == 1}
    parts = []
    for own, other in renamed.items():
        first, second = (names.get(index, f"value {encoding.values[index]}") for index in (own, other))
        if renamed.get(other) != own:
            parts.append(f"{first} of the reference is predicted as {second}")
        elif own < other:
            sides = any({first, second} == set(pair) for pair in find_side_pairs(foreground_names(encoding)).pairs)
            parts.append(f"{first} and {second} are swapped" + (", left for right" if sides else ""))
    return "; ".join(parts)


def _sizes(pair: MapPair) -> Tried:
    """Voxels peeled off where the reference has more than the prediction, added where it has fewer."""
    labelled, predicted = len(pair.values), int(pair.totals[1:].sum())
    if not labelled or not predicted:
        return
    box = _box(pair)
    values = pair.reference[box]
    structure = _neighbours(pair)
    for count in range(1, MAX_PEELED + 1):
        if labelled > predicted:
            values = values * ndimage.binary_erosion(values > 0, structure, border_value=1)
            words = f"the reference is larger all round, by about {count} voxel{'s' if count > 1 else ''}"
        else:
            values = np.where(values > 0, values, ndimage.grey_dilation(values, footprint=structure))
            words = f"the reference is smaller all round, by about {count} voxel{'s' if count > 1 else ''}"
        within = np.nonzero(values)
        places = [own + (part.start or 0) for own, part in zip(within, box, strict=True)]
        kind: FaultKind = "larger" if labelled > predicted else "smaller"
        yield kind, words, pair.measure(pair.count(places, values[within]))


def _box(pair: MapPair) -> tuple[slice, ...]:
    """The surroundings of all labelled voxels of the reference."""
    margin = MAX_PEELED + 1
    return tuple(slice(max(0, int(axis.min()) - margin), int(axis.max()) + margin + 1) for axis in pair.places)


def _neighbours(pair: MapPair) -> Mask:
    """Voxels that share a face, along the axes whose voxels are not much longer than others, (3, 3, 3)."""
    structure: Mask = ndimage.generate_binary_structure(3, 1)
    smallest = min(pair.spacing)
    for axis, (size, length) in enumerate(zip(pair.reference.shape, pair.spacing, strict=True)):
        if size == 1 or length > MAX_RELATIVE_SPACING * smallest:
            np.moveaxis(structure, axis, 0)[[0, 2]] = False
    return structure


def _structures(pair: MapPair, before: NDArray[np.float64]) -> list[LabelFault]:
    """Labels, and components of labels, that only one side has."""
    indices = indices_by_label(pair.encoding)
    boxes = ndimage.find_objects(((pair.reference != 0) | (pair.prediction != 0)).astype(np.uint8), 1)
    box = boxes[0] or ()
    found = []
    for name, dice in zip(pair.names, before, strict=True):
        reference, predicted = (np.isin(array[box], indices[name]) for array in (pair.reference, pair.prediction))
        sizes = int(reference.sum()), int(predicted.sum())
        if not max(sizes):
            continue
        both = int((reference & predicted).sum())
        sides: tuple[tuple[FaultKind, Mask, Mask], ...] = (
            ("missing", predicted, reference),
            ("extra", reference, predicted),
        )
        for kind, own, other in sides:
            voxels, place = _largest_alone(own, other)
            if not voxels or voxels < MIN_PART * own.sum():
                continue
            place = tuple(within + part.start for within, part in zip(place, box, strict=True))
            words = _describe_structure(kind, name, voxels, place, is_part=bool(other.any()))
            found.append(LabelFault(kind, words, _dice_without(kind, both, sum(sizes), voxels) - dice))
    return found


def _dice_without(kind: str, both: int, total: int, voxels: int) -> float:
    """Dice once a component is added to the reference, or taken from it where only the reference has it."""
    if kind == "missing":
        return 2 * (both + voxels) / (total + voxels)
    return 2 * both / (total - voxels) if total > voxels else 1.0


def _describe_structure(kind: str, name: str, voxels: int, place: tuple[int, ...], *, is_part: bool) -> str:
    what = f"a component of {name}" if is_part else name
    where = f"{voxels} voxels around ({', '.join(map(str, place))}) (z, y, x)"
    if kind == "missing":
        return f"{what} is missing in the reference: {where} are predicted"
    return f"the reference has {what} that is not predicted: {where}"


def _largest_alone(own: Mask, other: Mask) -> tuple[int, tuple[int, ...]]:
    """Voxels and middle of the largest component of a mask that has no voxel in common with the other mask."""
    if not own.any():
        return 0, ()
    numbered = label_components(own)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    sizes[np.unique(numbered[other])] = 0
    largest = int(sizes.argmax())
    if not sizes[largest]:
        return 0, ()
    return int(sizes[largest]), tuple(int(axis.mean()) for axis in np.nonzero(numbered == largest))
