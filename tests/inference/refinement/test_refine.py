"""Blending refined patches: against whole arrays in numpy, and with refiners whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import override

from autoseg.imaging.arrays.labels import foreground_heads, make_encoding
from autoseg.inference.refinement.patches import plan_refiner
from autoseg.inference.refinement.refine import (
    CoarseCase,
    LoadedRefiners,
    coarse_case,
    find_head_surface,
    refine_labels,
)
from autoseg.inference.restoring.restore import LogitStream, restore_labels
from autoseg.networks.refiner import RefinerNetwork
from autoseg.records.case import PreprocessedCase
from autoseg.records.network import ResamplingSpec
from autoseg.records.selection import PatchSettings

CPU = torch.device("cpu")
SOFTMAX = make_encoding({"background": 0, "one": 10, "two": 20})
REGIONS = make_encoding({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))
SETTINGS = PatchSettings(size=(4, 8, 8), training_distance=(2, 4, 4), prediction_distance=(1, 3, 3))


class Known(nn.Module):
    """Answers with a function of image and coarse probability instead of a trained network's."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    @override
    def forward(self, image, coarse):
        return torch.logit(self.answer(image, coarse).double())


IDENTITY = Known(lambda _image, coarse: coarse)


def loaded(*networks, settings=SETTINGS):
    return LoadedRefiners(settings, networks, CPU)


