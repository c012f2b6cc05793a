"""What the loader hands to the training loop, and what its transforms hand to each other."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from autoseg.records.training import GrowingPatch
from autoseg.training.data.augmentation.parameters import AugmentationRules


@dataclass(frozen=True)
class Share:
    """One process's part of every batch, when several processes train one network.

    Worked example: of a batch of 5 samples, 3 processes get the samples 0 and 1, 2 and 3, and 4.
    """

    rank: int = 0
    ranks: int = 1

    def samples(self, batch_size: int) -> range:
        """Positions in the whole batch; shares differ by one sample at most, larger ones first.

        Raises:
            ValueError: If this process would get none.
        """
        size, larger = divmod(batch_size, self.ranks)
        start = self.rank * size + min(self.rank, larger)
        stop = start + size + (self.rank < larger)
        if not 0 <= start < stop <= batch_size:
            raise ValueError(f"process {self.rank} of {self.ranks} has no part of a batch of {batch_size}")
        return range(start, stop)


WHOLE_BATCH = Share()
"""The only process has all of it."""


TRAINING_STREAM, VALIDATION_STREAM = 0, 1
"""Part of a batch's seed, so that the two loaders of a fold draw different batches."""


@dataclass(frozen=True, kw_only=True)
class BatchStream:
    """Which batches a loader makes of its cases: how they are drawn, what is done to them, and which part of each."""

    seed: tuple[int, ...]
    """Numbers, not negative, that seed a sample's generator together with the batch's number and the sample's place in
    the whole batch; in a fold its seed and TRAINING_STREAM or VALIDATION_STREAM."""
    rules: AugmentationRules | None
    """Rules of the augmentation; None: patches without augmentation."""
    first_batch: int = 0
    """Number of the first batch, for a resumed run."""
    share: Share = WHOLE_BATCH
    """The part of each batch to make."""
    intensity_on_device: bool = False
    """Leave all augmentation but rotation, scaling and a cascade's to `DeviceAugmentation`."""
    growing: GrowingPatch | None = None
    """Smaller patch that these batches have, with its batch size; None: the configuration's own."""
    map_shapes: tuple[tuple[int, ...], ...] = ()
    """Spatial shapes of the levels at which batches bring the maps that the loss needs; none if it needs none."""


class Batch(TypedDict):
    """One batch, or one process's share of it, as the training loop gets it."""

    image: NDArray[np.float32]
    """(B, C, Z, Y, X), or (B, C, Y, X) for a 2D configuration; contiguous. In a cascade the previous configuration's
    label maps come after the channels, one per foreground label, 0 or 1; where images may lack channels, a plane of 1
    or 0 for each of them comes last."""
    target: NDArray[np.int8] | NDArray[np.int16]
    """Label indices, (B, Z, Y, X) or (B, Y, X), in the smallest type; the ignore index is kept. Where the case has no
    voxel: background, or -1 if augmentation continues on the device. Of networks that find objects one by one the codes
    of `imaging.arrays.object_codes`, int16."""
    cases: list[str]
    """Case id by sample."""
    seeds: NotRequired[NDArray[np.int64]]
    """Seeds of the augmentation that continues on the device, (B,), not negative."""
    maps: NotRequired[tuple[NDArray[np.float32], ...]]
    """What the loss needs to know of the target as it is when all augmentation is done, such as signed distances to its
    boundaries, at each level of `BatchStream.map_shapes`, (B, F, *S)."""


class DrawnBatch(Batch):
    """A batch on its way through the transforms; here `target` still is -1 outside the nonzero mask."""

    generators: list[np.random.Generator]
    """One per sample, the only source of randomness: a sample does not depend on what else is in its batch."""
    presence: NotRequired[NDArray[np.bool_]]
    """Which channels each sample's case has, (B, C), where cases may lack some."""
    previous: NotRequired[NDArray[np.int16]]
    """Label indices by the cascade's previous configuration, shaped as `target`; 0 outside the volume."""
