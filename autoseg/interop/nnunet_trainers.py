"""Known trainers of nnU-Net: whether a trainer can change a prediction beyond its weights and mirroring.

Tested in tests/interop/test_nnunet_import.py.
"""

import re
from dataclasses import dataclass

_STOCK = re.compile(
    r"nnUNetTrainer(_?("
    r"\d+epochs?|\d+ep|NoMirroring|onlyMirror01|DA5|DA5ord0|DA5Segord0|DASegOrd0|NoDA|noDummy2DDA|warmup"
    r"|CELoss|DiceLoss|Topk10Loss|Topk10LossLS01|DiceCELoss_noSmooth|DiceTopK10Loss|CosAnneal"
    r"|(Vanilla)?Adam(1en3|3en4)?|Adan(1en1|1en3|3en4)?|BN|NoDeepSupervision|probabilisticOversampling(_\d+)?"
    r"|Benchmark|noDataLoading))*"
)
"""Names of the trainers of nnU-Net up to 2.8.1 that build its own networks: they change training alone, except BN,
which the weights show."""


@dataclass(frozen=True)
class TrainerNote:
    """Sentence and warning about a trainer."""

    sentence: str
    warning: str
    """Warning; empty when its predictions are known to be those of nnU-Net's default trainer with its weights."""


def describe_trainer(name: str) -> TrainerNote:
    """Describe whether a trainer is part of nnU-Net.

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
