"""Batch sizes by hand."""

import pytest

from planners.rules.batch_size import choose_batch_size
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
    size, why = choose_batch_size(elements, (40, 56, 40), 63_000.0 * cases, REFERENCE, 8.0, 0.05)
    assert size == batch
    assert reason in why


def test_halves_round_to_even():
    assert choose_batch_size(224_000_000, (10, 10, 10), 1e12, REFERENCE, 9.0, 0.05)[0] == 6  # 5.625
    assert choose_batch_size(248_888_889, (10, 10, 10), 1e12, REFERENCE, 10.0, 0.05)[0] == 6  # 5.625
    assert choose_batch_size(280_000_000, (10, 10, 10), 1e12, REFERENCE, 5.0, 0.05)[0] == 2  # 2.5


def test_silly_batches_are_named():
    assert "far more than useful" in choose_batch_size(650_000, (56, 40), 1e9, REFERENCE, 8.0, 0.05)[1]
    assert "far more than useful" not in choose_batch_size(30_000_000, (40, 56, 40), 1e9, REFERENCE, 5.0, 0.05)[1]
