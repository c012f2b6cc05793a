"""Images adapted to the training images through the whole of prediction: options, recipes, exported models, the log."""

import logging

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import UsageError
from autoseg.imaging.arrays.contrast import measure_contrast, summarize_contrasts
from autoseg.records.files import write_record
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.stages.export import export_model
from tests.builders import (
    SPACING,
    load_exactly,
    make_case_fingerprint,
    make_fingerprint,
    make_plan,
    write_model,
)

SHAPE = (11, 22, 18)


def anatomy(seed):
    """A bright ball on a dark ground with rough noise, (Z, Y, X)."""
    generator = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    ball = 1 / (1 + np.exp(10 * (np.linalg.norm(places, axis=0) - 0.8)))
    return (60 + 200 * ball + 25 * ndimage.gaussian_filter(generator.normal(0, 1, SHAPE), 1)).astype(np.float32)


def inverted(image):
    return image.max() + 1 - image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    workspace = write_model(folder, plan, {"3d_fullres": ("0",)})
    ranges = ((0.0, 500.0),)
    cases = [make_case_fingerprint(f"c{number}", SHAPE, spacing=SPACING, channel_ranges=ranges) for number in range(8)]
    contrasts = summarize_contrasts([measure_contrast(anatomy(number)[None]) for number in range(8)])
    write_record(make_fingerprint(cases, plan, contrasts=contrasts), workspace.fingerprint)
    return folder


@pytest.fixture
def recipe(model):
    def write(adaptation):
        selection = Selection(
            configurations=("3d_fullres",), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=(),
            adaptation=adaptation,
        )  # fmt: skip
        write_record(selection, Workspace(model).selection)

    yield write
    Workspace(model).selection.unlink(missing_ok=True)


def predict(model, image, **options):
    return load_exactly(model, **options).predict(image, spacing=SPACING)


def agreement(first, second):
    return float(np.mean(first.labels == second.labels))


def test_an_inverted_image_is_segmented_as_it_was(model):
    image = anatomy(20)
    right, wrong = predict(model, image), predict(model, inverted(image))
    adapted = predict(model, inverted(image), adapt="histogram")
    assert len(np.unique(right.labels)) > 1
    assert agreement(right, wrong) < 0.95
    assert agreement(right, adapted) > 0.97
    assert "(to match them: --adapt histogram)" in wrong.warnings[0]
    assert "(matched to them before prediction)" in adapted.warnings[0]


def test_by_default_nothing_is_adapted(model, caplog):
    image = inverted(anatomy(20))
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        default = predict(model, image)
    np.testing.assert_array_equal(default.labels, predict(model, image, adapt="none").labels)
    assert not any("--adapt none" in message for message in caplog.messages)


def test_a_recipe_adapts_images_with_another_contrast_only(model, recipe, caplog):
    recipe("histogram")
    image = anatomy(20)
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        usual = predict(model, image)
    assert any(
        message.startswith("images with another contrast than the training images: intensities are matched")
        for message in caplog.messages
    )
    np.testing.assert_array_equal(usual.labels, predict(model, image, adapt="none").labels)
    assert agreement(usual, predict(model, inverted(image))) > 0.97
    assert agreement(usual, predict(model, inverted(image), adapt="none")) < 0.95


def test_exported_models_adapt_likewise(model, recipe, tmp_path):
    recipe("histogram")
    export_model(model, tmp_path / "model.zip")
    image = inverted(anatomy(20))
    np.testing.assert_array_equal(predict(tmp_path / "model.zip", image).labels, predict(model, image).labels)
    assert "matched to them" in predict(tmp_path / "model.zip", image).warnings[0]


def test_a_model_without_contrasts_says_so(tmp_path):
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    workspace = write_model(tmp_path, plan, {"3d_fullres": ("0",)})
    with pytest.raises(UsageError, match="has no contrasts of the training images, which --adapt histogram needs"):
        load_exactly(tmp_path, adapt="histogram")
    write_record(make_fingerprint([make_case_fingerprint(shape=SHAPE)], plan), workspace.fingerprint)
    with pytest.raises(UsageError, match=r"Predict without --adapt, or plan the dataset again"):
        load_exactly(tmp_path, adapt="histogram")
    assert "contrasts" not in workspace.fingerprint.read_text()


@pytest.fixture(scope="module")
def batch_normalised(tmp_path_factory):
    """Networks that keep statistics, as of noise of mean 3 and standard deviation 2."""
    folder = tmp_path_factory.mktemp("batch")
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2)})
    configuration = plan.configurations["3d_fullres"]
    network = configuration.network.model_copy(update={"normalization": "batch"})
    changed = {"3d_fullres": configuration.model_copy(update={"network": network})}
    write_model(folder, plan.model_copy(update={"configurations": changed}), {"3d_fullres": ("0", "1")})
    return folder


def test_statistics_of_the_image_are_taken_for_this_image_alone(batch_normalised):
    image = anatomy(20)
    predictor = load_exactly(batch_normalised, adapt="statistics")
    plain = predict(batch_normalised, image)
    first, again = (predictor.predict(image, spacing=SPACING) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert agreement(first, plain) < 1
    predictor = load_exactly(batch_normalised)
    np.testing.assert_array_equal(predictor.predict(image, spacing=SPACING).labels, plain.labels)


def test_networks_without_statistics_say_so(model):
    with pytest.raises(UsageError, match="keep no statistics, which --adapt statistics would take from the image"):
        load_exactly(model, adapt="statistics")
