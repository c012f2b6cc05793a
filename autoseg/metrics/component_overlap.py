"""Overlap of each predicted component with the reference, so that its removal can be scored without carrying it out.

Counts of voxels add up over components, so that the Dice of a label after components of any size are removed follows
from one table; a map does not have to be labelled and scored again for every volume that is tried.

Tested in tests/selection/test_component_removal.py.
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
    """(S,), voxels of a component, ignored ones too; ascending."""
    predicted: Counts
    """(S, H), voxels of all components of this size that are predicted as the label and not ignored."""
    shared: Counts
    """(S, H), those of them that are the label in the reference."""

    def below(self, smallest: int) -> tuple[Counts, Counts]:
        """Sums (H,) of `predicted` and `shared` over the components of fewer than `smallest` voxels."""
        end = int(np.searchsorted(self.sizes, smallest))
        return self.predicted[:end].sum(axis=0), self.shared[:end].sum(axis=0)


def no_components(num_labels: int) -> ComponentTable:
    """Table of a map without any component."""
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
        ignore: Index of ignored voxels in the reference; None: no voxel is ignored.

    Returns:
        The table; memory beyond it is that of one plane and of the different triples of component, predicted and
        reference index.
    """
    numbers, predicted, expected, counts = _count_triples(components, prediction, reference)
    component_sizes = np.bincount(numbers, weights=counts).astype(np.int64)[1:]  # exact below 2**53
    sizes, positions = np.unique(component_sizes, return_inverse=True)
    rows = positions[numbers - 1]
    is_counted = expected != ignore if ignore is not None else np.ones(len(expected), dtype=bool)
    columns = []
    for indices in labels:
        is_predicted = is_counted & np.isin(predicted, indices)
        both = is_predicted & np.isin(expected, indices)
        columns.append(
            [np.bincount(rows, weights=counts * chosen, minlength=len(sizes)) for chosen in (is_predicted, both)]
        )
    of_labels = np.array(columns, dtype=np.int64).reshape(len(labels), 2, len(sizes))
    return ComponentTable(sizes, of_labels[:, 0].T, of_labels[:, 1].T)


def _count_triples(
    components: NDArray[np.integer], prediction: NDArray[np.integer], reference: NDArray[np.integer]
) -> tuple[Counts, Counts, Counts, Counts]:
    """Different (component, predicted index, reference index) and their voxels; component 0 is left out."""
    radix = 1 + int(max(prediction.max(initial=0), reference.max(initial=0)))
    keys, counts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for numbers, predicted, expected in zip(components, prediction, reference, strict=True):
        inside = numbers != 0
        joint = (numbers[inside].astype(np.int64) * radix + predicted[inside]) * radix + expected[inside]
        found, times = np.unique(joint, return_counts=True)
        keys.append(found)
        counts.append(times)
    triples, positions = np.unique(np.concatenate(keys), return_inverse=True)
    totals = np.bincount(positions, weights=np.concatenate(counts), minlength=len(triples)).astype(np.int64)
    pairs, reference_index = np.divmod(triples, radix)
    component, predicted_index = np.divmod(pairs, radix)
    return component, predicted_index, reference_index, totals
