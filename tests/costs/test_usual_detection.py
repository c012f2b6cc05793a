"""Heads that find objects as planners count them."""

from autoseg.costs.usual_detection import usual_anchors, with_detection, with_usual_detection
from tests.builders import make_network_spec


def test_levels_begin_below_full_resolution_and_anchors_grow_with_the_strides():
    network = make_network_spec(
        3, features=(4, 8, 16), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), output_channels=3, deep_supervision=True
    )
    detecting = with_usual_detection(network)
    assert detecting.detection is not None
    assert not detecting.deep_supervision
    assert detecting.detection.num_labels == 2
    assert detecting.detection.levels == (1, 2)
    first, second = (anchors[0] for anchors in detecting.detection.anchors)
    assert first == (4.0, 8.0, 8.0)
    assert second == (8.0, 16.0, 16.0)
    assert detecting.detection.pyramid_features == 16
    assert detecting.detection.box_features == 64


def test_levels_and_anchors_of_the_data_change_nothing_else():
    network = make_network_spec(2, features=(4, 8, 16), strides=((1, 1), (2, 2), (2, 2)))
    anchors = usual_anchors(network.strides, (1, 2))
    assert with_detection(network, (1, 2), anchors) == with_usual_detection(network)
    fewer = with_detection(network, (1,), anchors[:1]).detection
    assert fewer is not None
    assert fewer.levels == (1,)


def test_a_network_that_cannot_have_them_stays_as_it_is():
    strides = ((1, 1), (2, 2), (2, 2))
    network = make_network_spec(2, architecture="unext", features=(4, 4, 16), strides=strides, token_levels=2)
    assert with_usual_detection(network) is network
