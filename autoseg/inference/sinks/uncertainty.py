"""How sure a model is, voxel by voxel: entropy of its probabilities, and how many of its networks say otherwise."""

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
        """Begin with 0 everywhere: outside the crop there is surely background.

        Args:
            shape: Of the image in working orientation, (z, y, x).
            encoding: What the heads of the probabilities are.
        """
        self.values: NDArray[np.float16] = np.zeros(shape, dtype=np.float16)
        """(Z, Y, X) in working orientation, in [0, 1]; see `normalized_entropy`."""
        self._encoding = encoding

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        entropy = normalized_entropy(probabilities, self._encoding)
        cropped_view(self.values, record)[start:stop] = entropy.to(torch.float16).numpy()


def normalized_entropy(probabilities: Tensor, encoding: LabelEncoding) -> Tensor:
    """Entropy as a share of the largest that is possible.

    Args:
        probabilities: (K, ...) by head; core and border of a label count together.
        encoding: softmax: Shannon's entropy of the K labels, divided by log K. sigmoid: the mean over regions of each
            region's binary entropy in bits.

    Returns:
        Of the other axes, in [0, 1]: 0 where the model is sure, 1 where all labels are equally likely (regions: where
        each is as likely as not).

    References:
        Shannon 1948, "A mathematical theory of communication".
    """
    probabilities = label_probabilities(probabilities, encoding)
    total = torch.zeros(probabilities.shape[1:])
    for head in probabilities:
        total += torch.special.entr(head)
        if encoding.activation == "sigmoid":
            total += torch.special.entr(1 - head)
    heads = len(probabilities)
    largest = math.log(heads) if encoding.activation == "softmax" else heads * math.log(2)
    return total.div_(largest).clamp_(0, 1)


def label_probabilities(probabilities: Tensor, encoding: LabelEncoding) -> Tensor:
    """Probabilities (K, ...) by head as those of labels: core and border of a label are summed.

    Returns:
        In the order of `indices_by_label`; `probabilities` itself where no label is divided.
    """
    groups = indices_by_label(encoding)
    if len(groups) == len(encoding.heads):
        return probabilities
    return torch.stack([probabilities[list(indices)].sum(dim=0) for indices in groups.values()])


def fold_disagreement(labels: NDArray[np.integer], own: Iterable[NDArray[np.integer]]) -> NDArray[np.float16]:
    """Share of the networks whose own label differs from the ensemble's, voxel by voxel.

    Every network is taken for a model of its own, post-processing included. It has to be run apart from the others,
    which costs as much as the prediction itself, so that no more than one case's logits exist at any time.

    Args:
        labels: The ensemble's label map, (Z, Y, X).
        own: Label maps of its networks, one at a time, each of which is needed only until the next; at least one.

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
        raise ValueError("the disagreement of no network at all is not defined")
    return np.divide(different, np.float32(networks), dtype=np.float32).astype(np.float16)


def single_networks(members: Sequence[LoadedConfiguration]) -> tuple[LoadedConfiguration, ...]:
    """Every fold of every configuration as a model of its own; the weights are shared.

    A fold of a cascade follows the same fold of the stage before it, or all of that stage's folds where it lacks this
    one.
    """
    return tuple(_only_fold(member, fold) for member in members for fold in member.folds)


def _only_fold(member: LoadedConfiguration, fold: str) -> LoadedConfiguration:
    previous = None if member.previous is None else _only_fold(member.previous, fold)
    if fold not in member.folds:
        return replace(member, previous=previous)
    return replace(member, folds=(fold,), networks=(member.networks[member.folds.index(fold)],), previous=previous)