def make_case(encoding, shape=(6, 20, 17), seed=0):
    """Smooth random probabilities and the labels that follow from them."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    heads = len(encoding.heads)
    centres = generator.uniform(0.3, 0.7, (heads, 3)) * shape
    logits = 3 - np.stack([np.linalg.norm((grid - centre) / (2, 5, 5), axis=-1) ** 2 * 2 for centre in centres])
    if encoding.activation == "softmax":
        logits[0] = 0
        values = np.exp(logits) / np.exp(logits).sum(axis=0)
        labels = values.astype(np.float16).argmax(axis=0).astype(np.uint8)
    else:
        values = 1 / (1 + np.exp(-logits))
        labels = np.zeros(shape, dtype=np.uint8)
        for head, value in zip(encoding.heads, values.astype(np.float16), strict=True):
            labels[value > 0.5] = head.painted_index
    image = generator.normal(size=(2, *shape)).astype(np.float32)
    return CoarseCase(labels, labels, values.astype(np.float16), image)


@pytest.mark.parametrize("encoding", [SOFTMAX, REGIONS])
def test_refiners_that_change_nothing_change_no_label(encoding):
    case = make_case(encoding)
    labels, probabilities = case.labels.copy(), case.probabilities.copy()
    assert len(np.unique(labels)) == 3
    refine_labels(case, encoding, loaded(IDENTITY, IDENTITY))
    np.testing.assert_array_equal(case.labels, labels)
    np.testing.assert_array_equal(case.probabilities, probabilities)


@pytest.mark.parametrize("encoding", [SOFTMAX, REGIONS])
@pytest.mark.parametrize("size", [(4, 8, 8), (1, 8, 8)])
def test_blending_agrees_with_whole_arrays(encoding, size):
    """The answer 0.9 where the image is bright, else 0.2: known at every voxel, so patches are only weights."""
    settings = PatchSettings(size=size, training_distance=(1, 4, 4), prediction_distance=(1, 3, 3))
    case = make_case(encoding, seed=1)
    labels, before = case.labels.copy(), case.probabilities.astype(np.float64)
    bright = np.where(case.image[1] > 0, 0.9, 0.2)
    answers = (Known(lambda image, _: torch.where(image[:, 1] > 0, 1.0, 0.3)),
               Known(lambda image, _: torch.where(image[:, 1] > 0, 0.8, 0.1)))  # fmt: skip
    surfaces = {
        number: find_head_surface(case.labels, head, settings.size, settings.prediction_distance)
        for number, head in foreground_heads(encoding)
    }
    refine_labels(case, encoding, loaded(*answers, settings=settings))
    expected = before.copy()
    for number, surface in surfaces.items():
        assert surface is not None
        box, centres = surface
        weights = np.zeros(labels.shape)
        for centre in centres:
            at = [c + part.start for c, part in zip(centre, box, strict=True)]
            offsets = [np.arange(n) - a for n, a in zip(labels.shape, at, strict=True)]
            inside = [(o >= -(s // 2)) & (o < s - s // 2) for o, s in zip(offsets, size, strict=True)]
            gauss = [np.exp(-8 * (o / s) ** 2) * i for o, s, i in zip(offsets, size, inside, strict=True)]
            weights += np.einsum("i,j,k->ijk", *gauss)
        share = np.minimum(weights, 1)
        expected[number] = (1 - share) * before[number] + share * bright
        if encoding.activation == "softmax":
            expected[0] -= expected[number] - before[number]
    np.testing.assert_allclose(case.probabilities, expected, atol=4e-3)
    if encoding.activation == "softmax":
        decided = case.probabilities.argmax(axis=0)
    else:
        decided = np.where(case.probabilities[1] > 0.5, 2, case.probabilities[0] > 0.5)
    np.testing.assert_array_equal(case.labels, decided)
    assert (case.labels != labels).any()
    untouched = (case.probabilities == before.astype(np.float16)).all(axis=0)
    assert untouched.any()
    np.testing.assert_array_equal(case.labels[untouched], labels[untouched])


def test_regions_have_their_thresholds():
    """Probability 0.6 everywhere: enough for `whole`, not for `core`, which asks for more."""
    case = make_case(REGIONS)
    labels = case.labels.copy()
    refine_labels(case, REGIONS, loaded(Known(lambda _, coarse: torch.full_like(coarse, 0.6))), {"core": 0.7})
    changed = case.labels != labels
    assert changed.any()
    certain = (np.abs(case.probabilities[:].astype(float) - 0.6) < 1e-3).all(axis=0)
    assert certain.any()
    assert set(np.unique(case.labels[certain])) == {1}


def test_nothing_predicted_is_left_alone():
    case = make_case(SOFTMAX)
    empty = CoarseCase(np.zeros_like(case.labels), np.zeros_like(case.labels), case.probabilities.copy(), case.image)
    refine_labels(empty, SOFTMAX, loaded(Known(lambda _, coarse: 1 - coarse)))
    assert not empty.labels.any()


def make_answer(seed=3):
    """Logits of a case that was transposed and cropped: 5 x 14 x 11 of 16 x 9 x 13 voxels."""
    record = PreprocessedCase(
        case="a", configuration="3d_fullres", spacing=(2.0, 1.0, 1.0), shape=(5, 14, 11),
        original_spacing=(2.0, 1.0, 1.0), original_shape=(9, 16, 13), crop_start=(2, 1, 1), crop_stop=(7, 15, 12),
        transpose=(1, 0, 2),
    )  # fmt: skip
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 5, 14, 11)).astype(np.float32))
    return lambda: [LogitStream(logits.unbind(1), record, ResamplingSpec())]


class Seen:
    """Notes the last row."""

    last = 0

    def write(self, record, start, stop, probabilities):
        self.last = stop


def test_streamed_case_lies_in_the_crop_and_its_file_goes():
    answers = make_answer()
    image = np.zeros((1, 5, 14, 11), dtype=np.float32)
    expected = restore_labels(answers(), SOFTMAX)
    seen = Seen()
    with coarse_case(answers(), image, SOFTMAX, [seen]) as case:
        np.testing.assert_array_equal(case.volume, expected)
        assert case.labels.shape == (5, 14, 11)
        assert np.shares_memory(case.labels, case.volume)
        np.testing.assert_array_equal(case.probabilities[:].argmax(axis=0), case.labels)
        path = getattr(case.probabilities, "urlpath")  # noqa: B009 (an array in memory has none)
    assert seen.last == 5
    assert not Path(path).exists()
    with coarse_case(answers(), image, SOFTMAX) as case:
        refine_labels(case, SOFTMAX, loaded(IDENTITY))
        np.testing.assert_array_equal(case.volume, expected)
    with coarse_case(answers(), image, SOFTMAX) as case:
        refine_labels(case, SOFTMAX, loaded(Known(lambda _, coarse: 1 - coarse)))
        assert (case.volume != expected).any()


@pytest.mark.parametrize("size", [(8, 24, 24), (1, 48, 48)])
def test_an_untrained_refiner_is_the_identity(size):
    settings = PatchSettings(size=size, training_distance=(1, 8, 8), prediction_distance=(1, 8, 8))
    network = RefinerNetwork(plan_refiner(settings, channels=1)).eval()
    generator = np.random.default_rng(0)
    image = torch.from_numpy(generator.normal(size=(2, 1, *size)).astype(np.float32))
    coarse = torch.from_numpy(generator.uniform(0.01, 0.99, (2, *size)).astype(np.float32))
    with torch.inference_mode():
        np.testing.assert_allclose(torch.sigmoid(network(image, coarse)), coarse, atol=1e-6)
