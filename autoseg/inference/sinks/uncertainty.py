"""Uncertainty of a model, voxel by voxel: entropy of its probabilities, and disagreement between its networks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.records.case import PreprocessedCase, Triple
from autoseg.records.dataset import LabelEncoding, indices_by_label


class EntropyVolume:
    """Normalised entropy on the image's own grid, filled slab by slab from the mean probabilities."""

    def __init__(self, shape: Triple, encoding: LabelEncoding) -> None:
        """Begin with 0 everywhere: outside the crop, background is certain.

        Args:
            shape: Shape of the image in working orientation, (z, y, x).
            encoding: Label encoding of the heads.
        """
        self.values: NDArray[np.float16] = np.zeros(shape, dtype=np.float16)
        """(Z, Y, X) in working orientation, in [0, 1]; see `normalized_entropy`."""
        self._encoding = encoding

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        entropy = normalized_entropy(probabilities, self._encoding)
        cropped_view(self.values, record)[start:stop] = entropy.to(torch.float16).cpu().numpy()


def normalized_entropy(probabilities: Tensor, encoding: LabelEncoding) -> Tensor:
    """Entropy as a fraction of the largest possible entropy.

    Args:
        probabilities: (K, ...) by head; core and border of a label count together.
        encoding: softmax: Shannon's entropy of the K labels, divided by log K. sigmoid: the mean over regions of each
            region's binary entropy in bits.

    Returns:
        Tensor (...), in [0, 1]: 0 where the model is certain, 1 where all labels are equally probable (regions: where
        each has a probability of one half).

    References:
        Shannon 1948, "A mathematical theory of communication".
    """
    probabilities = label_probabilities(probabilities, encoding)
    total = torch.zeros(probabilities.shape[1:], device=probabilities.device)
    for head in probabilities:
        total += torch.special.entr(head)
        if encoding.activation == "sigmoid":
            total += torch.special.entr(1 - head)
    heads = len(probabilities)
    largest = math.log(heads) if encoding.activation == "softmax" else heads * math.log(2)
    return total.div_(largest).clamp_(0, 1)


def label_probabilities(probabilities: Tensor, encoding: LabelEncoding) -> Tensor:
    """Probabilities of labels from probabilities (K, ...) by head: core and border of a label are summed.

    Returns:
        Labels in the order of `indices_by_label`; `probabilities` itself where no label is divided.
    """
    groups = indices_by_label(encoding)
    if len(groups) == len(encoding.heads):
        return probabilities
    return torch.stack([probabilities[list(indices)].sum(dim=0) for indices in groups.values()])


def fold_disagreement(labels: NDArray[np.integer], own: Iterable[NDArray[np.integer]]) -> NDArray[np.float16]:
    """Fraction of the networks whose own label differs from the ensemble's, voxel by voxel.

    Each network counts as a model of its own, post-processing included. The networks run one after the other, so that
    only one network's logits exist at any time; this takes as long as the prediction itself.

    Args:
        labels: The ensemble's label map, (Z, Y, X).
        own: Label maps of its networks, one at a time, each used only until the next one; at least one.

    Returns:
        (Z, Y, X), in [0, 1]: 0 where all agree with the ensemble.

    Raises:
        ValueError: If there is no network.
    """
    different = np.zeros(labels.shape, dtype=np.uint16)
    networks = 0
    for other in own:
        different += other != labels
        networks += 1
    if not networks:
        raise ValueError("the disagreement needs at least one network")
    return np.divide(different, np.float32(networks), dtype=np.float32).astype(np.float16)


def single_networks(members: Sequence[LoadedConfiguration]) -> tuple[LoadedConfiguration, ...]:
    """Every fold of every configuration as a model of its own; the weights are shared.

    A fold of a cascade follows the same fold of the previous step, or all folds of that step if it lacks this one.
    """
    return tuple(_only_fold(member, fold) for member in members for fold in member.folds)


def _only_fold(member: LoadedConfiguration, fold: str) -> LoadedConfiguration:
    previous = None if member.previous is None else _only_fold(member.previous, fold)
    if fold not in member.folds:
        return replace(member, previous=previous)
    return replace(member, folds=(fold,), networks=(member.networks[member.folds.index(fold)],), previous=previous)
