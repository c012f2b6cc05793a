"""What a detection's settings may be, and that networks without them keep their old form."""

import pytest
from pydantic import ValidationError

from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec

ANCHORS = (((2.0, 8.0, 8.0),), ((4.0, 16.0, 16.0),))


def make_spec(**changes):
    values = {
        "num_labels": 2, "levels": (1, 2), "anchors": ANCHORS, "box_size": (3, 5, 5), "mask_roi_size": (4, 7, 7),
    }  # fmt: skip
    return DetectionSpec.model_validate({**values, **changes})


def make_network(detection=None, **changes):
    values = {
        "architecture": "unet", "dimensions": 3, "input_channels": 1, "output_channels": 3, "features": (4, 8, 16),
        "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "kernel_sizes": ((3, 3, 3),) * 3,
        "encoder_blocks": (2, 2, 2), "decoder_blocks": (2, 2), "detection": detection,
    }  # fmt: skip
    return NetworkSpec.model_validate({**values, **changes})


def test_a_mask_has_twice_the_bins_of_its_region():
    assert make_spec().mask_size == (8, 14, 14)
    assert make_spec().dimensions == 3


def test_a_network_without_detection_is_written_as_before():
    assert "detection" not in make_network(None).model_dump(mode="json")
    network = make_network(make_spec())
    assert NetworkSpec.model_validate_json(network.model_dump_json()) == network


@pytest.mark.parametrize(
    ("changes", "field", "what"),
    [
        ({"levels": (1, 3)}, "levels", "expected levels that follow each other, such as (1, 2)"),
        ({"levels": (1, 2, 3)}, "anchors", "2 entries, expected 3"),
        ({"anchors": (ANCHORS[0], ANCHORS[1] * 2)}, "anchors", "the same number at each level"),
        ({"anchors": (((8.0, 8.0),), ANCHORS[1])}, "anchors.0", "expected 3 numbers like `box_size`"),
        ({"mask_roi_size": (7, 7)}, "mask_roi_size", "expected 3 numbers like `box_size`"),
        ({"anchor_negative_iou": 0.8}, "anchor_negative_iou", "expected at most `anchor_positive_iou`"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, field, what):
    with pytest.raises(ValidationError) as caught:
        make_spec(**changes)
    assert field in str(caught.value)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architecture": "efficientnet_unet"}, "only unet or residual_unet can have a pyramid"),
        ({"detection": make_spec(levels=(2, 3))}, "expected at most 2, the lowest level"),
        ({"output_channels": 2}, "expected 1: `output_channels` without the background"),
        ({"dimensions": 2}, "expected 2 numbers"),
    ],
)
def test_settings_that_do_not_fit_the_network_are_refused(changes, what):
    with pytest.raises(ValidationError) as caught:
        make_network(**{"detection": make_spec(), **changes})
    assert what in str(caught.value)
