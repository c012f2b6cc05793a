"""A coarse pass finds where the foreground is, so that only its surroundings are predicted in detail.

    coarse image --few windows, one network--> bounds of the foreground --enlarge--> region of interest
    region of the image --detailed pass--> slices --surround--> slices of the whole grid, background around the region

The coarse pass may miss a small structure, which is then lost; so this is done only when asked for.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoseg.imaging.arrays.cropping import find_bounds, to_slices
from autoseg.imaging.formats.volume import AnyArray
from autoseg.inference.models.case_logits import stream_case_logits
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.records.case import Slices3, Triple
from autoseg.records.plan import count_slices

MARGIN_FRACTION = 0.25
"""Margin on every side of what was found, as a fraction of the patch: the coarse pass errs by some voxels, and networks
need context."""

MAX_FRACTION = 0.7
"""Maximum size of a region as a fraction of the grid: a larger one saves less than the coarse pass costs."""

CERTAIN = 20.0
"""Logit of background around the region, its negative for everything else: sigmoid and softmax are 1 to 2e-9."""

COARSE_WINDOWS = WindowSettings(overlap=0.0, mirroring=False)
"""The coarse pass goes over the image once."""


@dataclass(frozen=True)
class CoarsePass:
    """Finds the region of interest of a configuration."""

    is_softmax: bool
    """Whether the largest head decides, head 0 for background; else every positive head is a region."""
    coarser: LoadedConfiguration | None = None
    """A coarser configuration; None: the configuration itself, on the halved image."""

    def find_region(
        self,
        member: LoadedConfiguration,
        images: Mapping[str, NDArray[np.float32]],
        labels: AnyArray | None,
        absent_channels: Sequence[int] = (),
    ) -> Slices3 | None:
        """Region that a configuration has to predict in detail, on its own grid.

        Args:
            member: The configuration.
            images: Preprocessed images (C, Z, Y, X) by configuration name.
            labels: Label map (Z, Y, X) of the previous cascade step on this grid, which spares the coarse pass; None:
                no cascade.
            absent_channels: Numbers of the channels that the image lacks.

        Returns:
            The region; None: the whole image, because one window holds it, nothing was found, or too much.
        """
        _, depth, height, width = images[member.name].shape
        shape: Triple = depth, height, width
        is_flat = member.configuration.network.dimensions == 2
        window = (count_slices(member.configuration),) * is_flat + member.configuration.patch_size
        if all(edge >= size for edge, size in zip(window[is_flat:], shape[is_flat:], strict=True)):
            return None
        if labels is not None:
            found, grid = find_in_labels(labels), tuple(labels.shape)
        else:
            image = halve(images[member.name], flat=is_flat) if self.coarser is None else images[self.coarser.name]
            found = self._find_by_network(self.coarser or member, image, absent_channels)
            grid = image.shape[1:]
        return None if found is None else enlarge(found, grid, shape, window)

    def _find_by_network(
        self, coarser: LoadedConfiguration, image: NDArray[np.float32], absent_channels: Sequence[int]
    ) -> Slices3 | None:
        """The smallest box of what one network takes for foreground, on the image's grid."""
        first_network = replace(coarser, networks=coarser.networks[:1])
        slices = stream_case_logits(first_network, image, settings=COARSE_WINDOWS, absent_channels=absent_channels)
        return foreground_box(slices, is_softmax=self.is_softmax)


def find_in_labels(labels: AnyArray) -> Slices3 | None:
    """The smallest box of what is not background in a label map (Z, Y, X) of an earlier cascade step."""
    mask = labels != 0
    return to_slices(find_bounds(mask)) if mask.any() else None


def halve(image: NDArray[np.float32], *, flat: bool) -> NDArray[np.float32]:
    """Means of 2 x 2 x 2 voxels, (C, Z, Y, X) -> (C, ceil(Z / 2), ceil(Y / 2), ceil(X / 2)); `flat`: of 2 x 2, all Z.

    The last voxel of an odd axis is the mean of fewer voxels.
    """
    factors = [1 if flat else 2, 2, 2]
    halved = [
        functional.avg_pool3d(torch.from_numpy(np.ascontiguousarray(channel))[None], factors, ceil_mode=True)[0]
        for channel in image
    ]
    return torch.stack(halved).numpy()


def foreground_box(slices: Iterable[Tensor], *, is_softmax: bool) -> Slices3 | None:
    """The smallest box that holds all voxels decided as foreground; None without any. Slices are (K, Y, X)."""
    depths: list[int] = []
    rows: Tensor | None = None
    columns: Tensor | None = None
    for index, logits in enumerate(slices):
        mask = logits[1:].amax(0) > logits[0] if is_softmax else (logits > 0).any(0)
        if rows is None or columns is None:
            rows, columns = torch.zeros_like(mask[:, 0]), torch.zeros_like(mask[0])
        if mask.any():
            depths.append(index)
            rows |= mask.any(1)
            columns |= mask.any(0)
    if not depths or rows is None or columns is None:
        return None
    y, x = (torch.nonzero(line).flatten().tolist() for line in (rows, columns))
    return slice(depths[0], depths[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


def enlarge(found: Slices3, shape: Sequence[int], target_shape: Triple, patch_size: Sequence[int]) -> Slices3 | None:
    """A box on one grid, as a box with margins on another one that covers the same extent.

    Args:
        found: Box on the first grid.
        shape: Shape of the first grid.
        target_shape: Shape of the other grid.
        patch_size: (z, y, x) on the other grid; the box is no smaller where the grid allows it.

    Returns:
        None when the box would hold more than MAX_FRACTION of the grid.
    """
    sides = []
    for side, size, target, patch in zip(found, shape, target_shape, patch_size, strict=True):
        margin = 0 if patch == 1 else math.ceil(MARGIN_FRACTION * patch)
        start = max(0, math.floor(side.start * target / size) - margin)
        stop = min(target, math.ceil(side.stop * target / size) + margin)
        lacking = max(0, min(patch, target) - (stop - start))
        start = max(0, min(start - lacking // 2, target - (stop - start) - lacking))
        sides.append(slice(start, max(stop, start + min(patch, target))))
    fraction = math.prod(side.stop - side.start for side in sides) / math.prod(target_shape)
    return (sides[0], sides[1], sides[2]) if fraction <= MAX_FRACTION else None


def surround(
    slices: Iterable[Tensor], box: Slices3, shape: Triple, num_heads: int, *, is_softmax: bool
) -> Iterator[Tensor]:
    """Slices of a box as slices of the whole grid, with certain background around them.

    Args:
        slices: (K, y, x) for every slice of the box.
        box: Place of the box in the grid.
        shape: Shape of the grid, (Z, Y, X).
        num_heads: K.
        is_softmax: Whether head 0 is background; else there is no such head.

    Yields:
        Z times (K, Y, X), float32.
    """
    background = torch.full((num_heads, *shape[1:]), -CERTAIN)
    if is_softmax:
        background[0] = CERTAIN
    inside = iter(slices)
    first = next(inside)  # the networks begin before anything is yielded, so that all slices are on one device
    background, inside = background.to(first.device), chain((first,), inside)
    for index in range(shape[0]):
        whole = background.clone()
        if box[0].start <= index < box[0].stop:
            whole[:, box[1], box[2]] = next(inside).float()
        yield whole
