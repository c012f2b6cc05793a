"""Every loss by name: values by hand and by oracle, gradients, ignored voxels, extremes, levels, processes."""

from math import log, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.records.dataset import Head, LabelEncoding
from autoseg.training.losses import build_loss, deep_supervision_weights
from tests.training.losses.oracle import loss_oracle
from tests.training.losses.small_batches import NAMES, draw, labels, regions

ENCODINGS = {"labels": labels, "regions": lambda _classes, *, ignore: regions(ignore=ignore)}

# Foreground with p = 0.8, then background with p = 0.4 and 0.1 for the foreground, in one row of voxels.
FOREGROUND_PROBABILITIES = (0.8, 0.4, 0.1)
ENTROPIES = (-log(0.8), -log(0.6), -log(0.9))
CE = sum(ENTROPIES) / 3
DICE = 1 - 2 * 0.8 / (1.3 + 1)
TVERSKY = 1 - 0.8 / (0.8 + 0.3 * 0.5 + 0.7 * 0.2)
HARDEST = -log(0.6)  # a tenth of three voxels is one voxel
FOCAL = (0.2**2 * -log(0.8) + 0.4**2 * -log(0.6) + 0.1**2 * -log(0.9)) / 3
RARITY = (sqrt(3 / 1), sqrt(3 / 2), sqrt(3 / 2))
BOUNDARY = (0.8 * -0.5 + 0.4 * 0.5 + 0.1 * 1.5) / 3
# centre line of the prediction: 0.8 - 0.4, then 0.4 - 0.1 of what is left, in the first voxel; of the reference: 1
CLDICE = 1 - 2 * 1 * 0.9 / (1 + 0.9)  # precision (0.58 + 1) / (0.58 + 1), sensitivity (0.8 + 1) / (1 + 1)
BY_HAND = {
    "dice_ce": CE + DICE - 1,
    "dice": DICE,
    "ce": CE,
    "weighted_ce": (2 * -log(0.8) - log(0.6) - log(0.9)) / 3,
    "balanced_ce": (2 / 3 * -log(0.8) - 1 / 3 * (log(0.6) + log(0.9))) / 3,
    "topk_ce": HARDEST,
    "focal": FOCAL,
    "tversky": TVERSKY,
    "focal_tversky": TVERSKY**0.75,
    "generalized_dice": DICE,  # one class: its weight cancels out
    "boundary": 0.01 * (DICE + CE) + 0.99 * BOUNDARY,
    "exp_log": 0.8 * (-log(2.6 / 3.3)) ** 0.3
    + 0.2 * sum(w * x**0.3 for w, x in zip(RARITY, ENTROPIES, strict=True)) / 3,
    "dice_topk": DICE + HARDEST,
    "dice_focal": DICE + FOCAL,
    "cldice": 0.5 * DICE + CE + 0.5 * CLDICE,
    "skeleton_recall": DICE + CE + 1 - 0.8,  # one voxel is its own skeleton
}


def build(name, encoding, *, batch_dice=False, num_outputs=1, **options):
    return build_loss(encoding, name=name, batch_dice=batch_dice, num_outputs=num_outputs, **options)


@pytest.mark.parametrize("name", NAMES)
def test_three_voxels_worked_by_hand(name):
    odds = torch.tensor([log(p / (1 - p)) for p in FOREGROUND_PROBABILITIES]).view(1, 1, 1, 3)
    logits = torch.cat([torch.zeros_like(odds), odds], dim=1)
    loss = build(name, labels(2))(logits, torch.tensor([[[1, 0, 0]]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(BY_HAND[name], abs=1e-5)  # the smoothing is not in the numbers by hand


def test_by_hand_holds_the_numbers_on_paper():
    expected = {"ce": 0.279777, "dice": 0.304348, "tversky": 0.266055, "focal": 0.030570, "balanced_ce": 0.118053}
    for name, value in expected.items():
        assert BY_HAND[name] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 4), (7, 5)])
