from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.records.dataset import Head, LabelEncoding
from autoseg.training.losses import (
    build_loss,
    deep_supervision_weights,
    dice_and_binary_cross_entropy,
    dice_and_cross_entropy,
)

LABELS = LabelEncoding(
    values=(0, 1, 2),
    activation="softmax",
    heads=tuple(Head(name=str(index), indices=(index,), painted_index=index) for index in range(3)),
)
REGIONS = LabelEncoding(
    values=(0, 1, 2),
    ignore_value=3,
    activation="sigmoid",
    heads=(Head(name="whole", indices=(1, 2), painted_index=1), Head(name="core", indices=(2,), painted_index=2)),
)
SHAPE = (3, 5, 4)


def soft_dice(probabilities, reference, counted, *, batch_dice):
    """(B, K, V) float64 -> mean Dice, one class and sample at a time."""
    groups = [list(range(len(probabilities)))] if batch_dice else [[b] for b in range(len(probabilities))]
    values = []
    for group in groups:
        for k in range(probabilities.shape[1]):
            p = np.concatenate([probabilities[b, k][counted[b]] for b in group])
            g = np.concatenate([reference[b, k][counted[b]] for b in group])
            values.append((2 * (p * g).sum() + 1e-5) / max(p.sum() + g.sum() + 1e-5, 1e-8))
    return np.mean(values)


def label_oracle(logits, target, *, batch_dice, ignore_index):
    logits = logits.reshape(*logits.shape[:2], -1).astype(np.float64)
    target = target.reshape(len(target), -1)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    counted = target != ignore_index if ignore_index is not None else np.ones_like(target, dtype=bool)
    own = [
        probabilities[b, target[b, v], v] for b in range(len(target)) for v in range(target.shape[1]) if counted[b, v]
    ]
    cross_entropy = -np.mean(np.log(own)) if own else 0.0
    reference = np.stack([target == k for k in range(1, logits.shape[1])], axis=1).astype(np.float64)
    return cross_entropy - soft_dice(probabilities[:, 1:], reference, counted, batch_dice=batch_dice)


def region_oracle(logits, target, mask, *, batch_dice):
    logits = logits.reshape(*logits.shape[:2], -1).astype(np.float64)
    target = target.reshape(logits.shape).astype(np.float64)
    counted = np.ones((len(logits), logits.shape[2]), bool) if mask is None else mask.reshape(len(logits), -1) > 0
    probabilities = 1 / (1 + np.exp(-logits))
    entropies = -(target * np.log(probabilities) + (1 - target) * np.log(1 - probabilities))
    chosen = np.concatenate([entropies[b][:, counted[b]].ravel() for b in range(len(logits))])
    cross_entropy = chosen.mean() if chosen.size else 0.0
    return cross_entropy - soft_dice(probabilities, target, counted, batch_dice=batch_dice)


def draw(seed, *, heads=3, batch=2, ignore=False, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, heads, *shape, generator=generator)
    target = torch.randint(0, heads + int(ignore), (batch, *shape), generator=generator)
    return logits, target


def test_two_voxels_worked_by_hand():
    # probabilities of the foreground: e / (1 + e) at a foreground voxel, 1/2 at a background voxel
    logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    target = torch.tensor([[1, 0]])
    p = exp(1) / (1 + exp(1))
    dice = (2 * p + 1e-5) / (p + 0.5 + 1 + 1e-5)
    loss = dice_and_cross_entropy(logits, target, batch_dice=False, ignore_index=None)
    assert loss.item() == pytest.approx((-log(p) - log(0.5)) / 2 - dice, abs=1e-6)
    masked = dice_and_cross_entropy(logits, torch.tensor([[1, 2]]), batch_dice=False, ignore_index=2)
    assert masked.item() == pytest.approx(-log(p) - (2 * p + 1e-5) / (p + 1 + 1e-5), abs=1e-6)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 4), (7, 5)])
