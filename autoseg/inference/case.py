"""One preprocessed case and one configuration: logits on the network's grid. Used at prediction and by training."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.inference.ensemble import mean_forward
from autoseg.inference.label_channels import append_label_map, expand_label_map
from autoseg.inference.model_loading import LoadedConfiguration
from autoseg.inference.network_pass import trial_forward
from autoseg.inference.sliding_window import predict_logits


def predict_case_logits(
    loaded: LoadedConfiguration,
    image: NDArray[np.float32],
    previous: NDArray[np.int16] | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    mirroring: bool = True,
    overlap: float = 0.5,
) -> Tensor:
    """Mean logits of one configuration's networks.

    Args:
        loaded: Networks on `device`.
        image: (C, Z, Y, X), preprocessed.
        previous: Label indices of a cascade's previous stage on the same grid, (Z, Y, X); None without a cascade.
        device: Where the networks are.
        dtype: The type of autocast; float32: none.
        mirroring: Average over mirrored variants.
        overlap: Least share of a window that it has in common with the next one, [0, 1).

    Returns:
        (K, Z, Y, X), float32, on the CPU.
    """
    configuration = loaded.configuration
    forward = trial_forward(mean_forward(loaded.networks), loaded.trials)
    if previous is not None:
        forward = expand_label_map(forward, configuration.network.input_channels - len(image))
        image = append_label_map(image, previous)
    return predict_logits(
        forward,
        torch.from_numpy(image),
        configuration.patch_size,
        configuration.network.output_channels,
        loaded.mirror_axes if mirroring else (),
        overlap=overlap,
        device=device,
        dtype=dtype,
    )
