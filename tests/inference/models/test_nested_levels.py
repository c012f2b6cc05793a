"""U-Net++ with fewer levels: the logits of an earlier column, without the work of the lower levels."""

from typing import Any

import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.inference.models.loading import load_configuration
from autoseg.inference.models.nested_levels import keep_nested_levels
from autoseg.stages.predict import PredictionOptions, Predictor
from tests.builders import SPACING, make_configuration, make_image, make_network_spec, make_plan, write_model

CPU = torch.device("cpu")
LEVELS = 4


def write_nested(root, **network):
    spec = make_network_spec(2, features=(4, 5, 6, 7), **{"skip": "nested"} | network)
    configuration = make_configuration((1.0, 1.0), network=spec, patch_size=(24, 32), preprocessed_as="2d")
    plan = make_plan(configurations={"2d": configuration})
    return plan, write_model(root, plan, {"2d": ("0",)}, mirror_axes=())


def load(root, **network):
    plan, workspace = write_nested(root, **network)
    return load_configuration(workspace, plan, "2d", (), "final", CPU)


@pytest.mark.parametrize("levels", [3, 4])
def test_fewer_levels_give_the_logits_of_an_earlier_column(tmp_path, levels):
    """In training mode a whole network gives those of all columns, the last one first."""
    [whole], member = load(tmp_path).networks, load(tmp_path)
    image = torch.randn(2, 1, 24, 32)
    trained: Any = whole.train()
    trained.deep_supervision = True
    with torch.no_grad():
        every = trained(image)
        keep_nested_levels((member,), levels)
        torch.testing.assert_close(member.networks[0](image), every[LEVELS - levels])


def test_lower_levels_of_the_encoder_are_not_computed(tmp_path):
    member = load(tmp_path)
    keep_nested_levels((member,), 3)
    network: Any = member.networks[0]
    assert len(network.encoder(torch.randn(1, 1, 24, 32))) == 3


def test_label_maps_of_fewer_levels_differ_and_no_choice_is_all_of_them(tmp_path):
    _, workspace = write_nested(tmp_path)
    found = {}
    for levels in (None, 4, 3):
        options = PredictionOptions(device="cpu", precision="fp32", nested_levels=levels)
        found[levels] = Predictor(workspace.root, options).predict(make_image(), spacing=SPACING).labels
    np.testing.assert_array_equal(found[None], found[4])
    assert (found[None] != found[3]).any()


@pytest.mark.parametrize(
    ("network", "levels", "sentence"),
    [
        ({"skip": "gate"}, 3, "--nested-levels 3: the network of 2d is no U-Net\\+\\+ \\(skip=nested\\), and has no"),
        ({}, 2, "--nested-levels 2: expected 3 to 4 for the network of 2d"),
        ({}, 5, "--nested-levels 5: expected 3 to 4"),
        ({"deep_supervision": False}, 3, "--nested-levels 3: expected 4 for the network of 2d"),
        ({"head": "points", "coarse_level": 1}, 3, "the point head of 2d has learnt from the last column"),
    ],
)
def test_what_no_head_was_trained_for_is_refused(tmp_path, network, levels, sentence):
    with pytest.raises(UsageError, match=sentence):
        keep_nested_levels((load(tmp_path, **network),), levels)