def test_label_loss_equals_float64_oracle(batch_dice, ignore, shape):
    logits, target = draw(1, ignore=ignore, shape=shape)
    ignore_index = 3 if ignore else None
    loss = dice_and_cross_entropy(logits, target, batch_dice=batch_dice, ignore_index=ignore_index)
    expected = label_oracle(logits.numpy(), target.numpy(), batch_dice=batch_dice, ignore_index=ignore_index)
    assert loss.item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_region_loss_equals_float64_oracle(batch_dice, masked):
    logits, _ = draw(2)
    generator = torch.Generator().manual_seed(3)
    target = (torch.rand(logits.shape, generator=generator) > 0.6).float()
    mask = (torch.rand(2, 1, *SHAPE, generator=generator) > 0.3).float() if masked else None
    loss = dice_and_binary_cross_entropy(logits, target, mask, batch_dice=batch_dice)
    expected = region_oracle(
        logits.numpy(), target.numpy(), None if mask is None else mask.numpy(), batch_dice=batch_dice
    )
    assert loss.item() == pytest.approx(expected, abs=2e-6)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    heads=st.integers(2, 5),
    batch=st.integers(1, 3),
    batch_dice=st.booleans(),
    ignore=st.booleans(),
)
def test_label_loss_equals_the_oracle_for_any_number_of_classes(seed, heads, batch, batch_dice, ignore):
    logits, target = draw(seed, heads=heads, batch=batch, ignore=ignore)
    ignore_index = heads if ignore else None
    loss = dice_and_cross_entropy(logits, target, batch_dice=batch_dice, ignore_index=ignore_index)
    expected = label_oracle(logits.numpy(), target.numpy(), batch_dice=batch_dice, ignore_index=ignore_index)
    assert loss.item() == pytest.approx(expected, abs=5e-6)


def test_gradient_equals_central_differences_of_the_oracle():
    logits, target = draw(4, ignore=True)
    logits.requires_grad_(True)
    dice_and_cross_entropy(logits, target, batch_dice=False, ignore_index=3).backward()
    assert logits.grad is not None
    point = logits.detach().double().numpy()
    for where in np.random.default_rng(0).integers(0, point.size, 25):
        step = np.zeros(point.size)
        step[where] = 1e-4
        step = step.reshape(point.shape)
        above, below = (
            label_oracle(point + sign * step, target.numpy(), batch_dice=False, ignore_index=3) for sign in (1, -1)
        )
        assert logits.grad.flatten()[where].item() == pytest.approx((above - below) / 2e-4, rel=1e-3, abs=1e-7)


def test_region_gradient_equals_central_differences_of_the_oracle():
    logits, _ = draw(5)
    target = (logits.roll(1, 0) > 0).float()
    mask = torch.ones(2, 1, *SHAPE)
    mask[:, :, 0] = 0
    logits.requires_grad_(True)
    dice_and_binary_cross_entropy(logits, target, mask, batch_dice=True).backward()
    assert logits.grad is not None
    assert logits.grad[:, :, 0].abs().max() == 0
    point = logits.detach().double().numpy()
    for where in np.random.default_rng(0).integers(0, point.size, 25):
        step = np.zeros(point.size)
        step[where] = 1e-4
        step = step.reshape(point.shape)
        above, below = (
            region_oracle(point + sign * step, target.numpy(), mask.numpy(), batch_dice=True) for sign in (1, -1)
        )
        assert logits.grad.flatten()[where].item() == pytest.approx((above - below) / 2e-4, rel=1e-3, abs=1e-7)


def test_ignored_voxels_change_nothing_and_get_no_gradient():
    logits, target = draw(6, ignore=True)
    changed = torch.where((target == 3).unsqueeze(1), 50 * torch.randn_like(logits), logits).requires_grad_(True)
    first = dice_and_cross_entropy(logits, target, batch_dice=True, ignore_index=3)
    second = dice_and_cross_entropy(changed, target, batch_dice=True, ignore_index=3)
    assert second.item() == pytest.approx(first.item(), abs=1e-6)
    second.backward()
    assert changed.grad is not None
    assert changed.grad.movedim(1, -1)[target == 3].abs().max() == 0


