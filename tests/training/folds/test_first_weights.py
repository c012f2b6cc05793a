"""Which weights a fold starts from: published ones only where it begins, and where no other model is given."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoseg.training.folds import first_weights
from tests.builders import make_configuration


@pytest.fixture
def loaded(monkeypatch):
    names: list[str] = []
    monkeypatch.setattr(first_weights, "load_published_encoder", lambda _network, name, _planes: names.append(name))
    return names


def fold(**changes: Any) -> Any:
    configuration = make_configuration((1.0, 1.0))
    training = configuration.training.model_copy(update={"initial_weights": "efficientnet-lite0"})
    values = {
        "configuration": configuration,
        "spec": training,
        "options": SimpleNamespace(seed=0, pretrained=None, freeze_encoder=False),
        "pretrained": None,
        "pretrained_encoder": None,
        "soft": None,
        "starts_afresh": True,
    }
    return SimpleNamespace(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["efficientnet-lite0"]),
        ({"starts_afresh": False}, []),
        ({"spec": make_configuration((1.0, 1.0)).training}, []),
    ],
    ids=["begins", "resumes", "not planned"],
)
def test_published_weights_are_for_trainings_that_begin(loaded, changes, expected):
    first_weights.make_first_network(fold(**changes))
    assert loaded == expected


def test_an_encoder_that_is_given_replaces_published_weights(loaded, tmp_path):
    kernels = torch.randn(6, 4, 3, 3)
    options = SimpleNamespace(seed=0, pretrained=tmp_path / "encoder.pth", freeze_encoder=True)
    given = {"encoder.levels.1.0.convolution.weight": kernels}
    network = first_weights.make_first_network(fold(options=options, pretrained_encoder=given))
    assert loaded == []
    assert torch.equal(network.state_dict()["encoder.levels.1.0.convolution.weight"], kernels)
    trainable = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trainable == {"decoder"}
