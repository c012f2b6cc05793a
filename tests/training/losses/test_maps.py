import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autoseg.networks.build import build_network
from autoseg.networks.points import list_training_inputs
from autoseg.training.invented_data import measured_configuration
from autoseg.training.losses import build_loss
from autoseg.training.losses.level import downsample_target
from autoseg.training.losses.maps import MAPS, make_maps, map_shapes, signed_distance, tubed_skeleton
from tests.training.losses.oracle import brute_force_distance, tube_by_hand
from tests.training.losses.small_batches import draw, labels, regions


def test_the_boundary_lies_halfway_between_two_voxels():
    inside = np.array([[False, True, True, False, False]])
    assert signed_distance(inside, ~inside).tolist() == [[0.5, -0.5, -0.5, 0.5, 1.5]]


def test_what_borders_on_ignored_voxels_is_no_boundary():
    inside = np.array([[True, True, True, False, False]])
    outside = np.array([[False, False, False, False, True]])
    assert signed_distance(inside, outside)[0, [0, 1, 2, 4]].tolist() == [-3.5, -2.5, -1.5, 1.5]


def test_a_class_that_is_absent_or_everywhere_has_no_boundary():
    everywhere = np.ones((3, 4, 5), bool)
    assert not signed_distance(everywhere, ~everywhere).any()
    assert not signed_distance(~everywhere, everywhere).any()


@settings(deadline=None, max_examples=40)
@given(st.data(), array_shapes(min_dims=2, max_dims=3, max_side=5))
def test_every_voxel_measures_to_the_nearest_one_of_the_other_side(data, shape):
    labels = data.draw(arrays(np.int8, shape, elements=st.integers(0, 2)))  # 2: ignored
    inside, outside = labels == 1, labels == 0
    distances = signed_distance(inside, outside)
    assert distances.dtype == np.float32
    expected = brute_force_distance(inside, outside)
    assert np.allclose(distances[labels != 2], expected[labels != 2], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=3, max_side=7)))
def test_a_tube_is_all_of_a_class_within_two_steps_of_its_skeleton(inside):
    tube = tubed_skeleton(inside, ~inside)
    assert tube.dtype == np.float32
    assert np.array_equal(tube > 0, tube_by_hand(inside))


@pytest.mark.parametrize("shape", [(9, 30), (7, 9, 30)])
def test_a_tube_around_the_middle_of_a_bar_leaves_out_its_rim(shape):
    inside = np.zeros(shape, bool)
    inside[(*(slice(0, edge) for edge in shape[:-1]), slice(4, 26))] = True
    tube = tubed_skeleton(inside, ~inside) > 0
    assert all(tube[..., place].any() for place in range(9, 21))  # unbroken
    assert not tube.reshape(-1, shape[-1])[0, 9:21].any()  # along one edge of the bar
    assert not tube[~inside].any()


def test_a_class_that_is_absent_has_no_tube():
    assert not tubed_skeleton(np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)).any()


def changed(dimensions, *, loss="boundary", deep_supervision=True, **changes):
    configuration = measured_configuration(dimensions, 4)
    network = configuration.network.model_copy(update={"deep_supervision": deep_supervision, **changes})
    training = configuration.training.model_copy(update={"loss": loss})
    patch = (16, 32, 48)[-dimensions:]
    return configuration.model_copy(update={"network": network, "training": training, "patch_size": patch})


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("loss", MAPS)
def test_maps_have_the_shapes_of_the_outputs_that_are_weighed(dimensions, deep_supervision, loss):
    configuration = changed(dimensions, loss=loss, deep_supervision=deep_supervision)
    network = build_network(configuration.network, deep_supervision=True)
    outputs = network(torch.zeros(1, configuration.network.input_channels, *configuration.patch_size))
    shapes = [tuple(level.shape[2:]) for level in outputs[:-1]] if deep_supervision else [tuple(outputs.shape[2:])]
    assert list(map_shapes(configuration)) == shapes
    assert map_shapes(changed(dimensions, loss="dice_ce")) == ()


@pytest.mark.parametrize("skip", ["plain", "nested"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_maps_of_a_point_head_begin_at_its_coarse_level(skip, deep_supervision):
    points = {"head": "points", "coarse_level": 1, "skip": skip}
    configuration = changed(3, deep_supervision=deep_supervision, **points)
    network = build_network(configuration.network, deep_supervision=True)
    image = torch.zeros(1, configuration.network.input_channels, *configuration.patch_size)
    *levels, _, _ = network(*list_training_inputs(network, image, (0,)))
    weighed = levels[:-1] if deep_supervision else levels
    assert list(map_shapes(configuration)) == [tuple(level.shape[2:]) for level in weighed]


ENCODINGS = {
    "labels": labels(3), "labels-ignore": labels(3, ignore=True),
    "regions": regions(), "regions-ignore": regions(ignore=True),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("shape", [(6, 10), (4, 6, 8)])
@pytest.mark.parametrize("name", MAPS)
def test_maps_that_are_given_make_the_very_same_loss(name, encoding, shape):
    logits, target = draw(3, encoding, shape=shape)
    lower = tuple(edge // 2 for edge in shape)
    outputs = [logits, logits[(..., *(slice(edge) for edge in lower))], logits[(..., *(slice(1) for _ in shape))]]
    loss = build_loss(encoding, name=name, batch_dice=False, num_outputs=3)
    given_target = target.numpy()
    given = [torch.from_numpy(make_maps(given_target, encoding, at, MAPS[name])) for at in (shape, lower)]
    for progress in (0.0, 0.3, 1.0):
        assert loss(outputs, target, progress, given) == loss(outputs, target, progress)
        assert loss(logits, target, progress, given[:1]) == loss(logits, target, progress)
    assert loss(outputs, target, 1.0, [given[0].flip(-1), given[1]]) != loss(
        outputs, target, 1.0
    )  # they are what counts


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_distances_of_a_level_are_those_of_its_own_voxels(encoding):
    _, target = draw(5, encoding, shape=(4, 6, 8))
    lower = (2, 3, 8)
    found = make_maps(target.numpy(), encoding, lower, signed_distance)
    coarse = downsample_target(target, lower).numpy()
    annotated = coarse != len(encoding.values)
    heads = [head for head in encoding.heads if set(head.indices) != {0}]
    assert found.shape == (2, len(heads), *lower)
    for sample in range(2):
        for index, head in enumerate(heads):
            inside = np.isin(coarse[sample], head.indices)
            expected = brute_force_distance(inside, ~inside & annotated[sample])
            known = annotated[sample]
            np.testing.assert_allclose(found[sample, index][known], expected[known], atol=1e-6)


def test_maps_of_another_size_are_refused():
    encoding = labels(3)
    logits, target = draw(3, encoding, shape=(4, 6))
    loss = build_loss(encoding, name="boundary", batch_dice=False, num_outputs=1)
    with pytest.raises(ValueError, match=r"maps of shape \(2, 2, 2, 3\) for logits of shape \(2, 3, 4, 6\)"):
        loss(logits, target, 1.0, [torch.zeros(2, 2, 2, 3)])
