"""Several networks answer as one: the mean of the logits of one configuration's folds."""

from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.inference.mirroring import Forward


def mean_forward(forwards: Sequence[Forward]) -> Forward:
    """A network pass whose logits are the mean over several networks.

    Blending windows is linear, so averaging each batch gives the same as averaging whole volumes, and only one
    volume of logits exists whatever the number of folds.

    Args:
        forwards: Networks with the same heads; at least one.

    Raises:
        ValueError: If there is none.

    References:
        nnU-Net v2 (Isensee et al. 2021): logits, not probabilities, are averaged over folds.
    """
    if not forwards:
        raise ValueError("an ensemble needs at least one network")
    first, *others = forwards
    if not others:
        return first

    def forward(windows: Tensor) -> Tensor:
        total = first(windows).to(torch.float32, copy=True)
        for other in others:
            total += other(windows)
        return total.div_(len(forwards))

    return forward
