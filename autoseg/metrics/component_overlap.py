"""What each predicted component has in common with the reference, so that removing it can be scored without doing it.

Counts of voxels add up over components, so that the Dice of a label after components of any size are removed follows
from one table; a map does not have to be labelled and scored again for every volume that is tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ComponentTable:
    """Components of one map by size: S different sizes, H labels or regions."""

    sizes: Counts
    """(S,), voxels of a component, those without truth too; ascending."""
    predicted: Counts
    """(S, H), voxels of all components of this size that are predicted as the label and have a truth."""
    shared: Counts
    """(S, H), those of them whose truth is the label."""

    def below(self, smallest: int) -> tuple[Counts, Counts]:
        """Sums (H,) of `predicted` and `shared` over the components of fewer than `smallest` voxels."""
        end = int(np.searchsorted(self.sizes, smallest))
        return self.predicted[:end].sum(axis=0), self.shared[:end].sum(axis=0)


def no_components(num_labels: int) -> ComponentTable:
    """The table of a map in which there is nothing."""
    return ComponentTable(*(np.zeros(shape, dtype=np.int64) for shape in (0, (0, num_labels), (0, num_labels))))


def tabulate_components(
    components: NDArray[np.integer],
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    labels: Sequence[Sequence[int]],
    ignore: int | None,
) -> ComponentTable:
    """Count, for components of each size, what they contribute to the scores of labels.

    Args:
        components: Number of each voxel's component from 1 on, 0 outside, (Z, Y, X).
        prediction: Label indices, (Z, Y, X); of every component, all voxels belong to it.
        reference: Label indices, (Z, Y, X).
        labels: Indices that make up each label or region, H of them.
        ignore: Index of voxels without truth in the reference; None if there is none.

    Returns:
        The table; memory beyond it is that of one plane and of the different triples of component, predicted and true
        index.
    """
    numbers, predicted, true, counts = _count_triples(components, prediction, reference)
    component_sizes = np.bincount(numbers, weights=counts).astype(np.int64)[1:]  # exact below 2**53
    sizes, positions = np.unique(component_sizes, return_inverse=True)
    rows = positions[numbers - 1]
    has_truth = true != ignore if ignore is not None else np.ones(len(true), dtype=bool)
    columns = []
    for indices in labels:
        is_predicted = has_truth & np.isin(predicted, indices)
        both = is_predicted & np.isin(true, indices)
        columns.append(
            [np.bincount(rows, weights=counts * chosen, minlength=len(sizes)) for chosen in (is_predicted, both)]
        )
    of_labels = np.array(columns, dtype=np.int64).reshape(len(labels), 2, len(sizes))
    return ComponentTable(sizes, of_labels[:, 0].T, of_labels[:, 1].T)


def _count_triples(
    components: NDArray[np.integer], prediction: NDArray[np.integer], reference: NDArray[np.integer]
) -> tuple[Counts, Counts, Counts, Counts]:
    """Different (component, predicted index, true index) and their voxels; component 0 is left out."""
    radix = 1 + int(max(prediction.max(initial=0), reference.max(initial=0)))
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for numbers, predicted, true in zip(components, prediction, reference, strict=True):
        inside = numbers != 0
        joint = (numbers[inside].astype(np.int64) * radix + predicted[inside]) * radix + true[inside]
        found, times = np.unique(joint, return_counts=True)
        keys.append(found)
        counts.append(times)
    triples, positions = np.unique(np.concatenate(keys), return_inverse=True)
    totals = np.bincount(positions, weights=np.concatenate(counts), minlength=len(triples)).astype(np.int64)
    pairs, true_index = np.divmod(triples, radix)
    component, predicted_index = np.divmod(pairs, radix)
    return component, predicted_index, true_index, totals
