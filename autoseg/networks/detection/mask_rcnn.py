"""A network that finds the objects of a patch one by one: label, box and mask of each.

    image -> encoder -> feature pyramid -> a score and a box for every anchor -> proposals
    proposals -> features of each -> label and box -> the best of those that overlap -> features of each -> mask

References:
    He et al., "Mask R-CNN", 2017, with the feature pyramid of Lin et al. 2017 and the region proposals of Ren et al.
    2015; in three dimensions as by Jaeger et al., "Retina U-Net", 2019. Encoder and strides are the planned U-Net's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import initialize_weights
from autoseg.networks.detection.boxes import (
    clip_boxes,
    decode_boxes,
    is_not_empty,
    make_anchors,
    mean_edges,
    suppress_overlapping,
)
from autoseg.networks.detection.detections import Detections
from autoseg.networks.detection.heads import BoxHead, FeaturePyramid, MaskHead, ProposalHead, draw_last_layers
from autoseg.networks.detection.regions import align_regions, paste_mask
from autoseg.networks.unet import Encoder, check_sizes
from autoseg.records.detection import DetectionSpec
from autoseg.records.network import NetworkSpec

MIN_PROBABILITY = 1e-6
"""Probability of a label where nothing of it was found."""


@dataclass(frozen=True)
class AnchorScores:
    """What the region proposals are made from, of all levels one after the other; N anchors in D axes."""

    pyramid: list[Tensor]
    """Features of each level, (B, F, *S) each."""
    anchors: list[Tensor]
    """Boxes of each level, (N of the level, 2 * D)."""
    logits: list[Tensor]
    """Whether an anchor is an object's, (B, N of the level)."""
    moves: list[Tensor]
    """From each anchor to the object's box, (B, N of the level, 2 * D)."""


