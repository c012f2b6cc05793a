"""Channels that samples lose, and the planes that tell the network."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoseg.training.data.augmentation.channel_dropout import DropChannels, drop_channels
from autoseg.training.data.augmentation.on_device import build_device_augmentation
from autoseg.training.data.augmentation.parameters import AugmentationRules
from autoseg.training.data.batch import DrawnBatch
from tests.training.small_cases import make_configuration, make_stored_case, open_loader


@given(st.lists(st.booleans(), min_size=1, max_size=6).filter(any), st.integers(0, 1000))
def test_at_least_one_channel_stays_and_none_is_invented(present, seed):
    present = np.array(present)
    stays = drop_channels(present, 1.0, np.random.default_rng(seed))
    assert stays.any()
    assert not (stays & ~present).any()
    assert stays.sum() < present.sum() or present.sum() == 1
    np.testing.assert_array_equal(drop_channels(present, 0.0, np.random.default_rng(seed)), present)


def test_every_subset_of_a_size_is_equally_likely():
    generator = np.random.default_rng(5)
    drawn = [drop_channels(np.ones(3, dtype=bool), 0.5, generator) for _ in range(6000)]
    count = Counter(tuple(map(bool, stays)) for stays in drawn)
    assert abs(count[True, True, True] - 3000) < 150
    assert all(abs(count[subset] - 500) < 100 for subset in count.keys() - {(True, True, True)})
    assert len(count) == 7


def with_presence(configuration, *, dropout, slices=1, labels=0):
    channels = len(configuration.normalization)
    network = configuration.network.model_copy(update={"input_channels": (slices + 1) * channels + labels})
    training = configuration.training.model_copy(update={"channel_dropout": dropout})
    changes = {"network": network, "training": training, "channel_presence": True, "neighbor_slices": slices // 2}
    return configuration.model_copy(update=changes)


def test_planes_follow_the_channels_of_all_slices():
    images = np.ones((2, 6, 4, 5), dtype=np.float32)
    presence = np.array([[True, False], [True, True]])
    target, generators = np.zeros((2, 4, 5), dtype=np.int8), [np.random.default_rng(0)] * 2
    batch = DrawnBatch(image=images, target=target, cases=["a", "b"], generators=generators, presence=presence)
    made = DropChannels(0.0, num_slices=3)(**batch)["image"]
    assert made.shape == (2, 8, 4, 5)
    assert made[0].mean(axis=(1, 2)).tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert made[1].min() == 1


@pytest.mark.parametrize(("patch", "slices"), [((6, 8, 10), 1), ((8, 10), 3)])
def test_batches_say_which_channels_are_there(patch, slices):
    whole = make_stored_case("a", (9, 14, 12), seed=1)
    lacking = make_stored_case("b", (8, 12, 11), seed=2)
    array = lacking.array[:]
    array[1] = 0
    lacking = type(lacking)(
        record=lacking.record.model_copy(update={"absent_channels": (1,)}),
        array=array, locations=lacking.locations, annotated=None,
    )  # fmt: skip
    cases, configuration = (
        {"a": whole, "b": lacking},
        with_presence(make_configuration(patch), dropout=1.0, slices=slices),
    )
    for is_training in (True, False):
        batches = open_loader(cases, configuration, training=is_training)
        seen = set()
        for batch in [next(batches) for _ in range(6)]:
            assert batch["image"].shape == (5, 2 * slices + 2, *patch)
            for image, case in zip(batch["image"], batch["cases"], strict=True):
                planes = image[-2:].reshape(2, -1)
                assert (planes == planes[:, :1]).all()
                shown = tuple(planes[:, 0].astype(int).tolist())
                seen.add((case, shown))
                for channel in range(2):
                    assert shown[channel] == bool(image[channel : 2 * slices : 2].any())
        batches.close()
        expected = {("a", (1, 0)), ("a", (0, 1))} if is_training else {("a", (1, 1))}
        assert seen == {*expected, ("b", (1, 0))}


def test_a_batch_is_the_same_for_its_number_and_seed():
    cases = {"a": make_stored_case("a", (9, 14, 12), seed=1)}
    configuration = with_presence(make_configuration((6, 8, 10)), dropout=0.5)
    first, second = (open_loader(cases, configuration, first_batch=number) for number in (0, 2))
    drawn = [next(first) for _ in range(3)]
    np.testing.assert_array_equal(drawn[2]["image"], next(second)["image"])


def test_the_device_leaves_absent_channels_at_zero():
    configuration = with_presence(make_configuration((6, 8)), dropout=0.5, slices=3)
    rules = AugmentationRules(noise_probability=1.0, brightness_probability=1.0)
    image = torch.randn((2, 8, 6, 8))
    image[:, 6:] = torch.tensor([[1.0, 0.0], [1.0, 1.0]])[:, :, None, None]
    image[0, 1:6:2] = 0
    changed, _ = build_device_augmentation(configuration, rules)(
        image, torch.zeros((2, 6, 8), dtype=torch.int8), np.array([4, 5])
    )
    assert not changed[0, 1:6:2].any()
    assert changed[0, 0:6:2].abs().amin(dim=(1, 2)).min() > 0
    assert changed[1, :6].flatten(1).std(dim=1).min() > 0
    torch.testing.assert_close(changed[:, 6:], image[:, 6:])
