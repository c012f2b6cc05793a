"""Batch sizes by hand."""

import pytest

from autoseg.errors import PlanningError
from planners.rules.batch_size import cap_batch_size, choose_batch_size, take_batch_size
from planners.rules.patch_size import MemoryReference

REFERENCE = MemoryReference(elements=560e6, batch_size=2)


@pytest.mark.parametrize(
    ("elements", "cases", "batch", "reason"),
    [
        (19_174_400, 260, 9, "room for 58, but a batch covers at most 5%"),
        (19_174_400, 200, 7, "room for 58"),
        (19_174_400, 20, 2, "2 patches at least, although"),
        (310_481_920, 100_000, 4, "As many patches as 8 GB hold"),
    ],
)
def test_memory_data_and_minimum(elements, cases, batch, reason):
    size, why = choose_batch_size(elements, (40, 56, 40), 63_000.0 * cases, 0.05, REFERENCE, 8.0)
    assert size == batch
    assert reason in why


def test_halves_round_to_even():
    assert choose_batch_size(224_000_000, (10, 10, 10), 1e12, 0.05, REFERENCE, 9.0)[0] == 6  # 5.625
    assert choose_batch_size(248_888_889, (10, 10, 10), 1e12, 0.05, REFERENCE, 10.0)[0] == 6  # 5.625
    assert choose_batch_size(280_000_000, (10, 10, 10), 1e12, 0.05, REFERENCE, 5.0)[0] == 2  # 2.5


def test_excessive_batches_are_named():
    assert "far more than useful" in choose_batch_size(650_000, (56, 40), 1e9, 0.05, REFERENCE, 8.0)[1]
    assert "far more than useful" not in choose_batch_size(30_000_000, (40, 56, 40), 1e9, 0.05, REFERENCE, 5.0)[1]


def test_a_planners_cap_says_what_nnunet_would_take():
    free = choose_batch_size(19_174_400, (40, 56, 40), 63_000.0 * 260, 0.05, REFERENCE, 8.0)
    size, why = cap_batch_size(free, 8)
    assert size == 8
    assert why.startswith("nnU-Net's rule gives 9, but more than 8 patches per step")


def test_a_cap_that_is_not_reached_changes_nothing():
    free = choose_batch_size(19_174_400, (40, 56, 40), 63_000.0 * 260, 0.05, REFERENCE, 8.0)
    assert cap_batch_size(free, 9) == free


@pytest.mark.parametrize("asked", [1, 3, 58])
def test_the_users_own(asked):
    assert take_batch_size(asked, 19_174_400, REFERENCE, 8.0) == (asked, "Requested.")


def test_too_large_a_batch_names_the_memory_that_would_do():
    # 59 patches of 19.1744 million elements, 560 million per 8 GB at batch 2: 59 / 2 * 19.1744 / 70 = 8.0806 GB.
    with pytest.raises(PlanningError, match=r"--batch-size 59 does not fit in 8 GB.* 8\.081 GB"):
        take_batch_size(59, 19_174_400, REFERENCE, 8.0)
    assert take_batch_size(59, 19_174_400, REFERENCE, 8.081)[0] == 59
    with pytest.raises(PlanningError, match=r"does not fit in 8\.08 GB"):
        take_batch_size(59, 19_174_400, REFERENCE, 8.08)
