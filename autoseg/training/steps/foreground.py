"""Whether patches show foreground, and whether the network predicts any of it: a collapse to background shows here."""

import torch
from torch import Tensor

from autoseg.records.checkpoint import ForegroundFound
from autoseg.records.dataset import LabelEncoding
from autoseg.training.distributed import Ranks
from autoseg.training.losses.partial_labels import split_target


class ForegroundWatch:
    """Looks at training and validation batches; the answers stay where the logits are until they are asked for."""

    def __init__(self, encoding: LabelEncoding) -> None:
        self._encoding = encoding
        self._seen: Tensor | None = None
        """Number of batches with foreground in the reference, and with foreground in the prediction, (2,)."""

    @torch.no_grad()
    def add(self, logits: Tensor, target: Tensor) -> None:
        """Look at one batch.

        Args:
            logits: At full resolution, (B, K, *S).
            target: Label indices, len(encoding.values) on ignored voxels, (B, *S), integer.
        """
        target, _ = split_target(target, self._encoding)
        is_foreground = (target > 0) & (target < len(self._encoding.values))
        if self._encoding.activation == "softmax":
            is_predicted = logits[:, 1:].amax(dim=1) > logits[:, 0]
        else:
            is_predicted = logits > 0
        seen = torch.stack((is_foreground.any(), is_predicted.any())).long()
        self._seen = seen if self._seen is None else self._seen + seen

    def take(self, ranks: Ranks) -> ForegroundFound | None:
        """What was seen since the last call, by all processes: None where no patch had foreground."""
        if self._seen is None:
            return None
        reference, predicted = ranks.sum(self._seen).tolist()
        self._seen = None
        if not reference:
            return None
        return "some" if predicted else "none"


def join_findings(first: ForegroundFound | None, second: ForegroundFound | None) -> ForegroundFound | None:
    """What two parts of an epoch found together."""
    if "some" in (first, second):
        return "some"
    return first or second
