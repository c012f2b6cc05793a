"""One preprocessed case: network grid in, labels on the uncropped image out. Used at prediction and by training."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.inference.ensemble import mean_forward
from autoseg.inference.mirroring import Forward
from autoseg.inference.restore import restore_labels
from autoseg.inference.sliding_window import predict_logits
from autoseg.records.case import PreprocessedCase
from autoseg.records.plan import Configuration, Plan


def predict_preprocessed(
    forwards: Sequence[Forward],
    image: NDArray[np.float32],
    record: PreprocessedCase,
    plan: Plan,
    configuration: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mirroring: bool = True,
    overlap: float = 0.5,
) -> NDArray[np.int16]:
    """Label map of a preprocessed image.

    Args:
        forwards: Networks of one configuration on `device`, in evaluation mode; their logits are averaged.
        image: (C, Z, Y, X), preprocessed.
        record: What preprocessing did.
        plan: Says labels, patch and mirror axes.
        configuration: Name in the plan.
        device: Where the networks are.
        dtype: The type of autocast; float32: none.
        mirroring: Average over mirrored variants.
        overlap: Least share of a window that it has in common with the next one, [0, 1).

    Returns:
        Label indices (Z, Y, X) in working orientation, on the image's grid before crop and transpose.
    """
    chosen = plan.configurations[configuration]
    logits = predict_case_logits(
        forwards, image, chosen, device=device, dtype=dtype, mirroring=mirroring, overlap=overlap
    )
    return restore_labels(logits, record, plan.encoding, chosen.resampling)


def predict_case_logits(
    forwards: Sequence[Forward],
    image: NDArray[np.float32],
    configuration: Configuration,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mirroring: bool = True,
    overlap: float = 0.5,
) -> Tensor:
    """Mean logits of one configuration's networks, (K, Z, Y, X) on the preprocessed grid; see above."""
    return predict_logits(
        mean_forward(forwards),
        torch.from_numpy(image),
        configuration.patch_size,
        configuration.network.output_channels,
        configuration.training.mirror_axes if mirroring else (),
        overlap=overlap,
        device=device,
        dtype=dtype,
    )
