"""The parts of a network that finds objects: feature pyramid, region proposals, box head, mask head.

As published they have no normalisation; their activation is a ReLU.

Tested in tests/networks/detection/test_mask_rcnn.py.
"""

from collections.abc import Sequence
from math import prod
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import choose_layers
from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec

MASK_CONVOLUTIONS = 4
"""Convolutions of the mask head before its upsampling (He et al. 2017)."""

FIRST_DEVIATION = 0.01
"""Standard deviation of the first weights of the last layers that score and move boxes, a tenth of it for the moves of
regions (Ren et al. 2015; Girshick 2015)."""


class FeaturePyramid(nn.Module):
    """Features of all levels that know what the lower ones saw: from the lowest level up, added to the encoder's own.

    Levels below those of the pyramid take part and give no features. Kernels are the encoder's.

    Parameter names: `lateral.<n>` and `smooth.<n>`, from the finest level.

    References:
        Lin et al., "Feature pyramid networks for object detection", 2017.
    """

    def __init__(self, network: NetworkSpec, detection: DetectionSpec) -> None:
        super().__init__()
        convolution, first = choose_layers(network.dimensions).convolution, detection.levels[0]
        width = detection.pyramid_features
        self.first = first
        self.lateral = nn.ModuleList(
            convolution(features, width, kernel_size=1) for features in network.features[first:]
        )
        self.smooth = nn.ModuleList(
            convolution(width, width, kernel_size=kernel, padding=tuple(size // 2 for size in kernel))  # type: ignore[arg-type]
            for kernel in (network.kernel_sizes[level] for level in detection.levels)
        )

    @override
    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's features of all levels -> those of the pyramid's levels, (B, F, *S) each, finest first."""
        lateral = [convolve(features) for convolve, features in zip(self.lateral, maps[self.first :], strict=True)]
        merged = [lateral[-1]]
        for finer in reversed(lateral[:-1]):
            merged.append(finer + F.interpolate(merged[-1], size=finer.shape[2:], mode="nearest"))
        return [smooth(features) for smooth, features in zip(self.smooth, reversed(merged), strict=False)]


class ProposalHead(nn.Module):
    """Score and box of every anchor, with the same weights at every level.

    References:
        Ren et al., "Faster R-CNN: towards real-time object detection with region proposal networks", 2015.
    """

    def __init__(self, detection: DetectionSpec) -> None:
        super().__init__()
        convolution, anchors = choose_layers(_axes(detection)).convolution, len(detection.anchors[0])
        width = detection.pyramid_features
        self.hidden = convolution(width, width, kernel_size=3, padding=1)
        self.score = convolution(width, anchors, kernel_size=1)
        self.move = convolution(width, anchors * 2 * detection.dimensions, kernel_size=1)

    @override
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, *S) -> logits, (B, N), and moves, (B, N, 2 * D), of the N anchors in the order of `make_anchors`."""
        hidden = F.relu(self.hidden(features), inplace=True)
        scores, moves = self.score(hidden), self.move(hidden)
        anchors = scores.shape[1]
        return scores.movedim(1, -1).flatten(1), moves.movedim(1, -1).reshape(
            len(features), -1, moves.shape[1] // anchors
        )


class BoxHead(nn.Module):
    """Label of every region, and its box for each label.

    References:
        Girshick, "Fast R-CNN", 2015; two hidden layers as by Lin et al. 2017.
    """

    def __init__(self, detection: DetectionSpec) -> None:
        super().__init__()
        inputs, width = detection.pyramid_features * prod(detection.box_size), detection.box_features
        self.hidden = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True)
        )
        self.score = nn.Linear(width, detection.num_labels + 1)
        self.move = nn.Linear(width, detection.num_labels * 2 * detection.dimensions)

    @override
    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F, *bins) -> logits (N, K + 1), background first, and moves (N, K, 2 * D)."""
        hidden = self.hidden(regions.flatten(1))
        scores, moves = self.score(hidden), self.move(hidden)
        return scores, moves.unflatten(1, (scores.shape[1] - 1, -1))


class MaskHead(nn.Module):
    """A mask of every region for each label.

    References:
        He et al., "Mask R-CNN", 2017.
    """

    def __init__(self, detection: DetectionSpec) -> None:
        super().__init__()
        layers, width = choose_layers(_axes(detection)), detection.pyramid_features
        convolutions: list[nn.Module] = []
        for _ in range(MASK_CONVOLUTIONS):
            convolutions += [layers.convolution(width, width, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
        self.hidden = nn.Sequential(*convolutions)
        self.upsampling = layers.transposed_convolution(width, width, kernel_size=2, stride=2)
        self.mask = layers.convolution(width, detection.num_labels, kernel_size=1)

    @override
    def forward(self, regions: Tensor) -> Tensor:
        """Features (N, F, *bins) -> logits (N, K, *mask_size)."""
        masks: Tensor = self.mask(F.relu(self.upsampling(self.hidden(regions)), inplace=True))
        return masks


def _axes(detection: DetectionSpec) -> Literal[2, 3]:
    return 2 if detection.dimensions == 2 else 3


def draw_last_layers(proposals: ProposalHead, boxes: BoxHead) -> None:
    """Small first weights, so that training begins with boxes where the anchors are and no label preferred."""
    layers = {proposals.score: 1.0, proposals.move: 1.0, boxes.score: 1.0, boxes.move: 0.1}
    for layer, factor in layers.items():
        nn.init.normal_(layer.weight, std=factor * FIRST_DEVIATION)
