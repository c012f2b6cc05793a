"""The sides that a training swaps, of those that its plan knows."""

from autoseg.records.dataset import LabelEncoding
from autoseg.records.partial_labels import swap_codes
from autoseg.records.sides import Sides, SideSwap, find_side_swap
from autoseg.records.training import TrainingSpec


def mirrored_sides(training: TrainingSpec) -> Sides | None:
    """The sides that a training swaps; None where it does not mirror their axis."""
    sides = training.sides
    return sides if sides is not None and sides.axis in training.mirror_axes else None


def find_training_swap(training: TrainingSpec, encoding: LabelEncoding) -> SideSwap | None:
    """The label indices and heads that change places in a training; None where it swaps no sides."""
    sides = mirrored_sides(training)
    swap = None if sides is None else find_side_swap(sides.axis, sides.pairs, encoding)
    return None if swap is None else swap_codes(encoding, swap)
