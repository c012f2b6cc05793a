"""Costs of networks that find objects, against the module that is built."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoseg.costs.architectures import list_operations
from autoseg.costs.detection import at_prediction, detection_operations
from autoseg.costs.memory import count_parameters
from autoseg.networks.build import build_network
from autoseg.networks.detection.mask_rcnn import MaskRCNN
from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec


def make_spec(dimensions, architecture="unet", levels=(1, 2), **changes):
    strides = {2: ((1, 1), (2, 2), (1, 2), (2, 2)), 3: ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1))}[dimensions]
    kernels = {2: ((3, 3),) * 4, 3: ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 1))}[dimensions]
    detection = DetectionSpec(
        num_labels=2,
        levels=levels,
        anchors=(((4.0,) * dimensions, (6.0,) * dimensions),) * len(levels),
        pyramid_features=6,
        box_features=10,
        box_size=(3, 2, 4)[-dimensions:],
        mask_roi_size=(2, 3, 4)[-dimensions:],
        regions_per_sample=8,
    )
    return NetworkSpec(
        architecture=architecture, dimensions=dimensions, input_channels=2, output_channels=3, features=(4, 5, 7, 9),
        strides=strides, kernel_sizes=kernels, encoder_blocks=(1, 2, 1, 2), decoder_blocks=(1, 1, 1),
        detection=detection, **changes,
    )  # fmt: skip


CASES = {
    "2d": (make_spec(2), (16, 32)),
    "3d": (make_spec(3), (8, 16, 16)),
    "lowest level, residual": (make_spec(3, "residual_unet", levels=(2, 3)), (8, 16, 16)),
    "parts": (make_spec(2, block="dense", attention="channel", skip="nested"), (16, 32)),
}


def build(spec):
    network = build_network(spec, deep_supervision=False)
    assert isinstance(network, MaskRCNN)
    return network


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_the_modules(case):
    spec, _ = CASES[case]
    assert count_parameters(spec) == sum(parameter.numel() for parameter in build(spec).parameters())


@pytest.mark.parametrize("case", CASES)
def test_multiplications_are_the_modules_with_the_planned_regions(case):
    spec, patch = CASES[case]
    network, detection = build(spec), spec.detection
    regions, objects = torch.rand(8, 6, *detection.box_size), torch.rand(2, 6, *detection.mask_roi_size)
    with FlopCounterMode(display=False) as counter:
        network.score_anchors(torch.rand(1, 2, *patch))
        network.boxes(regions)
        network.masks(objects)
    assert sum(operation.macs for operation in list_operations(spec, patch)) == counter.get_total_flops() / 2


@pytest.mark.parametrize("case", CASES)
def test_kept_features_of_pyramid_and_proposals_are_those_that_autograd_keeps(case):
    spec, patch = CASES[case]
    network = build(spec)
    with torch.no_grad():
        maps = network.encoder(torch.rand(1, 2, *patch))
    given = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *maps)}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        address = tensor.untyped_storage().data_ptr()
        if address not in given:
            kept.setdefault(address, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = [network.proposals(features) for features in network.pyramid(maps)]
    assert len(outputs) == 2
    regions = {"regions_per_sample": 1}
    none = spec.detection.model_copy(update=regions)
    shapes = [features.shape[2:] for features in maps]
    operations = list(detection_operations(spec, none, shapes))
    heads = next(
        place for place, operation in enumerate(operations) if operation.kind == "interpolate" and operation.kept
    )
    expected = sum(operation.elements for operation in operations[:heads] if operation.kept)
    assert sum(math.prod(tensor.shape) for tensor in kept.values()) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_prediction_has_a_box_for_each_proposal_and_a_mask_for_each_detection(case):
    spec, patch = CASES[case]
    numbers = {"proposals": 20, "detections": 5}
    spec = spec.model_copy(update={"detection": spec.detection.model_copy(update=numbers)})
    network, detection = build(spec), spec.detection
    with FlopCounterMode(display=False) as counter:
        network.score_anchors(torch.rand(1, 2, *patch))
        network.boxes(torch.rand(20, 6, *detection.box_size))
        network.masks(torch.rand(5, 6, *detection.mask_roi_size))
    macs = sum(operation.macs for operation in list_operations(at_prediction(spec), patch))
    assert macs == counter.get_total_flops() / 2


def test_networks_without_objects_predict_as_they_train():
    spec = make_spec(2).model_copy(update={"detection": None})
    assert at_prediction(spec) is spec
