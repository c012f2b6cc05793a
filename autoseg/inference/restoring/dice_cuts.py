"""Where to cut the voxels of a label, ordered by their probability, so that the expected Dice is largest.

    histogram of one label's probabilities in one case --expected Dice of every cut--> the best cut

The most probable voxels make the best label map of their number, so one number, the cut, is all that is chosen. Voxels
count as independent of each other, each with its own probability; then the expected Dice is an integral of a product
over voxels, which a histogram gives without any further approximation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 1024
"""Bins of equal width of a probability in [0, 1]; cuts lie between them."""
NODE_DISTANCE = 0.1
"""Distance of the nodes of the integral in their own variable; its error is then below 1e-9."""
NODES_BEYOND = 4.5
"""Nodes reach so far beyond both ends of the range of scales, where the integrand is below 1e-30."""
MAX_PROBABILITY = 1 - 1e-12
"""Largest probability of a voxel: the logarithm of its complement stays finite."""


@dataclass(frozen=True)
class DiceCut:
    """The voxels of one label with the largest expected Dice."""

    threshold: float
    """Lower end of the lowest bin that is taken, [0, 1]; 1: no voxel."""
    weight: float
    """Gain in expected Dice of one more voxel, per unit of probability above the threshold; 0 without voxels."""
    expected_dice: float
    """Expected Dice of these voxels; of none: the probability that the label is absent."""

    @property
    def is_absent(self) -> bool:
        """Whether no voxel is better than any."""
        return self.weight == 0


NOTHING = 1.0
"""Threshold that no probability exceeds."""


def choose_dice_cut(counts: NDArray[np.integer], sums: NDArray[np.float64]) -> DiceCut:
    """The cut with the largest expected Dice.

    No voxel is taken if that is better: two empty label maps agree, so their Dice counts as 1. How often
    the label is absent depends on how voxels hang together. If they were independent, a label would hardly ever be
    absent from an image of millions of voxels, however small their probabilities; the largest value that the
    probabilities allow is one minus the largest of them, and that is compared with the best cut.

    Args:
        counts: Voxels by bin of their probability, (NUM_BINS,); bins ascend.
        sums: Sums of their probabilities by bin.

    References:
        Dai and Li 2023 (RankSEG, JMLR 24): cut of the ranked voxels. Differs: bins in place of single voxels, which
        needs no sorting; the expected Dice is exact for them, not approximated by a normal distribution or by moments;
        and the empty label map competes, where RankSEG leaves out classes without a probability above one half.
    """
    found = np.flatnonzero(counts)[::-1]  # the most probable voxels first
    if not len(found):
        return DiceCut(NOTHING, 0.0, 1.0)
    voxels = counts[found].astype(np.float64)
    means = sums[found] / voxels
    dice = expected_dice_by_cut(means, voxels)
    best = int(np.argmax(dice))
    absent = 1 - float(means[0])
    if absent >= dice[best]:
        return DiceCut(NOTHING, 0.0, absent)
    size = voxels[: best + 1].sum() + sums.sum()
    return DiceCut(float(found[best] / NUM_BINS), 1 / float(size), float(dice[best]))


def expected_dice_by_cut(probabilities: NDArray[np.float64], voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected Dice of the first group of voxels, of the first two, and so on.

    With N voxels taken, Dice is 2 sum_j Y_j / (N + sum_i Y_i), Y_j being 1 with the probability p_j. Its expectation is
    2 sum_j p_j E[1 / (N + 1 + sum_{i != j} Y_i)], and E[1 / (a + X)] is the integral of s^(a - 1) E[s^X] over s from 0
    to 1, where E[s^X] is the product of 1 - p_i + p_i s over all voxels.

    Args:
        probabilities: One for each group of voxels, (0, 1].
        voxels: Number of voxels in each group, > 0.

    Returns:
        One value for each number of groups, [0, 1].

    References:
        Takahasi and Mori 1974: the double exponential substitution s = exp(-u), u = exp(v - exp(-v)) / scale.
    """
    probabilities = np.minimum(probabilities, MAX_PROBABILITY)
    taken = np.cumsum(voxels)
    scale = taken[-1] + probabilities @ voxels + 1
    v = np.arange(-NODES_BEYOND, np.log(scale) + NODES_BEYOND, NODE_DISTANCE)
    u = np.exp(v - np.exp(-v)) / scale
    missing = -np.expm1(-u)  # 1 - s
    log_product = voxels @ np.log1p(-probabilities[:, None] * missing)
    shares = (voxels * probabilities)[:, None] / (1 - probabilities[:, None] * missing)
    integrand = np.exp(log_product - (taken[:, None] + 1) * u) * np.cumsum(shares, axis=0)
    dice: NDArray[np.float64] = 2 * NODE_DISTANCE * integrand @ (u * (1 + np.exp(-v)))
    return dice