def test_nothing_annotated_gives_a_constant_without_gradient():
    logits = torch.randn(2, 3, *SHAPE, requires_grad=True)
    loss = dice_and_cross_entropy(
        logits, torch.full((2, *SHAPE), 3, dtype=torch.int64), batch_dice=False, ignore_index=3
    )
    loss.backward()
    assert loss.item() == -1.0  # cross-entropy 0, Dice of nothing with nothing 1
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0
    regions = dice_and_binary_cross_entropy(
        logits, torch.zeros(2, 3, *SHAPE), torch.zeros(2, 1, *SHAPE), batch_dice=False
    )
    assert regions.item() == -1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    # 56,000 voxels: neither bfloat16 nor float16 can sum their probabilities
    logits, target = draw(7, shape=(20, 40, 35))
    logits, regions = logits.to(dtype), (logits.roll(1, 0) > 0).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dice_and_cross_entropy(logits, target, batch_dice=True, ignore_index=None)
        region_loss = dice_and_binary_cross_entropy(logits, regions, None, batch_dice=True)
    assert loss.dtype == region_loss.dtype == torch.float32
    values = logits.float().numpy()
    expected = label_oracle(values, target.numpy(), batch_dice=True, ignore_index=None)
    assert loss.item() == pytest.approx(expected, abs=2e-6)
    assert region_loss.item() == pytest.approx(region_oracle(values, regions.numpy(), None, batch_dice=True), abs=2e-6)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_keep_loss_and_gradient_finite(scale):
    for sigmoid in (False, True):
        logits, target = draw(8)
        logits = (logits.sign() * scale).requires_grad_(True)
        if sigmoid:
            wrong = (logits.detach() < 0).float()
            loss = dice_and_binary_cross_entropy(logits, wrong, None, batch_dice=False)
        else:
            loss = dice_and_cross_entropy(logits, target, batch_dice=False, ignore_index=None)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_deep_supervision_weights_are_halved_and_the_lowest_has_none():
    assert deep_supervision_weights(5) == pytest.approx((0.5333, 0.2667, 0.1333, 0.0667, 0.0), abs=5e-5)
    assert deep_supervision_weights(3) == pytest.approx((2 / 3, 1 / 3, 0.0))
    assert deep_supervision_weights(2) == (1.0, 0.0)
    assert deep_supervision_weights(1) == (1.0,)


@given(st.integers(1, 9))
def test_deep_supervision_weights_sum_to_one(num_outputs):
    weights = deep_supervision_weights(num_outputs)
    assert len(weights) == num_outputs
    assert sum(weights) == pytest.approx(1)


def test_a_network_without_outputs_has_no_weights():
    with pytest.raises(ValueError, match="at least one output"):
        deep_supervision_weights(0)


@pytest.mark.parametrize("encoding", [LABELS, REGIONS], ids=["labels", "regions"])
def test_whole_loss_is_the_weighted_sum_over_levels(encoding):
    sizes = [(4, 8, 12), (4, 4, 6), (2, 2, 3)]
    outputs = [torch.randn(2, len(encoding.heads), *size, requires_grad=True) for size in sizes]
    highest = 2 if encoding.ignore_value is None else 3
    target = torch.randint(0, highest + 1, (2, *sizes[0]), dtype=torch.int16)
    loss = build_loss(encoding, batch_dice=True, num_outputs=3)(outputs, target)
    expected = 0.0
    for logits, weight in zip(outputs[:2], (2 / 3, 1 / 3), strict=True):
        small = F.interpolate(target.double().unsqueeze(1), logits.shape[2:], mode="nearest-exact").squeeze(1).long()
        values = logits.detach().numpy()
        if encoding is LABELS:
            term = label_oracle(values, small.numpy(), batch_dice=True, ignore_index=None)
        else:
            regions = torch.stack([(small == 1) | (small == 2), small == 2], dim=1).numpy()
            term = region_oracle(values, regions, (small != 3).numpy(), batch_dice=True)
        expected += weight * term
    assert loss.item() == pytest.approx(expected, abs=5e-6)
    loss.backward()
    assert [output.grad is None for output in outputs] == [False, False, True]


def test_label_encoding_with_ignore_value_ignores_the_index_after_the_last_label():
    encoding = LABELS.model_copy(update={"ignore_value": 200})
    logits, target = draw(9, ignore=True)
    loss = build_loss(encoding, batch_dice=False, num_outputs=1)([logits], target)
    expected = label_oracle(logits.numpy(), target.numpy(), batch_dice=False, ignore_index=3)
    assert loss.item() == pytest.approx(expected, abs=5e-6)


def test_one_tensor_counts_as_full_resolution():
    logits, target = draw(10)
    alone = build_loss(LABELS, batch_dice=False, num_outputs=4)(logits, target)
    listed = build_loss(LABELS, batch_dice=False, num_outputs=1)([logits], target)
    assert torch.equal(alone, listed)


def test_number_of_outputs_must_be_the_number_of_weights():
    logits, target = draw(11)
    with pytest.raises(ValueError, match="1 outputs of the network, but 3 weights"):
        build_loss(LABELS, batch_dice=False, num_outputs=3)([logits], target)
