"""The point head against interpolation by torch, against formulas written down once more, and end to end."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autoseg.networks.build import build_network
from autoseg.networks.points import (
    draw_candidates,
    find_places,
    list_training_inputs,
    measure_margin,
    sample_features,
)
from tests.builders import make_network_spec

SOLID = make_network_spec(
    3,
    features=(4, 6, 8, 9),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    head="points",
    coarse_level=2,
)
FLAT = make_network_spec(2, features=(4, 5, 7, 8), head="points", coarse_level=1)
IMAGES = {3: (2, 1, 8, 32, 24), 2: (2, 1, 24, 40)}
BOTH = pytest.mark.parametrize("spec", [SOLID, FLAT], ids=["3d", "2d"])


def network_of(spec, *, roughened=False) -> Any:
    torch.manual_seed(1)
    network: Any = build_network(spec, deep_supervision=True)
    if roughened:  # a fresh head answers what interpolation does
        with torch.no_grad():
            network.points.head.weight.add_(torch.randn_like(network.points.head.weight))
            network.points.head.bias.add_(torch.randn_like(network.points.head.bias))
    return network


def all_voxels(shape):
    return torch.arange(int(np.prod(shape))).expand(2, -1)


@pytest.mark.parametrize(("coarse", "grid"), [((3, 5, 4), (6, 5, 8)), ((2, 6, 4), (8, 12, 16)), ((3, 7), (12, 14))])
def test_sampling_every_voxel_is_interpolation(coarse, grid):
    features = torch.randn(2, 3, *coarse)
    mode = "trilinear" if len(grid) == 3 else "bilinear"
    expected = F.interpolate(features, size=grid, mode=mode, align_corners=False)
    sampled = sample_features(features, find_places(all_voxels(grid), grid, coarse))
    torch.testing.assert_close(sampled.transpose(1, 2).unflatten(2, grid), expected)


def test_sampling_on_a_finer_grid_takes_the_mean_of_the_voxels_around_a_centre():
    features = torch.randn(2, 3, 4, 6, 8)
    sampled = sample_features(features, find_places(all_voxels((2, 6, 4)), (2, 6, 4), (4, 6, 8)))
    expected = F.avg_pool3d(features, (2, 1, 2))
    torch.testing.assert_close(sampled.transpose(1, 2).unflatten(2, (2, 6, 4)), expected)


def test_sampling_the_grid_itself_keeps_its_values():
    features, voxels = torch.randn(2, 3, 4, 5), torch.tensor([[7, 0, 19], [3, 3, 11]])
    sampled = sample_features(features, find_places(voxels, (4, 5), (4, 5)))
    expected = torch.stack([features[b].flatten(1)[:, voxels[b]].T for b in range(2)])
    assert torch.equal(sampled, expected)


def test_margin_of_labels_is_the_distance_of_the_two_best():
    logits = torch.randn(2, 5, 3, 4)
    ordered = np.sort(logits.numpy(), axis=1)
    found = measure_margin(logits, independent=False).numpy()
    np.testing.assert_allclose(found, ordered[:, -1] - ordered[:, -2], rtol=1e-6)


def test_margin_of_regions_is_the_distance_of_the_closest_from_zero():
    logits = torch.randn(2, 3, 4, 2)
    found = measure_margin(logits, independent=True).numpy()
    np.testing.assert_array_equal(found, np.abs(logits.numpy()).min(axis=1))
    single = torch.randn(2, 1, 6)
    torch.testing.assert_close(measure_margin(single, independent=False), single[:, 0].abs())


def test_candidates_depend_on_the_seed_alone():
    first, again, other = (draw_candidates(2, (16, 16), seed) for seed in ((3, 0, 5), (3, 0, 5), (3, 0, 6)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (2, 3 * 4 + 1)  # of 256 / 64 = 4 points three are uncertain ones of 12, one is drawn
    assert 0 <= int(first.min()) < int(first.max()) < 256


@BOTH
def test_training_gives_levels_from_the_coarse_one_on_and_points(spec):
    network, image = network_of(spec).train(), torch.randn(IMAGES[spec.dimensions])
    *levels, points, voxels = network(*list_training_inputs(network, image, (1,)))
    expected = [IMAGES[3][2:], (8, 16, 12), (4, 8, 6)] if spec.dimensions == 3 else [(24, 40), (12, 20), (6, 10)]
    assert [tuple(level.shape[2:]) for level in levels] == expected[spec.coarse_level :]
    number = image[0, 0].numel() // 64
    assert (points.shape, voxels.shape) == ((2, 3, number), (2, number))
    sum(each.square().mean() for each in (*levels, points)).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@BOTH
@pytest.mark.parametrize("independent", [False, True], ids=["labels", "regions"])
def test_training_takes_the_uncertain_candidates_and_the_rest_as_drawn(spec, independent):
    spec = spec.model_copy(update={"independent_heads": independent})
    network, image = network_of(spec).train(), torch.randn(IMAGES[spec.dimensions])
    _, candidates = list_training_inputs(network, image, (1,))
    coarse, *_, voxels = network(image, candidates)
    number = voxels.shape[1]
    uncertain = int(0.75 * number)
    mode = "trilinear" if spec.dimensions == 3 else "bilinear"
    logits = F.interpolate(coarse, size=image.shape[2:], mode=mode, align_corners=False).detach().numpy()
    ordered = np.sort(logits, axis=1)
    margins = np.abs(logits).min(axis=1) if independent else ordered[:, -1] - ordered[:, -2]
    for sample in range(2):
        drawn = candidates[sample, : 3 * number].numpy()
        smallest = np.sort(margins[sample].ravel()[drawn])[:uncertain]
        found = np.sort(margins[sample].ravel()[voxels[sample, :uncertain].numpy()])
        np.testing.assert_allclose(found, smallest, atol=1e-5)
        assert torch.equal(voxels[sample, uncertain:], candidates[sample, 3 * number :])


def test_training_without_candidates_is_refused():
    with pytest.raises(ValueError, match="voxels to choose from"):
        network_of(FLAT).train()(torch.randn(IMAGES[2]))


@BOTH
def test_a_perceptron_that_answers_nothing_leaves_interpolation(spec):
    spec = spec.model_copy(update={"coarse_level": 1})
    network, image = network_of(spec).eval(), torch.randn(IMAGES[spec.dimensions])
    mode = "trilinear" if spec.dimensions == 3 else "bilinear"
    with torch.no_grad():
        network.points.head.weight.zero_()
        (coarse,) = network.decoder(network.encoder(image), all_levels=False)
        expected = F.interpolate(coarse, size=image.shape[2:], mode=mode, align_corners=False)
        torch.testing.assert_close(network(image), expected, atol=1e-5, rtol=1e-4)


def test_a_fresh_network_corrects_next_to_nothing():
    network, image = network_of(FLAT).eval(), torch.randn(IMAGES[2])
    with torch.no_grad():
        fresh = network(image)
        network.points.head.weight.zero_()
        torch.testing.assert_close(fresh, network(image), atol=0.02, rtol=0.0)


def answer_by_hand(network, image, coarse, maps, features, voxel):
    """Coarse logits and correction at one voxel of the image of a 2D network, from the formulas."""
    y, x = divmod(voxel, image.shape[3])
    values = []
    for source in (features, coarse):
        enlarged = F.interpolate(source, size=image.shape[2:], mode="bilinear", align_corners=False)
        values.append(enlarged[0, :, y, x])
    hidden = torch.cat((maps[0][0, :, y, x], values[0]))
    for layer in network.points.layers:
        hidden = F.leaky_relu(layer.weight @ hidden + layer.bias, 0.01)
    return values[1] + network.points.head.weight @ hidden + network.points.head.bias


def test_prediction_corrects_uncertain_voxels_and_no_others():
    network, image = network_of(FLAT, roughened=True).eval(), torch.randn(IMAGES[2])[:1]
    with torch.no_grad():
        maps = network.encoder(image)
        features, (coarse,) = network.decoder.decode(maps, all_levels=False, recompute=False)
        enlarged = F.interpolate(coarse, size=image.shape[2:], mode="bilinear", align_corners=False)
        best = enlarged.sort(dim=1).values
        margins = (best[:, -1] - best[:, -2]).flatten()
        number = margins.numel() // 8
        order = margins.argsort()
        limit = margins[order[number - 1]]
        found = network(image)[0].flatten(1)
        torch.testing.assert_close(found[:, order[number:]], enlarged[0].flatten(1)[:, order[number:]])
        for voxel in order[:number].tolist():
            weight = min(1.0, float(2.0 * (1.0 - margins[voxel] / limit)))
            before = enlarged[0].flatten(1)[:, voxel]
            after = answer_by_hand(network, image, coarse, maps, features, voxel)
            torch.testing.assert_close(found[:, voxel], before + weight * (after - before), atol=1e-4, rtol=1e-4)


@BOTH
def test_prediction_does_not_depend_on_the_batch_and_repeats_exactly(spec):
    network, image = network_of(spec, roughened=True).eval(), torch.randn(IMAGES[spec.dimensions])
    with torch.no_grad():
        together = network(image)
        assert torch.equal(together, network(image))
        torch.testing.assert_close(together[1:], network(image[1:]), atol=1e-4, rtol=1e-4)


def test_prediction_in_several_parts_is_that_in_one(monkeypatch):
    network, image = network_of(SOLID, roughened=True).eval(), torch.randn(IMAGES[3])
    with torch.no_grad():
        whole = network(image)
        monkeypatch.setattr("autoseg.networks.points.POINTS_AT_ONCE", 100)
        torch.testing.assert_close(network(image), whole)


@BOTH
def test_prediction_in_16_bits_gives_finite_logits(spec):
    network, image = network_of(spec, roughened=True).eval(), torch.randn(IMAGES[spec.dimensions])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@BOTH
def test_levels_above_the_coarse_one_are_left_out_and_names_stay(spec):
    full = spec.model_copy(update={"head": "full", "coarse_level": 0})
    shapes = {name: tensor.shape for name, tensor in network_of(full).state_dict().items()}
    mine = {name: tensor.shape for name, tensor in network_of(spec).state_dict().items()}
    shared = {name for name in mine if not name.startswith("points.")}
    assert all(mine[name] == shapes[name] for name in shared)
    left_out = {tuple(name.split(".")[1:3]) for name in shapes.keys() - mine.keys()}
    levels = [str(level) for level in range(spec.coarse_level)]
    assert left_out == {(kind, level) for kind in ("levels", "heads") for level in levels}
