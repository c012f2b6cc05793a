"""Labels that networks give a preprocessed image, with how probable each is, for a student to learn from."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.preprocessing import OUTSIDE
from autoseg.imaging.arrays.soft_codes import encode_soft_labels
from autoseg.imaging.arrays.storage import StoredCase
from autoseg.inference.models.case_logits import stream_stored_case
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.restoring.decisions import activate, decide_probabilities
from autoseg.inference.sinks.temperature import divide_logits
from autoseg.records.dataset import LabelEncoding


def label_softly(
    loaded: LoadedConfiguration, stored: StoredCase, temperatures: Mapping[str, float], encoding: LabelEncoding
) -> NDArray[np.int16]:
    """Soft labels of a case on its preprocessed grid, slice by slice while the logits stream.

    Args:
        loaded: The teacher's networks.
        stored: Preprocessed case of the same configuration.
        temperatures: Temperature of each head, by which its probabilities are calibrated.
        encoding: Labels of the model.

    Returns:
        Codes (Z, Y, X), see `imaging.arrays.soft_codes`; -1 outside the nonzero mask.
    """
    divisors = torch.tensor([temperatures[head.name] for head in encoding.heads])
    is_softmax = encoding.activation == "softmax"
    codes = np.empty(stored.record.shape, dtype=np.int16)
    for index, logits in enumerate(stream_stored_case(loaded, stored).slices):
        probabilities = divide_logits(activate(logits.float(), encoding), divisors, is_softmax=is_softmax)
        labels = decide_probabilities(probabilities, encoding)
        confidence = probability_of_indices(probabilities, labels, encoding)
        codes[index] = encode_soft_labels(labels.cpu().numpy(), confidence.cpu().numpy(), len(encoding.values))
        codes[index][stored.array[-1, index] == OUTSIDE] = OUTSIDE
    return codes


def probability_of_indices(probabilities: Tensor, labels: Tensor, encoding: LabelEncoding) -> Tensor:
    """How probable label indices are as targets of all heads.

    Args:
        probabilities: (K, ...) by head.
        labels: Label indices, (...).
        encoding: softmax: the probability of the head of a label. sigmoid: that of the least certain region, which is
            its own inside the region, and one minus it outside.

    Returns:
        Tensor (...), in [0, 1].
    """
    inside = torch.zeros((len(encoding.heads), len(encoding.values)), dtype=torch.bool)
    for position, head in enumerate(encoding.heads):
        inside[position, list(head.indices)] = True
    is_inside = inside.to(probabilities.device)[:, labels.long()]
    if encoding.activation == "softmax":
        return torch.where(is_inside, probabilities, 0.0).amax(dim=0)
    return torch.where(is_inside, probabilities, 1.0 - probabilities).amin(dim=0)