class MaskRCNN(nn.Module):
    """Encoder, feature pyramid, proposals, and heads of the regions.

    Parameter names: `encoder...` as a U-Net's, `pyramid...`, `proposals...`, `boxes...`, `masks...`.

    Attributes:
        total_stride: What every size of a patch must be a multiple of.
    """

    def __init__(self, spec: NetworkSpec, detection: DetectionSpec, encoder: Encoder) -> None:
        """Join the parts and draw fresh weights, from torch's global generator.

        Args:
            spec: What the encoder was built from.
            detection: Its `detection`.
            encoder: Gives the features of all levels.
        """
        super().__init__()
        self.detection = detection
        self.total_stride = tuple(prod(strides) for strides in zip(*spec.strides, strict=True))
        steps = list(accumulate(spec.strides, lambda step, stride: tuple(map(prod, zip(step, stride, strict=True)))))
        self.steps = [steps[level] for level in detection.levels]
        self.encoder = encoder
        self.pyramid = FeaturePyramid(spec, detection)
        self.proposals = ProposalHead(detection)
        self.boxes = BoxHead(detection)
        self.masks = MaskHead(detection)
        initialize_weights(self)
        draw_last_layers(self.proposals, self.boxes)

    @override
    def forward(self, image: Tensor) -> Tensor:
        """Compute logits of the labels as a U-Net gives them, from the objects that are found.

        Args:
            image: (B, C, *S), every size a multiple of the total stride.

        Returns:
            (B, K, *S), background first. A voxel is as probable to have a label as the more doubtful of two: that it
            belongs to the object's mask, and that the object has the label; of several objects the most probable
            counts.
        """
        shape = tuple(image.shape[2:])
        return torch.stack([self._paint(found, shape) for found in self.detect(image)])

    @torch.no_grad()
    def detect(self, image: Tensor) -> list[Detections]:
        """Find the objects of each sample of a batch, (B, C, *S); sizes are multiples of the total stride."""
        scored = self.score_anchors(image)
        shape = tuple(image.shape[2:])
        return [
            self._detect_in([features[sample] for features in scored.pyramid], proposals, shape)
            for sample, proposals in enumerate(self.propose(scored, shape))
        ]

    def score_anchors(self, image: Tensor) -> AnchorScores:
        """Score every anchor of every level; the heads of the regions take the features that come with the scores.

        Raises:
            ValueError: If a size does not fit.
        """
        check_sizes(tuple(image.shape[2:]), self.total_stride)
        pyramid = self.pyramid(self.encoder(image))
        outputs = [self.proposals(features) for features in pyramid]
        anchors = [
            make_anchors(features.shape[2:], step, sizes, image.device)
            for features, step, sizes in zip(pyramid, self.steps, self.detection.anchors, strict=True)
        ]
        logits, moves = zip(*outputs, strict=True)
        return AnchorScores(pyramid, anchors, [level.float() for level in logits], [level.float() for level in moves])

    @torch.no_grad()
    def propose(self, scored: AnchorScores, shape: Sequence[int]) -> list[Tensor]:
        """The best boxes of each sample that do not overlap too much within their level, (N, 2 * D) each.

        Args:
            scored: Scores of a batch.
            shape: Shape of the patch.
        """
        batch = range(len(scored.logits[0]))
        return [self._propose_in(scored, sample, shape) for sample in batch]

    def _propose_in(self, scored: AnchorScores, sample: int, shape: Sequence[int]) -> Tensor:
        spec = self.detection
        boxes, scores = [], []
        for anchors, logits, moves in zip(scored.anchors, scored.logits, scored.moves, strict=True):
            highest, chosen = logits[sample].topk(min(spec.proposals_per_level, len(anchors)))
            found = clip_boxes(decode_boxes(moves[sample][chosen], anchors[chosen]), shape)
            wide = is_not_empty(found)
            found, highest = found[wide], highest[wide]
            kept = suppress_overlapping(found, highest, torch.zeros_like(highest), spec.proposal_nms_iou)
            boxes.append(found[kept])
            scores.append(highest[kept])
        best = torch.argsort(torch.cat(scores), descending=True, stable=True)[: spec.proposals]
        return torch.cat(boxes)[best]

    def features_of(
        self, pyramid: Sequence[Tensor], boxes: Tensor, bins: Sequence[int], shape: Sequence[int]
    ) -> Tensor:
        """Features of regions, each from the level whose anchors are nearest to it in size.

        Args:
            pyramid: Features of each level of one sample, (F, *S) each.
            boxes: (N, 2 * D), within the patch.
            bins: Bins along each axis.
            shape: Shape of the patch.

        Returns:
            (N, F, *bins), float32.

        References:
            Lin et al. 2017, equation 1, with the anchors' sizes in place of 224 voxels at the fourth level.
        """
        edges = [
            sum(mean_edges(make_anchors((1,) * len(shape), step, sizes, boxes.device)).log().tolist()) / len(sizes)
            for step, sizes in zip(self.steps, self.detection.anchors, strict=True)
        ]
        nearest = (mean_edges(boxes).log()[:, None] - torch.tensor(edges, device=boxes.device)).abs().argmin(dim=1)
        features = pyramid[0].new_zeros((len(boxes), len(pyramid[0]), *bins), dtype=torch.float32)
        for level, of_level in enumerate(pyramid):
            chosen = torch.nonzero(nearest == level)[:, 0]
            features = features.index_copy(0, chosen, align_regions(of_level, boxes[chosen], bins, shape))
        return features

    def _detect_in(self, pyramid: Sequence[Tensor], proposals: Tensor, shape: Sequence[int]) -> Detections:
        spec = self.detection
        logits, moves = self.boxes(self.features_of(pyramid, proposals, spec.box_size, shape))
        scores = torch.softmax(logits.float(), dim=1)[:, 1:]
        regions, labels = torch.nonzero(scores >= spec.score_threshold, as_tuple=True)
        scale = torch.tensor(move_scale(spec), device=proposals.device)
        found = clip_boxes(decode_boxes(moves[regions, labels].float() * scale, proposals[regions]), shape)
        wide = is_not_empty(found)
        found, labels, certain = found[wide], labels[wide], scores[regions, labels][wide]
        kept = suppress_overlapping(found, certain, labels, spec.detection_nms_iou)[: spec.detections]
        found, labels, certain = found[kept], labels[kept], certain[kept]
        masks = self.masks(self.features_of(pyramid, found, spec.mask_roi_size, shape))
        own = masks[torch.arange(len(found), device=found.device), labels]
        return Detections(boxes=found, scores=certain, labels=labels + 1, masks=torch.sigmoid(own.float()))

    def _paint(self, found: Detections, shape: tuple[int, ...]) -> Tensor:
        """Logits of one sample, (K, *S), whose softmax are the probabilities of the labels."""
        labels = torch.full((self.detection.num_labels, *shape), MIN_PROBABILITY, device=found.boxes.device)
        for box, score, label, mask in zip(found.boxes, found.scores, found.labels, found.masks, strict=True):
            slices, pasted = paste_mask(mask, box, shape)
            painted = labels[int(label) - 1][slices]
            torch.maximum(painted, torch.minimum(pasted, score), out=painted)
        background = (1.0 - labels.amax(dim=0, keepdim=True)).clamp(min=MIN_PROBABILITY)
        return torch.log(torch.cat((background, labels)))


def move_scale(detection: DetectionSpec) -> tuple[float, ...]:
    """Scale of the moves that the box head predicts: a tenth for shifts, a fifth for logarithms of sizes.

    References:
        Girshick, "Fast R-CNN", 2015 (targets of variance 1).
    """
    return (*(0.1,) * detection.dimensions, *(0.2,) * detection.dimensions)
