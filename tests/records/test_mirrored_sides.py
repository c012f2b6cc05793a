import pytest

from autoseg.imaging.arrays.labels import make_encoding
from autoseg.records.mirrored_sides import find_training_swap, mirrored_sides
from autoseg.records.sides import Sides
from autoseg.records.training import TrainingSpec

SIDES = Sides(axis=1, pairs=(("left", "right"),))
ENCODING = make_encoding({"background": 0, "left": 1, "right": 2})


@pytest.mark.parametrize(
    ("axes", "sides", "swaps"), [((0, 1), SIDES, True), ((0,), SIDES, False), ((), SIDES, False), ((0, 1), None, False)]
)
def test_sides_are_swapped_where_their_axis_is_mirrored(axes, sides, swaps):
    training = TrainingSpec(mirror_axes=axes, sides=sides, batch_dice=False)
    assert mirrored_sides(training) == (SIDES if swaps else None)
    swap = find_training_swap(training, ENCODING)
    assert (swap and swap.heads) == ((0, 2, 1) if swaps else None)
