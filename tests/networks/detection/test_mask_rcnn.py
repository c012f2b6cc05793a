"""The network as a whole: shapes, bounds, what it learns; the loss that it learns from."""

import numpy as np
import pytest
import torch

from autoseg.networks.build import build_network
from autoseg.networks.detection.detections import Detections
from autoseg.networks.detection.mask_rcnn import MaskRCNN
from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec

STRIDES = {2: ((1, 1), (2, 2), (2, 2)), 3: ((1, 1, 1), (1, 2, 2), (2, 2, 2))}
SHAPES = {2: (24, 32), 3: (8, 16, 20)}


def build(dimensions, **changes):
    torch.manual_seed(3)
    edges = {2: (6.0, 6.0), 3: (3.0, 6.0, 6.0)}[dimensions]
    detection = DetectionSpec(
        num_labels=2,
        levels=(1, 2),
        anchors=((edges,), (tuple(2 * edge for edge in edges),)),
        pyramid_features=8,
        box_features=16,
        box_size=(3,) * dimensions,
        mask_roi_size=(4,) * dimensions,
        **changes,
    )
    spec = NetworkSpec(
        architecture="unet", dimensions=dimensions, input_channels=1, output_channels=3, features=(4, 8, 8),
        strides=STRIDES[dimensions], kernel_sizes=((3,) * dimensions,) * 3, encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1), detection=detection,
    )  # fmt: skip
    network = build_network(spec, deep_supervision=False)
    assert isinstance(network, MaskRCNN)
    return network.eval()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_is_found_has_the_promised_form(dimensions):
    network, shape = build(dimensions, score_threshold=0.0, detections=9), SHAPES[dimensions]
    found = network.detect(torch.rand(2, 1, *shape))
    assert len(found) == 2
    for each in found:
        number = len(each.boxes)
        assert 0 < number <= 9
        assert each.boxes.shape == (number, 2 * dimensions)
        assert each.masks.shape == (number, *(8,) * dimensions)
        assert set(each.labels.tolist()) <= {1, 2}
        assert (each.scores[:-1] >= each.scores[1:]).all()
        start, stop = each.boxes.chunk(2, dim=1)
        assert (start >= 0).all()
        assert (start < stop).all()
        assert (stop <= torch.tensor(shape)).all()


def test_a_sample_is_found_the_same_alone_and_in_a_batch():
    network, image = build(3, score_threshold=0.0), torch.rand(2, 1, *SHAPES[3])
    together, alone = network.detect(image)[1], network.detect(image[1:])[0]
    assert torch.allclose(together.boxes, alone.boxes, atol=1e-4)
    assert torch.allclose(together.scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_logits_are_those_of_the_labels(dimensions):
    network, shape = build(dimensions, score_threshold=0.0), SHAPES[dimensions]
    probabilities = torch.softmax(network(torch.rand(2, 1, *shape)), dim=1)
    assert probabilities.shape == (2, 3, *shape)
    assert torch.isfinite(probabilities).all()


def test_nothing_found_is_background():
    network = build(2, score_threshold=1.0)
    logits = network(torch.rand(1, 1, *SHAPES[2]))
    assert (logits.argmax(dim=1) == 0).all()


def test_a_painted_object_has_the_lower_of_score_and_mask(monkeypatch):
    network = build(2)
    masks = torch.ones(1, 8, 8)
    masks[:, 4:] = 0.0
    found = Detections(
        boxes=torch.tensor([[4.0, 8.0, 12.0, 16.0]]), scores=torch.tensor([0.9]), labels=torch.tensor([2]), masks=masks
    )
    monkeypatch.setattr(network, "detect", lambda _image: [found])
    probabilities = torch.softmax(network(torch.zeros(1, 1, 24, 32)), dim=1)[0]
    assert probabilities[2, 4:7, 8:16].numpy() == pytest.approx(0.9, abs=1e-3)
    assert probabilities[2, 9:12, 8:16].numpy() == pytest.approx(0.0, abs=1e-3)
    assert (probabilities[1] < 1e-3).all()
    expected = np.zeros((24, 32), dtype=int)
    expected[4:8, 8:16] = 2
    found_labels = probabilities.argmax(dim=0).numpy()
    assert (found_labels != expected).sum() <= 8  # a row where the mask's edge is


def test_a_patch_that_the_strides_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not fit the network"):
        build(2).detect(torch.rand(1, 1, 22, 32))
