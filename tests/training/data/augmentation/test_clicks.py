"""Simulated clicks: where they lie, which labels they have, and how they reach a batch."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg.records.clicks import ClickSettings
from autoseg.training.data.augmentation.clicks import MAX_CLICKS, NO_CLICK_FRACTION, AppendClickMaps, draw_clicks
from autoseg.training.data.augmentation.compose import compose_transforms
from autoseg.training.data.augmentation.parameters import AugmentationRules
from tests.builders import make_interactive_plan

SETTINGS = ClickSettings(reach_mm=4.0)


def blobs(seed, shape=(10, 14, 16)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.digitize(noise, np.quantile(noise, [0.6, 0.85])).astype(np.int16)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.8, 1.1)])
def test_clicks_lie_in_wrong_places_apart_from_each_other_and_have_the_label_that_is_right(spacing):
    target, previous = blobs(0), blobs(1)
    numbers = []
    for seed in range(60):
        clicks = draw_clicks(previous != target, target, spacing, SETTINGS, np.random.default_rng(seed))
        numbers.append(len(clicks))
        for click in clicks:
            assert previous[click.position] != target[click.position] == click.index
        places = np.array([click.position for click in clicks]).reshape(-1, 3) * spacing
        for index, place in enumerate(places):
            assert all(np.linalg.norm(place - other) > 2 for other in places[:index])
    assert max(numbers) == MAX_CLICKS
    assert 0 < numbers.count(0) < 3 * NO_CLICK_FRACTION * len(numbers)


def test_clicks_keep_from_the_border_of_the_wrong_place():
    target = np.zeros((15, 15), dtype=np.int16)
    target[3:12, 3:12] = 1
    wrong = target == 1
    drawn = [draw_clicks(wrong.copy(), target, (1.0, 1.0), SETTINGS, np.random.default_rng(seed)) for seed in range(40)]
    firsts = np.array([clicks[0].position for clicks in drawn if clicks])
    assert firsts.min() >= 4
    assert firsts.max() <= 10
    assert len(np.unique(firsts, axis=0)) > 5


def test_nothing_wrong_has_no_click():
    target = blobs(0)
    none = np.zeros(target.shape, dtype=bool)
    assert all(not draw_clicks(none, target, (1.0,) * 3, SETTINGS, np.random.default_rng(seed)) for seed in range(20))


def test_ignored_and_outside_voxels_are_not_clicked():
    target = np.full((8, 8), -1, dtype=np.int16)
    target[:, 4:] = 3  # the index of the ignore label
    target[5:7, 1:3] = 1
    image = AppendClickMaps(2, (1.0, 1.0), SETTINGS)(
        image=np.zeros((30, 1, 8, 8), dtype=np.float32), target=np.stack([target] * 30),
        previous=np.zeros((30, 8, 8), dtype=np.int16), cases=[""] * 30,
        generators=[np.random.default_rng(seed) for seed in range(30)],
    )["image"]  # fmt: skip
    assert image.shape == (30, 4, 8, 8)
    clicked = (image[:, 1:] == 1).any(axis=0)
    assert clicked[1, 5:7, 1:3].any()
    clicked[1, 5:7, 1:3] = False
    assert not clicked.any()


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("rules", [None, AugmentationRules()])
def test_a_batch_has_the_image_the_clicks_and_the_labels_in_this_order(rules, on_device):
    configuration = make_interactive_plan((1.0, 1.0, 1.0)).configurations["interactive"]
    transform = compose_transforms(configuration, rules, num_previous_labels=2, intensity_on_device=on_device)
    shape = configuration.patch_size
    target, previous = blobs(2, shape), blobs(3, shape)
    found = []
    for seed in range(6):
        made = transform(
            image=np.random.default_rng(seed).normal(size=(1, 1, *shape)).astype(np.float32),
            target=target[None].copy(), previous=previous[None].copy(), generators=[np.random.default_rng(seed)],
        )  # fmt: skip
        image = made["image"][0]
        assert image.shape == (6, *shape)
        assert set(np.unique(image[4:])) <= {0, 1}
        assert image[1:4].min() >= 0
        found += [label for label in range(3) if (image[1 + label] == 1).any()]
        for label in range(3):
            assert (made["target"][0][image[1 + label] == 1] == label).all()
    assert {*found} == {0, 1, 2}
