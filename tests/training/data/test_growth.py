"""Which patch a batch has while patches grow, and how batches of different patches follow each other."""

from itertools import islice

import pytest

from autoseg.records.training import GrowingPatch, TrainingSpec
from autoseg.training.data.growth import find_growing_patch, join_batches, own_patch_fraction

SMALL = GrowingPatch(patch_size=(4, 8), batch_size=4, until=0.25)
MIDDLE = GrowingPatch(patch_size=(8, 8), batch_size=3, until=0.5)
TRAINING = TrainingSpec(mirror_axes=(), batch_dice=False, growing_patches=(SMALL, MIDDLE))


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, SMALL), (0.2499, SMALL), (0.25, MIDDLE), (0.4999, MIDDLE), (0.5, None), (1.0, None)],
)
def test_a_patch_is_taken_until_its_progress_is_reached(progress, expected):
    assert find_growing_patch(TRAINING, progress) == expected


def test_the_rest_of_the_training_takes_the_own_patch():
    assert own_patch_fraction(TRAINING) == 0.5
    assert own_patch_fraction(TRAINING.model_copy(update={"growing_patches": ()})) == 1.0


def choose(number):
    return find_growing_patch(TRAINING, number / 8)


def follow(opened, first):
    """Batches as (patch, number), and a list of which loaders were opened and closed."""

    def open_batches(growing, number):
        opened.append(("opened", growing, number))
        try:
            while True:
                yield (growing, number)
                number += 1
        finally:
            opened.append(("closed", growing, number))

    return join_batches(choose, open_batches, first)


def test_every_number_comes_once_with_its_own_patch():
    opened: list[tuple[str, GrowingPatch | None, int]] = []
    batches = follow(opened, 0)
    assert list(islice(batches, 7)) == [(choose(number), number) for number in range(7)]
    assert [entry for entry in opened if entry[0] == "opened"] == [
        ("opened", SMALL, 0), ("opened", MIDDLE, 2), ("opened", None, 4),
    ]  # fmt: skip
    assert ("closed", SMALL, 1) in opened  # before the next one takes its memory
    batches.close()
    assert opened[-1] == ("closed", None, 6)


@pytest.mark.parametrize("first", range(7))
def test_a_resumed_training_gets_the_same_batches(first):
    assert list(islice(follow([], first), 3)) == list(islice(follow([], 0), first, first + 3))
