"""How far probability lies outside the reference's boundary.

Tested in tests/training/losses/test_maps.py and tests/training/losses/test_build.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.training.losses.level import Level, mean_of
from autoseg.training.losses.maps import maps_of_level, signed_distance


@dataclass(frozen=True)
class BoundaryTerm:
    """Mean over annotated voxels and foreground classes of probability times signed distance to the reference.

    It has no lower bound of its own and is empty for a class absent from the patch, so it only goes with a term of
    overlap. Every level has its own distances, in its own voxels: the lower ones cost a seventh of the full one (3D).

    References:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019. Differs: distances run to the face
        between two voxels, which makes them symmetric; averaged over annotated voxels; distances in voxels, whatever
        the spacing.
    """

    def sums(self, level: Level) -> Tensor:
        """Sum probability times distance and count voxels times classes, (2,)."""
        probabilities = level.probabilities  # (B, F, V)
        distances = maps_of_level(level, signed_distance)
        count = level.count_voxels().sum()
        return torch.stack([(probabilities * distances).sum(), count.to(probabilities.dtype)])

    def value(self, sums: Tensor) -> Tensor:
        """Take the mean, 0 when nothing is annotated."""
        return mean_of(sums)
