"""Labels decided by their expected Dice through the whole of prediction: ensembles, cascades, recipes, refinement."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import override

from autoseg.errors import RecordError
from autoseg.inference.refinement.refine import LoadedRefiners
from autoseg.networks.refiner import RefinerNetwork
from autoseg.records.files import write_record
from autoseg.records.selection import PatchSettings, Selection
from tests.builders import (
    CASCADE,
    LABELS,
    REGIONS,
    SHAPE,
    SPACING,
    load_exactly,
    make_cascade_plan,
    make_image,
    make_plan,
    write_model,
)

EXPECTED = "expected-dice"


def known(value):
    """A part of a prediction that was asked for."""
    assert value is not None
    return value


def write_recipe(folder, **changes):
    recipe = Selection(
        configurations=("3d_fullres", "2d"), folds=("0",), mean_foreground_dice=None, candidates=(), reasons=()
    )
    write_record(recipe.model_copy(update=changes), folder / "selection.json")


@pytest.fixture(scope="module", params=[LABELS, REGIONS], ids=["labels", "regions"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    plan = make_plan({"3d_fullres": (2.0, 1.2, 1.2), "2d": (1.1, 0.9)}, labels=request.param)
    write_model(folder, plan, {"3d_fullres": ("0",), "2d": ("0",)})
    write_recipe(folder)
    return folder


def decide_by_hand(probabilities, plan):
    """Label values by moments, and where rounding cannot turn them; (K, Z, Y, X)."""
    best, values = np.zeros(probabilities.shape[1:]), np.zeros(probabilities.shape[1:], dtype=int)
    clear = np.ones(values.shape, dtype=bool)
    is_softmax = plan.encoding.activation == "softmax"
    cuts = {}
    for number, (head, share) in enumerate(zip(plan.encoding.heads, probabilities.astype(np.float64), strict=True)):
        ordered = np.sort(share[share > 0])[::-1]
        dice = 2 * np.cumsum(ordered) / (np.arange(1, len(ordered) + 1) + ordered.sum())
        own = plan.encoding.values[head.painted_index]
        if head.name != "background" and 1 - ordered[0] < dice.max():
            cuts[own] = share, dice.max() / 2, 1 / (dice.argmax() + 1 + ordered.sum())
        elif head.name != "background" and is_softmax:  # probably absent: where it is the largest head
            largest = np.sort(probabilities, axis=0)
            clear &= largest[-1] - largest[-2] > 3e-3
            values[probabilities.argmax(axis=0) == number] = own
            best[probabilities.argmax(axis=0) == number] = np.inf
        elif head.name != "background":
            cuts[own] = share, 0.5, 1.0
    for own, (share, threshold, weight) in cuts.items():
        gain = (share - threshold) * (weight if is_softmax else 1)
        clear &= (np.abs(share - threshold) > 3e-3) & ((np.abs(gain - best) > 3e-3 * weight) | (not is_softmax))
        wanted = gain > (best if is_softmax else 0)
        values[wanted], best[wanted] = own, gain[wanted]
    return values, clear


def test_an_ensemble_is_decided_as_by_hand(model):
    predictor = load_exactly(model, decision=EXPECTED)
    found = predictor.predict(make_image(), spacing=SPACING, probabilities=True, instances=True)
    plain = load_exactly(model).predict(make_image(), spacing=SPACING, probabilities=True)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    probabilities = known(found.probabilities).astype(np.float32)
    inside = probabilities[0] != 1 if predictor.plan.encoding.activation == "softmax" else (probabilities > 0).any(0)
    expected, clear = decide_by_hand(np.where(inside, probabilities, 0), predictor.plan)
    assert clear[inside].mean() > 0.6
    np.testing.assert_array_equal(found.labels[clear & inside], expected[clear & inside])
    assert not found.labels[~inside].any()
    assert (found.labels != plain.labels).any()
    heads, instances = predictor.plan.encoding.heads, known(found.instances)
    table = [item for item in instances.table if item.voxels > 5]
    assert table
    for item in table:
        own = instances.ids == item.id
        assert (found.labels[own] == item.value).all()
        row = [predictor.plan.encoding.values[head.painted_index] for head in heads].index(item.value)
        assert item.mean_probability == pytest.approx(probabilities[row][own].mean(), abs=3e-3)


def test_the_recipe_decides_unless_it_is_asked_otherwise(model, caplog):
    image = make_image()
    asked, plain = (load_exactly(model, decision=decision).predict(image, spacing=SPACING).labels
                    for decision in (EXPECTED, None))  # fmt: skip
    try:
        write_recipe(model, decision=EXPECTED)
        chosen = load_exactly(model)
        assert chosen.provenance.decision == EXPECTED
        np.testing.assert_array_equal(chosen.predict(image, spacing=SPACING).labels, asked)
        back = load_exactly(model, decision="argmax")
        assert back.provenance.decision == "argmax"
        np.testing.assert_array_equal(back.predict(image, spacing=SPACING).labels, plain)
        write_recipe(model, region_thresholds={"core": 0.3})
        with caplog.at_level(logging.INFO, "autoseg.predict"):
            own = load_exactly(model, decision=EXPECTED)
        assert any("thresholds of regions" in text and "not used" in text for text in caplog.messages)
        np.testing.assert_array_equal(own.predict(image, spacing=SPACING).labels, asked)
        write_recipe(model, region_thresholds={"core": 0.3}, decision=EXPECTED)
        with pytest.raises(RecordError, match=r"region_thresholds\.core: .*contradicts the decision expected-dice"):
            load_exactly(model)
    finally:
        write_recipe(model)


def test_the_first_step_of_a_cascade_decides_as_in_training(tmp_path):
    plan = make_cascade_plan((3.0, 2.0, 2.0), (2.0, 1.2, 1.2))
    write_model(tmp_path, plan, {"3d_lowres": ("0",), CASCADE: ("0",)})
    plain = load_exactly(tmp_path).predict(make_image(), spacing=SPACING, probabilities=True)
    found = load_exactly(tmp_path, decision=EXPECTED).predict(make_image(), spacing=SPACING, probabilities=True)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    assert (found.labels != plain.labels).any()


def test_every_network_of_the_disagreement_decides_like_the_ensemble(tmp_path):
    write_model(tmp_path, make_plan({"3d_fullres": (2.0, 1.2, 1.2)}), {"3d_fullres": ("0", "1")})
    both = load_exactly(tmp_path, decision=EXPECTED).predict(make_image(), spacing=SPACING, uncertainty=True)
    single = [
        load_exactly(tmp_path, decision=EXPECTED, folds=[fold]).predict(make_image(), spacing=SPACING).labels
        for fold in ("0", "1")
    ]
    expected = np.mean([labels != both.labels for labels in single], axis=0)
    np.testing.assert_allclose(known(both.disagreement), expected, atol=1e-3)
    assert expected.any()


class Sharper(RefinerNetwork):
    """A refiner that moves every probability away from 0.4."""

    def __init__(self):
        nn.Module.__init__(self)

    @override
    def forward(self, image, coarse):
        return torch.logit(coarse.double(), eps=1e-6) * 1.5 + 0.2


def test_refined_probabilities_are_what_is_decided(model):
    settings = PatchSettings(size=(4, 8, 8), training_distance=(2, 4, 4), prediction_distance=(1, 3, 3))
    refiners = LoadedRefiners(settings, (Sharper(),), torch.device("cpu"))
    found = {}
    for decision in ("argmax", EXPECTED):
        parts = load_exactly(model, decision=decision).case_predictor
        for name, own in (("coarse", None), ("refined", refiners)):
            predictor = load_exactly(model, decision=decision)
            predictor.case_predictor = replace(parts, refiners=own)
            found[decision, name] = predictor.predict(make_image(), spacing=SPACING, instances=True).labels
    assert found[EXPECTED, "refined"].shape == SHAPE
    assert (found[EXPECTED, "refined"] != found[EXPECTED, "coarse"]).any()
    assert (found[EXPECTED, "refined"] != found["argmax", "refined"]).any()


def test_members_have_the_weights_of_the_recipe(model, caplog):
    image = make_image()
    single = [
        known(load_exactly(model, configuration=name, folds=["0"])
              .predict(image, spacing=SPACING, probabilities=True).probabilities).astype(np.float32)
        for name in ("3d_fullres", "2d")
    ]  # fmt: skip
    try:
        write_recipe(model, member_weights=(0.8, 0.2))
        with caplog.at_level(logging.INFO, "autoseg.predict"):
            predictor = load_exactly(model)
        both = predictor.predict(image, spacing=SPACING, probabilities=True)
        write_recipe(model, member_weights=(0.8, 0.1))
        with pytest.raises(RecordError, match="member_weights: weights must be two with the sum 1"):
            load_exactly(model)
    finally:
        write_recipe(model)
    expected = 0.8 * single[0] + 0.2 * single[1]
    np.testing.assert_allclose(known(both.probabilities).astype(np.float32), expected, atol=2e-3)
    assert any("80% 3d_fullres (fold(s) 0) and 20% 2d (fold(s) 0)" in text for text in caplog.messages)
