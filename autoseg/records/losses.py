"""The losses by name, and the module that says what each is made of; light enough for a help text.

A new loss is a function `NAME_terms(batch_dice)` in a module of autoseg/training/losses, and its name in both lists
here. Tested in tests/training/losses/test_build.py.
"""

from collections.abc import Mapping
from typing import Final, Literal

LossName = Literal[
    "dice_ce", "dice", "ce", "weighted_ce", "balanced_ce", "topk_ce", "focal", "tversky", "focal_tversky",
    "generalized_dice", "boundary", "exp_log", "dice_topk", "dice_focal",
    "cldice", "skeleton_recall",
]  # fmt: skip

LOSS_MODULES: Final[Mapping[LossName, str]] = {
    "dice_ce": "named",
    "dice": "named",
    "ce": "named",
    "weighted_ce": "named",
    "balanced_ce": "named",
    "topk_ce": "named",
    "focal": "named",
    "tversky": "named",
    "focal_tversky": "named",
    "generalized_dice": "named",
    "boundary": "named",
    "exp_log": "named",
    "dice_topk": "named",
    "dice_focal": "named",
    "cldice": "named",
    "skeleton_recall": "named",
}
"""Module of autoseg/training/losses that has the function `NAME_terms`, by the name of the loss."""

Regularizer = Literal["none", "entropy", "crf"]
"""What is added to a loss on voxels whose reference is not known. crf: a gated conditional random field."""
