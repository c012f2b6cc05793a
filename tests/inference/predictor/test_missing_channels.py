"""What is said of an image that lacks channels."""

import logging

import numpy as np
import pytest

from autoseg.errors import PredictionError
from autoseg.inference.predictor.missing_channels import check_presence, find_missing_channels
from tests.builders import make_configuration, make_network_spec, make_plan


def plan_of(*, presence):
    network = make_network_spec(input_channels=4 if presence else 2, output_channels=3)
    plan = make_plan({"3d_fullres": (1.0, 1.0, 1.0)}, channel_names=("t1", "t2"))
    heads = len(plan.encoding.heads)
    network = network.model_copy(update={"output_channels": heads})
    normalization = plan.configurations["3d_fullres"].normalization
    configuration = make_configuration(network=network, normalization=normalization, channel_presence=presence)
    return make_plan(channel_names=("t1", "t2"), configurations={"3d_fullres": configuration})


def image_with(*channels):
    image = np.zeros((2, 3, 4, 5), dtype=np.float32)
    image[list(channels)] = 2
    return image


def test_the_log_says_what_an_image_lacks(caplog):
    with caplog.at_level(logging.INFO, "autoseg.predict"):
        check_presence(image_with(1), "p7", plan_of(presence=True))
        check_presence(image_with(0, 1), "p8", plan_of(presence=True))
        check_presence(image_with(1), "p9", plan_of(presence=False))
    assert [record.getMessage() for record in caplog.records] == ["p7: predicted from t2; without t1"]
    assert find_missing_channels(image_with(1), plan_of(presence=False)) == ()


def test_an_image_without_any_channel_is_refused():
    with pytest.raises(PredictionError, match=r"^every channel of the image is missing or 0 everywhere: t1, t2\. Give"):
        check_presence(image_with(), "p7", plan_of(presence=True))
