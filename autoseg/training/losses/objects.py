"""The loss of a network that finds objects: proposals, labels, boxes and masks, added up.

    anchors     which of them are an object's (cross-entropy), and its box (smooth L1)
    regions     which label, background included (cross-entropy), its box (smooth L1), its mask (cross-entropy)

References:
    Ren et al., "Faster R-CNN", 2015; Girshick, "Fast R-CNN", 2015; He et al., "Mask R-CNN", 2017. All weights are 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.detection.boxes import encode_boxes
from autoseg.networks.detection.mask_rcnn import AnchorScores, MaskRCNN, move_scale
from autoseg.training.losses.object_targets import (
    Chosen,
    Objects,
    choose_anchors,
    choose_regions,
    cut_masks,
    find_objects,
    make_generator,
)

ANCHOR_BETA = 1 / 9
"""Where smooth L1 of an anchor's moves becomes linear (Ren et al. 2015 in Detectron)."""

REGION_BETA = 1.0
"""The same for a region's (Girshick 2015)."""


@dataclass(frozen=True)
class ObjectLosses:
    """The five terms of a batch, scalars."""

    proposals: Tensor
    """Whether anchors are an object's."""
    proposal_boxes: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor

    def total(self) -> Tensor:
        """Their sum."""
        return self.proposals + self.proposal_boxes + self.labels + self.boxes + self.masks


class ObjectLoss(nn.Module):
    """The network with its loss, because the regions that are compared depend on both."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, image: Tensor, codes: Tensor, progress: float) -> Tensor:
        """The loss of a batch.

        Args:
            image: (B, C, *S).
            codes: Target, (B, *S), integer; see `imaging.arrays.object_codes`.
            progress: Fraction of the training that is done, [0, 1]; decides what is drawn.

        Returns:
            A float32 scalar on which every parameter of the network has an influence.
        """
        unused = torch.stack([parameter.sum() for parameter in self.network.parameters()]).sum() * 0.0
        return self.losses(image, codes, progress).total() + unused

    def losses(self, image: Tensor, codes: Tensor, progress: float) -> ObjectLosses:
        """The terms by themselves; arguments as above."""
        generator, shape = make_generator(progress), tuple(image.shape[2:])
        num_values = self.network.detection.num_labels + 1
        scored = self.network.score_anchors(image)
        objects = [find_objects(sample, num_values) for sample in codes]
        proposals = self.network.propose(scored, shape)
        of_anchors = self._compare_anchors(scored, objects, generator)
        of_regions = self._compare_regions(scored, objects, proposals, codes, generator)
        return ObjectLosses(*of_anchors, *of_regions)

    def _compare_anchors(
        self, scored: AnchorScores, objects: Sequence[Objects], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        spec = self.network.detection
        anchors, logits, moves = torch.cat(scored.anchors), torch.cat(scored.logits, 1), torch.cat(scored.moves, 1)
        scores, answers, errors = [], [], []
        for sample, found in enumerate(objects):
            chosen = choose_anchors(
                anchors,
                found.boxes,
                (spec.anchor_negative_iou, spec.anchor_positive_iou),
                (spec.anchors_per_sample, spec.anchor_positive_fraction),
                generator,
            )
            scores += [logits[sample][chosen.positive], logits[sample][chosen.negative]]
            answers += [torch.ones_like(scores[-2]), torch.zeros_like(scores[-1])]
            wanted = encode_boxes(found.boxes[chosen.owners], anchors[chosen.positive])
            errors.append(_smooth_l1(moves[sample][chosen.positive], wanted, ANCHOR_BETA))
        compared = torch.cat(scores)
        count = max(len(compared), 1)
        entropy = F.binary_cross_entropy_with_logits(compared, torch.cat(answers), reduction="sum") / count
        return entropy, torch.stack(errors).sum() / count

    def _compare_regions(
        self,
        scored: AnchorScores,
        objects: Sequence[Objects],
        proposals: Sequence[Tensor],
        codes: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        spec, shape = self.network.detection, tuple(codes.shape[1:])
        regions, labels, wanted_moves, numbers = [], [], [], (spec.regions_per_sample, spec.region_positive_fraction)
        of_masks, wanted_masks = [], []
        for sample, (found, proposed) in enumerate(zip(objects, proposals, strict=True)):
            boxes = torch.cat((proposed, found.boxes))
            chosen = choose_regions(boxes, found.boxes, spec.region_positive_iou, numbers, generator)
            positive = boxes[chosen.positive]
            pyramid = [level[sample] for level in scored.pyramid]
            compared = torch.cat((positive, boxes[chosen.negative]))
            regions.append(self.network.features_of(pyramid, compared, spec.box_size, shape))
            labels.append(_labels_of(found, chosen))
            wanted_moves.append(encode_boxes(found.boxes[chosen.owners], positive))
            of_masks.append(self.network.features_of(pyramid, positive, spec.mask_roi_size, shape))
            wanted_masks.append(cut_masks(codes[sample], positive, found.codes[chosen.owners], spec.mask_size))
        every_label = torch.cat(labels)
        logits, moves = self.network.boxes(torch.cat(regions))
        entropy = F.cross_entropy(logits.float(), every_label, reduction="sum") / max(len(every_label), 1)
        own = torch.nonzero(every_label > 0)[:, 0]
        scale = torch.tensor(move_scale(spec), device=moves.device)
        found_moves = moves.float()[own, every_label[own] - 1]
        error = _smooth_l1(found_moves, torch.cat(wanted_moves) / scale, REGION_BETA) / max(len(every_label), 1)
        masks = self.network.masks(torch.cat(of_masks)).float()
        own_masks = masks[torch.arange(len(own), device=own.device), every_label[own] - 1]
        wanted = torch.cat(wanted_masks)
        mask_entropy = F.binary_cross_entropy_with_logits(own_masks, wanted, reduction="sum") / max(wanted.numel(), 1)
        return entropy, error, mask_entropy


def _labels_of(found: Objects, chosen: Chosen) -> Tensor:
    """Labels of the chosen regions, those of objects first, then background."""
    return torch.cat((found.labels[chosen.owners], torch.zeros_like(chosen.negative)))


def _smooth_l1(found: Tensor, wanted: Tensor, beta: float) -> Tensor:
    return F.smooth_l1_loss(found, wanted, beta=beta, reduction="sum")
