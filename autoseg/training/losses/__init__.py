"""Losses between logits and the reference: by name, for labels and for regions, at one or several levels."""

from autoseg.training.losses.build import Reduce, SegmentationLoss, build_loss, deep_supervision_weights

__all__ = ["Reduce", "SegmentationLoss", "build_loss", "deep_supervision_weights"]
