"""Images with another contrast than the training images are told and matched to them; others are left as they are."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from autoseg.imaging.arrays.contrast import measure_contrast, summarize_contrasts
from autoseg.imaging.arrays.intensity_maps import apply_map
from autoseg.imaging.formats.volume import canonical_affine, make_grid
from autoseg.inference.predictor.contrast import Adapting, compare_with_training
from autoseg.inference.predictor.training_range import TrainingRange
from autoseg.records.network import NormalizationSpec

SHAPE, SPACING = (9, 22, 17), (2.0, 1.0, 1.5)
ZSCORE = NormalizationSpec(scheme="zscore")


def anatomy(seed):
    """A bright ball on a dark ground, which is never the same."""
    generator = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    ball = 1 / (1 + np.exp(10 * (np.linalg.norm(places, axis=0) - generator.uniform(0.7, 0.85))))
    noise = ndimage.gaussian_filter(generator.normal(0, 1, SHAPE), 1)
    return (np.maximum(30 + 200 * ball + 25 * noise, 1) * generator.uniform(1, 9))[None].astype(np.float32)


def photograph(seed):
    """Structure without any preference for bright or dark."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, (1, 60, 50)), (0, 2, 2))
    return (100 + 300 * noise)[None].astype(np.float32)


def training_of(images):
    return TrainingRange(
        spacings=((2.0, 2.0), (1.0, 1.0), (1.5, 1.5)),
        fields_of_view=((18.0, 18.0), (22.0, 22.0), (25.5, 25.5)),
        lowest=((0.0, 1000.0),) * len(images[0]),
        highest=((0.0, 1000.0),) * len(images[0]),
        contrasts=summarize_contrasts([measure_contrast(image) for image in images]),
    )


def compare(training, image, images="none", specs=(ZSCORE,)):
    """`images`: which are adapted."""
    names = ("T1", "T2")[: len(image)]
    adapting = Adapting() if images == "none" else Adapting("histogram", only_unlike=images == "unlike")
    return compare_with_training(
        training, image, make_grid(SHAPE, SPACING, canonical_affine(SPACING)), names, specs, adapting
    )


@pytest.fixture(scope="module")
def training():
    return training_of([anatomy(seed) for seed in range(20)])


def darker(image):
    return np.exp(6 * image / image.max())


def test_images_like_those_of_training_are_not_told(training):
    for seed in range(100, 130):
        compared = compare(training, anatomy(seed), "unlike")
        assert (compared.warnings, compared.maps) == ((), ())


def test_an_inverted_image_is_told(training):
    for seed in range(100, 110):
        image = anatomy(seed)
        (sentence,) = compare(training, image.max() + 1 - image).warnings
        assert sentence == (
            "the intensities are unlike those of the training images: bright and dark are swapped in T1 "
            "(to match them: --adapt histogram)"
        )


def test_another_distribution_is_told_with_its_distance(training):
    (sentence,) = compare(training, darker(anatomy(100))).warnings
    assert sentence.startswith(
        "the intensities are unlike those of the training images: the distribution of T1 differs"
    )


@pytest.mark.parametrize("images", ["unlike", "all"])
def test_what_is_matched_is_told(training, images):
    compared = compare(training, darker(anatomy(100)), images)
    assert compared.warnings[0].endswith("(matched to them before prediction)")
    assert len(compared.maps) == 1


def test_asked_for_all_images_like_those_of_training_are_matched_too(training):
    compared = compare(training, anatomy(100), "all")
    assert compared.warnings == ()
    assert compared.maps[0] is not None


@pytest.mark.parametrize("change", [darker, lambda image: image.max() + 1 - image, lambda image: image])
def test_matched_images_are_those_that_they_were(training, change):
    image = anatomy(100)
    changed = change(image).astype(np.float32)
    compared = compare(training, changed, "all")
    apply_map(changed[0], compared.maps[0])
    found = (changed - changed.mean()) / changed.std()
    wanted = (image - image.mean()) / image.std()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.97


def test_only_the_inverted_channel_is_named_and_turned():
    training = training_of([np.concatenate([anatomy(seed), anatomy(seed + 200)]) for seed in range(20)])
    image = np.concatenate([anatomy(100), 3000 - anatomy(300)])
    compared = compare(training, image, "unlike", (ZSCORE, ZSCORE))
    assert "swapped in T2 (" in compared.warnings[0]
    assert compared.maps[0].target[0] < compared.maps[0].target[-1]
    assert compared.maps[1].target[0] > compared.maps[1].target[-1]


def test_photographs_are_never_called_inverted():
    training = training_of([photograph(seed) for seed in range(30)])
    assert training.contrasts[0].sign_spread > 0.25
    for seed in range(100, 120):
        assert compare(training, 255 - photograph(seed)).warnings == ()


def test_few_training_images_judge_nothing():
    training = training_of([anatomy(seed) for seed in range(4)])
    assert compare(training, 3000 - anatomy(100)).warnings == ()


def test_a_constant_channel_is_told_once(training):
    (sentence,) = compare(training, np.full((1, *SHAPE), 5, np.float32), "all").warnings
    assert sentence.startswith("the image is empty")


@pytest.mark.parametrize(
    ("scheme", "limits"), [("ct", (-np.inf, np.inf)), ("none", (-np.inf, np.inf)), ("rgb_0_1", (0, 255))]
)
def test_channels_that_keep_their_scale_get_the_intensities_of_training(training, scheme, limits):
    (curve,) = compare(training, darker(anatomy(100)), "all", (NormalizationSpec(scheme=scheme, std=1.0),)).maps
    assert curve.limits == limits
    np.testing.assert_allclose(curve.target, training.contrasts[0].quantiles)


def test_nothing_is_known_of_the_training_images(training):
    image = anatomy(100)
    assert compare(None, image, "all").maps == ()
    assert compare(replace(training, contrasts=()), 3000 - image, "all").maps == ()
