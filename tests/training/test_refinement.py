"""A refiner's training: what it learns from, what it leaves out, and that it repeats itself."""

import math

import numpy as np
import pytest
import torch

from autoseg.inference.refinement.patches import plan_refiner
from autoseg.records.selection import PatchSettings
from autoseg.training.refinement import (
    BATCH_SIZE,
    UNKNOWN,
    Patches,
    RefinementOptions,
    _batches,
    join_patches,
    refiner_loss,
    save_refiner,
    train_refiner,
)

SIZE = (4, 8, 8)
SPEC = plan_refiner(PatchSettings(size=SIZE, training_distance=SIZE, prediction_distance=SIZE), channels=1)
CPU = torch.device("cpu")


def make_patches(count, seed=0):
    """Reference is where the image is bright; the coarse probability knows nothing."""
    generator = np.random.default_rng(seed)
    reference = (generator.random((count, *SIZE)) < 0.4).astype(np.uint8)
    images = (4.0 * reference[:, None] - 2).astype(np.float16)
    return Patches(images, np.full((count, *SIZE), 0.5, dtype=np.float16), reference)


LIMITS = {"seconds", "max_steps"}


def train(patches, **options):
    limits = {"seconds": math.inf, "max_steps": 12, **{name: options.pop(name) for name in LIMITS & options.keys()}}
    defaults = {"device": CPU, "seed": 3, "mirror_axes": (0, 2)}
    return train_refiner(patches, SPEC, RefinementOptions(**limits), **{**defaults, **options})


def test_loss_by_hand():
    """Probabilities 0.8, 0.8, 0.2, and one voxel without reference, whose 0.99 counts nowhere."""
    probabilities = torch.tensor([[[[0.8, 0.8, 0.2, 0.99]]]], dtype=torch.float64)
    reference = torch.tensor([[[[1, 0, 1, UNKNOWN]]]], dtype=torch.uint8)
    entropy = -(np.log(0.8) + np.log(0.2) + np.log(0.2)) / 3
    dice = 1 - (2 * (0.8 + 0.2) + 1) / (1.8 + 2 + 1)
    assert refiner_loss(torch.logit(probabilities).float(), reference).item() == pytest.approx(entropy + dice, rel=1e-5)


def test_a_patch_without_any_reference_has_a_loss_of_zero():
    unknown = torch.full((1, 2, 3, 4), UNKNOWN, dtype=torch.uint8)
    assert refiner_loss(torch.randn(1, 2, 3, 4), unknown).item() == pytest.approx(0.0, abs=1e-6)


def test_it_learns_and_repeats_itself():
    patches = make_patches(10)
    state = torch.get_rng_state()
    first, second = train(patches), train(patches)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.steps == 12
    assert first.loss == second.loss
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert train(patches, seed=4).loss != first.loss
    longer = train(patches, max_steps=50)
    assert longer.loss < 0.9 * first.loss
    assert not longer.network.training


def test_time_ends_it_after_one_step_at_least():
    assert train(make_patches(1), seconds=1e-9).steps == 1


def test_every_patch_comes_before_any_comes_twice():
    """Patches carry their number as coarse probability, which nothing changes."""
    numbered = make_patches(2 * BATCH_SIZE)
    numbered.coarse[:] = (np.arange(2 * BATCH_SIZE) / 16).reshape(-1, 1, 1, 1)
    batches = _batches(numbered, np.random.default_rng(0), ())
    for _ in range(3):
        seen = [float(value) for _ in range(2) for value in next(batches)[1][:, 0, 0, 0]]
        assert sorted(seen) == [number / 16 for number in range(2 * BATCH_SIZE)]


def test_image_reference_and_probability_are_mirrored_together():
    patches = make_patches(6)
    place = np.arange(np.prod(SIZE), dtype=np.float16).reshape(SIZE) / 256
    patches = Patches(np.repeat(40.0 * (place[None, None] > 0.4), 6, axis=0).astype(np.float16),
                      np.repeat(place[None], 6, axis=0),
                      np.repeat(place[None] > 0.4, 6, axis=0).astype(np.uint8))  # fmt: skip
    batches = _batches(patches, np.random.default_rng(1), (1,))
    orders = set()
    for _ in range(12):
        image, coarse, reference = next(batches)
        np.testing.assert_array_equal(reference, coarse > 0.4)
        np.testing.assert_array_equal(image[:, 0] > 15, coarse > 0.4)
        orders.add((bool(coarse[0, 0, 0, 0] < coarse[0, 0, -1, 0]), bool(coarse[0, 0, 0, 0] < coarse[0, -1, 0, 0])))
    assert {first for first, _ in orders} == {True, False}


def test_parts_are_joined_in_order():
    first, empty, last = make_patches(2), make_patches(0), make_patches(1, seed=1)
    joined = join_patches([first, empty, last])
    assert len(joined) == 3
    np.testing.assert_array_equal(joined.targets[2:], last.targets)


def test_weights_are_read_by_everybody_who_may_read_a_file(tmp_path):
    (tmp_path / "other").touch()
    path = tmp_path / "refiner_0.safetensors"
    save_refiner(train(make_patches(1), max_steps=1).network, path)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
