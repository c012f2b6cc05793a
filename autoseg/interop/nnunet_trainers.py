"""What is known about nnU-Net's trainers: whether one can change a prediction beyond its weights and mirroring."""

import re
from dataclasses import dataclass

_STOCK = re.compile(
    r"nnUNetTrainer(_?("
    r"\d+epochs?|\d+ep|NoMirroring|onlyMirror01|DA5|DA5ord0|DA5Segord0|DASegOrd0|NoDA|noDummy2DDA|warmup"
    r"|CELoss|DiceLoss|Topk10Loss|Topk10LossLS01|DiceCELoss_noSmooth|DiceTopK10Loss|CosAnneal"
    r"|(Vanilla)?Adam(1en3|3en4)?|Adan(1en1|1en3|3en4)?|BN|NoDeepSupervision|probabilisticOversampling(_\d+)?"
    r"|Benchmark|noDataLoading))*"
)
"""Names of the trainers that come with nnU-Net 2.8.1 and earlier and build its own networks: each changes the
training alone, but for BN, whose weights show it."""


@dataclass(frozen=True)
class TrainerNote:
    """What to say about a trainer."""

    sentence: str
    warning: str
    """Empty when its predictions are known to be those of nnU-Net's default trainer with its weights."""


def describe_trainer(name: str) -> TrainerNote:
    """Say whether a trainer is one of nnU-Net's own.

    Examples:
        >>> describe_trainer("nnUNetTrainer_250epochs_NoMirroring").warning
        ''
        >>> describe_trainer("MyTrainer").sentence
        'MyTrainer does not come with nnU-Net.'
    """
    if _STOCK.fullmatch(name):
        return TrainerNote(f"{name} comes with nnU-Net and predicts as its default trainer does.", "")
    return TrainerNote(
        f"{name} does not come with nnU-Net.",
        f"trained by {name}, which does not come with nnU-Net. Its weights fit the network in plans.json; if it "
        "changes the forward pass or the prediction in other ways, label maps will differ: compare a few with its own.",
    )
