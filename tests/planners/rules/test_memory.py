"""Patches and batches that fit the memory, worked out by hand."""

import math

import pytest

from autoseg.errors import PlanningError
from planners.rules.memory import (
    MemoryReference,
    cap_batch_size,
    choose_batch_size,
    choose_initial_patch,
    explain_asked_patch,
    explain_patch,
    fit_patch,
    take_batch_size,
    take_patch,
)
from planners.rules.topology import Topology


def count_voxels(topology: Topology) -> int:
    return math.prod(topology.patch_size)


def test_first_guess_is_a_cube_in_mm():
    # Spacing 4 x 1 x 1: edges a, 4a, 4a with 16 a^3 = 256^3, so a = 101.6.
    assert choose_initial_patch((4.0, 1.0, 1.0), (500, 500, 500)) == (102.0, 406.0, 406.0)
    assert choose_initial_patch((1.0, 1.0), (3000, 3000)) == (2048.0, 2048.0)


def test_first_guess_is_cut_to_the_median():
    assert choose_initial_patch((1.0, 1.0, 1.0), (138.5, 300, 90)) == (138.5, 256.0, 90.0)


def test_the_axis_longest_relative_to_the_median_shrinks():
    # 160 x 192 x 160 is the padded median; ratios 1.159, 1.136, 1.159: the last of equals goes first. It is a
    # multiple of 32 and would be one at 128 too, so it loses 32.
    median = (138, 169, 138)
    reference = MemoryReference(elements=160 * 192 * 160 - 1, batch_size=2)
    assert fit_patch((1.0, 1.0, 1.0), median, reference, 8.0, count_voxels).patch_size == (160, 192, 128)


def test_a_batch_of_two_must_fit():
    half = MemoryReference(elements=64 * 64 / 12 * 2, batch_size=12)
    assert fit_patch((1.0, 1.0), (64, 64), half, 8.0, count_voxels).patch_size == (64, 64)
    less = MemoryReference(elements=64 * 64 / 12 * 2 - 1, batch_size=12)
    assert fit_patch((1.0, 1.0), (64, 64), less, 8.0, count_voxels).patch_size == (64, 56)


def test_memory_scales_the_reference():
    assert MemoryReference(elements=560e6, batch_size=2).scaled_elements(24.0) == 1680e6


def test_nothing_fits():
    reference = MemoryReference(elements=1000.0, batch_size=2)
    with pytest.raises(PlanningError, match=r"No 2D network fits in 0\.01 GB.*budget of") as caught:
        fit_patch((1.0, 1.0), (100, 90), reference, 0.01, count_voxels)
    needed = float(str(caught.value).split("budget of ")[1].split(" GB")[0])
    smallest = fit_patch((1.0, 1.0), (100, 90), reference, needed, count_voxels)
    assert smallest.levels == 2


def test_a_guaranteed_batch_makes_the_patch_smaller():
    # 100 x 90 is padded to 112 x 96; 12 patches of it are 129,024 voxels.
    reference = MemoryReference(elements=112 * 96, batch_size=12, guaranteed_batch=12)
    assert fit_patch((1.0, 1.0), (100, 90), reference, 8.0, count_voxels).patch_size == (112, 96)
    smaller = MemoryReference(elements=112 * 96, batch_size=12, guaranteed_batch=24)
    found = fit_patch((1.0, 1.0), (100, 90), smaller, 8.0, count_voxels).patch_size
    assert math.prod(found) <= 112 * 96 / 2


def test_gigabytes_of_the_reference():
    reference = MemoryReference(elements=2.1e9, batch_size=2, gigabytes=24.0)
    assert reference.scaled_elements(8.0) == pytest.approx(0.7e9)
    assert reference.needed_gigabytes(2.1e9) == 24.0
    assert reference.needed_gigabytes(2.1e9 + 1) == 24.001


LARGE = MemoryReference(elements=1e6, batch_size=2)


def test_the_users_own_patch():
    topology = take_patch((64, 48), (1.0, 1.0), LARGE, 8.0, count_voxels)
    assert topology.patch_size == (64, 48)
    assert topology.divisors == (8, 8)


def test_the_users_own_patch_is_enlarged_to_the_total_stride():
    # 61 -> 31 -> 16 -> 8 and 41 -> 21 -> 11 -> 6: three times, then 8 alone is too short. Multiples of 8.
    topology = take_patch((61, 41), (1.0, 1.0), LARGE, 8.0, count_voxels)
    assert topology.patch_size == (64, 48)
    assert explain_asked_patch((61, 41), (64, 48)) == (
        "Requested 61 41; enlarged to a multiple of the network's total stride."
    )
    assert explain_asked_patch((64, 48), (64, 48)) == "Requested."


@pytest.mark.parametrize(
    ("spacing", "asked", "needed"),
    [
        ((1.0, 1.0), (7, 7), (8, 8)),
        ((1.0, 1.0, 1.0), (4, 9, 4), (8, 9, 8)),
        ((5.0, 1.0, 1.0), (7, 6, 7), (7, 8, 8)),
        ((5.0, 1.0), (7, 11), (7, 12)),
    ],
)
def test_too_small_a_patch_names_one_that_works(spacing, asked, needed):
    text = " ".join(str(edge) for edge in needed)
    with pytest.raises(PlanningError, match=f"is too small: no axis .* At least {text} is needed"):
        take_patch(asked, spacing, LARGE, 8.0, count_voxels)
    assert take_patch(needed, spacing, LARGE, 8.0, count_voxels).levels == 2


def test_too_large_a_patch_names_the_memory_that_works():
    with pytest.raises(PlanningError, match=r"--patch-size 64 48 does not fit in 0\.01 GB at batch 2") as caught:
        take_patch((64, 48), (1.0, 1.0), LARGE, 0.01, count_voxels)
    assert "needs a memory budget of 0.025 GB" in str(caught.value)  # 3,072 / 1e6 * 8 = 0.024576
    assert take_patch((64, 48), (1.0, 1.0), LARGE, 0.025, count_voxels).patch_size == (64, 48)
    with pytest.raises(PlanningError, match=r"does not fit in 0\.024 GB"):
        take_patch((64, 48), (1.0, 1.0), LARGE, 0.024, count_voxels)


def test_explanations():
    assert "memory does not limit" in explain_patch((40, 56, 40), (36, 50, 35), 8.0)
    assert "covers 25% of the median image" in explain_patch((64, 64, 64), (128, 128, 64), 8.0)


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