def test_every_loss_equals_its_float64_oracle(name, kind, ignore, batch_dice, shape):
    encoding = ENCODINGS[kind](4, ignore=ignore)
    logits, target = draw(1, encoding, shape=shape)
    loss = build(name, encoding, batch_dice=batch_dice)(logits, target, 0.3)
    expected = loss_oracle(name, logits, target, encoding, batch_dice=batch_dice, progress=0.3)
    assert loss.item() == pytest.approx(expected, abs=3e-6)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    seed=st.integers(0, 10_000),
    num_classes=st.integers(2, 4),
    batch=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    batch_dice=st.booleans(),
    ignore=st.booleans(),
    progress=st.floats(0, 1),
)
def test_every_loss_equals_its_oracle_for_any_shape(
    name, seed, num_classes, batch, sizes, batch_dice, ignore, progress
):
    encoding = labels(num_classes, ignore=ignore)  # small shapes: classes are often absent
    logits, target = draw(seed, encoding, batch=batch, shape=sizes)
    loss = build(name, encoding, batch_dice=batch_dice)(logits, target, progress)
    expected = loss_oracle(name, logits, target, encoding, batch_dice=batch_dice, progress=progress)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
def test_gradient_equals_central_differences_of_the_oracle(name, kind):
    encoding = ENCODINGS[kind](3, ignore=True)
    logits, target = draw(4, encoding)
    logits.requires_grad_(True)
    build(name, encoding)(logits, target, 0.5).backward()
    assert logits.grad is not None
    point = logits.detach().double().numpy()
    places = [tuple(place) for place in np.argwhere(np.ones(point.shape))]
    for number in np.random.default_rng(0).integers(0, len(places), 12):
        values = []
        for step in (1e-5, -1e-5):
            moved = point.copy()
            moved[places[number]] += step
            values.append(loss_oracle(name, moved, target, encoding, batch_dice=False, progress=0.5))
        slope = (values[0] - values[1]) / 2e-5
        assert logits.grad[places[number]].item() == pytest.approx(slope, rel=1e-3, abs=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_one_region_is_a_softmax_of_two_classes(name):
    logits, target = draw(5, labels(2), shape=(4, 3, 5))
    odds = logits[:, 1:] - logits[:, :1]
    head = Head(name="core", indices=(1,), painted_index=1)
    encoding = LabelEncoding(values=(0, 1), activation="sigmoid", heads=(head,))
    loss = build(name, encoding)(odds, target, 0.4)
    assert loss.item() == pytest.approx(build(name, labels(2))(logits, target, 0.4).item(), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
def test_ignored_voxels_change_nothing_and_get_no_gradient(name, kind):
    encoding = ENCODINGS[kind](3, ignore=True)
    logits, target = draw(6, encoding)
    ignored = target == 3
    changed = torch.where(ignored.unsqueeze(1), 50 * torch.randn_like(logits), logits).requires_grad_(True)
    loss = build(name, encoding, batch_dice=True)
    first, second = loss(logits, target, 0.7), loss(changed, target, 0.7)
    assert second.item() == pytest.approx(first.item(), abs=1e-6)
    second.backward()
    assert changed.grad is not None
    assert changed.grad.movedim(1, -1)[ignored].abs().max() == 0
    assert changed.grad.movedim(1, -1)[~ignored].abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_nothing_annotated_is_the_best_loss_without_gradient(name, kind, batch_dice):
    encoding = ENCODINGS[kind](3, ignore=True)
    logits, target = draw(7, encoding)
    logits.requires_grad_(True)
    loss = build(name, encoding, batch_dice=batch_dice)(logits, torch.full_like(target, 3))
    loss.backward()
    assert loss.item() == (-1.0 if name == "dice_ce" else 0.0)
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("filled", ["mixed", "background", "foreground"])
def test_saturated_logits_and_absent_classes_keep_loss_and_gradient_finite(name, kind, dtype, filled):
    encoding = ENCODINGS[kind](3, ignore=False)
    logits, target = draw(8, encoding)
    if filled != "mixed":
        target = torch.full_like(target, 0 if filled == "background" else 1)
    # right and wrong, certain and nearly so
    for scale in (80.0, -80.0, 17.0, 0.0):
        for batch_dice in (False, True):
            point = (logits.sign() * scale).to(dtype).requires_grad_(True)
            loss = build(name, encoding, batch_dice=batch_dice)(point, target, 0.5)
            loss.backward()
            assert loss.isfinite()
            assert point.grad is not None
            assert point.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
def test_certain_and_right_is_nearly_the_best_loss(name, kind):
    encoding = ENCODINGS[kind](3, ignore=False)
    _, target = draw(9, encoding)
    indices = [torch.tensor(head.indices, dtype=target.dtype) for head in encoding.heads]
    heads = torch.stack([torch.isin(target, chosen) for chosen in indices], dim=1)
    point = (160.0 * heads - 80.0).requires_grad_(True)
    loss = build(name, encoding)(point, target, 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(-1.0 if name == "dice_ce" else 0.0, abs=2e-3)
    assert point.grad is not None
    assert point.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(name, kind, dtype):
    encoding = ENCODINGS[kind](3, ignore=False)
    # 56,000 voxels: neither type can sum their probabilities
    logits, target = draw(10, encoding, shape=(20, 40, 35))
    loss = build(name, encoding, batch_dice=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(logits.to(dtype), target, 0.5)
    whole = loss(logits.to(dtype).float(), target, 0.5)
    assert half.dtype == torch.float32
    assert torch.equal(half, whole)


def test_many_voxels_are_summed_as_exactly_as_in_float64():
    logits, target = draw(11, labels(3), shape=(20, 40, 35))
    loss = build("dice_ce", labels(3), batch_dice=True)(logits, target)
    expected = loss_oracle("dice_ce", logits, target, labels(3), batch_dice=True)
    assert loss.item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
def test_whole_loss_is_the_weighted_sum_over_levels(name, kind):
    encoding = ENCODINGS[kind](3, ignore=True)
    sizes = [(4, 8, 6), (4, 4, 3), (2, 2, 1)]
    outputs = [torch.randn(2, len(encoding.heads), *size, requires_grad=True) for size in sizes]
    _, target = draw(12, encoding, shape=sizes[0])
    loss = build(name, encoding, num_outputs=3)(outputs, target, 0.6)
    expected = 0.0
    for logits, weight in zip(outputs[:2], (2 / 3, 1 / 3), strict=True):
        small = F.interpolate(target.double().unsqueeze(1), logits.shape[2:], mode="nearest-exact").squeeze(1).long()
        expected += weight * loss_oracle(name, logits.detach(), small, encoding, batch_dice=False, progress=0.6)
    assert loss.item() == pytest.approx(expected, abs=5e-6)
    loss.backward()
    assert [output.grad is None for output in outputs] == [False, False, True]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("cut", [2, 1])
def test_two_processes_compute_the_loss_of_the_global_batch(name, kind, batch_dice, cut):
    encoding = ENCODINGS[kind](3, ignore=True)
    logits, target = draw(13, encoding, batch=4)
    target[3, 1:] = 3  # samples differ in their numbers of annotated voxels
    small = torch.nn.functional.avg_pool3d(logits, (1, 1, 2))
    options = {"batch_dice": batch_dice, "num_outputs": 3}
    outputs = [x.clone().requires_grad_(True) for x in (logits, small, small)]
    whole = build(name, encoding, **options)(outputs, target, 0.5)
    whole.backward()
    for mine, others in ((slice(0, cut), slice(cut, 4)), (slice(cut, 4), slice(0, cut))):
        sent: list[torch.Tensor] = []
        build(name, encoding, across_ranks=lambda x, sent=sent: sent.append(x) or x, **options)(
            [x.detach()[others] for x in outputs], target[others], 0.5
        )
        [theirs] = sent  # one reduction for all terms and levels
        parts = [x.detach()[mine].requires_grad_(True) for x in outputs]
        part = build(name, encoding, across_ranks=lambda x, theirs=theirs: x + theirs, **options)(
            parts, target[mine], 0.5
        )
        part.backward()
        assert part.item() == pytest.approx(whole.item(), abs=1e-6)
        for local, output in zip(parts[:2], outputs[:2], strict=True):
            assert local.grad is not None
            assert output.grad is not None
            assert torch.allclose(local.grad, output.grad[mine], rtol=1e-4, atol=1e-7)


def test_boundary_loss_moves_from_regions_to_distances():
    logits, target = draw(14, labels(3))
    loss = build("boundary", labels(3))
    start, middle, end = (loss(logits, target, progress).item() for progress in (0.0, 0.5, 1.0))
    regional = build("dice", labels(3))(logits, target) + build("ce", labels(3))(logits, target)
    assert start == pytest.approx(regional.item(), abs=1e-6)
    assert middle == pytest.approx((start + end) / 2, abs=1e-6)
    assert loss(logits, target).item() == end


@pytest.mark.parametrize("name", [name for name in NAMES if name != "boundary"])
def test_no_other_loss_depends_on_progress(name):
    logits, target = draw(15, labels(3))
    loss = build(name, labels(3))
    assert torch.equal(loss(logits, target, 0.3), loss(logits, target))


def test_default_is_dice_with_cross_entropy():
    logits, target = draw(16, labels(3))
    default = build_loss(labels(3), batch_dice=False, num_outputs=1)(logits, target)
    assert torch.equal(default, build("dice_ce", labels(3))(logits, target))


def test_one_tensor_counts_as_full_resolution():
    logits, target = draw(17, labels(3))
    alone = build("dice_ce", labels(3), num_outputs=4)(logits, target)
    assert torch.equal(alone, build("dice_ce", labels(3))([logits], target))


def test_number_of_outputs_must_be_the_number_of_weights():
    logits, target = draw(18, labels(3))
    with pytest.raises(ValueError, match="1 outputs of the network, but 3 weights"):
        build("dice_ce", labels(3), num_outputs=3)([logits], target)


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


@pytest.mark.parametrize("name", ["dice_ce", "tversky"])
@pytest.mark.parametrize("ignore", [False, True])
def test_points_add_their_mean_cross_entropy(name, ignore):
    encoding = labels(3, ignore=ignore)
    logits, target = draw(3, encoding, shape=(4, 6, 8))
    voxels = torch.randint(4 * 6 * 8, (len(logits), 11))
    points = torch.randn(len(logits), 3, 11)
    own = target.flatten(1).gather(1, voxels).long()
    entropy = F.cross_entropy(points, own.masked_fill(own == len(encoding.values), -1), ignore_index=-1)
    found = build(name, encoding, has_points=True)([logits, points, voxels], target)
    torch.testing.assert_close(found, build(name, encoding)(logits, target) + entropy)


def test_points_of_regions_add_the_mean_over_regions():
    encoding = regions(ignore=False)
    logits, target = draw(3, encoding, shape=(6, 8))
    voxels, points = torch.randint(48, (len(logits), 11)), torch.randn(len(logits), logits.shape[1], 11)
    own = target.flatten(1).gather(1, voxels)
    masks = torch.stack([sum((own == index) for index in head.indices) for head in encoding.heads], dim=1)
    entropy = F.binary_cross_entropy_with_logits(points, masks.float())
    found = build("dice_ce", encoding, has_points=True)([logits, points, voxels], target)
    torch.testing.assert_close(found, build("dice_ce", encoding)(logits, target) + entropy)


def test_logits_of_a_validation_are_compared_without_points():
    encoding = labels(3)
    logits, target = draw(3, encoding, shape=(6, 8))
    assert build("dice_ce", encoding, has_points=True)(logits, target) == build("dice_ce", encoding)(logits, target)
