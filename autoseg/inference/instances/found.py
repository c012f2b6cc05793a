"""Instances that networks find in the windows of an image, each by every network and every mirrored variant.

Boxes are arrays (N, 2, 3): start and stop of each along (z, y, x), where voxel v covers v to v + 1. A 2D network finds
boxes of one slice.

Tested in tests/inference/predictor/test_instance_maps.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.channel_presence import append_planes, list_presence
from autoseg.inference.windows.mirrored_variants import Variant, mirror_variants
from autoseg.inference.windows.neighbor_slices import append_neighbors
from autoseg.inference.windows.sliding_window import (
    Window,
    WindowSettings,
    choose_window_batch,
    cut_windows,
    window_boxes,
    windows_per_pass,
)
from autoseg.networks.detection.detections import Detections
from autoseg.records.case import Triple
from autoseg.records.sides import SideSwap

Boxes = NDArray[np.float32]
"""(N, 2, 3): start and stop along (z, y, x)."""

MAX_MASK_BYTES = 2**28
"""Masks that are kept at a time; beyond it those of the lowest scores are dropped."""

CENTER_WIDTH = 0.8
"""Standard deviation of the weight about a window's centre, as a fraction of half the window."""

_ONE_SLICE = np.array([[0], [1]], dtype=np.float32)


@dataclass(frozen=True)
class FoundInstances:
    """Instances that were found in windows; N of them, on the grid of one array (Z, Y, X)."""

    boxes: Boxes
    windows: Boxes
    """The window of each, which may begin before the array and end after it."""
    views: NDArray[np.int64]
    """(N,), the look at the image that found it: window x number of looks at each window + position of the look."""
    labels: NDArray[np.int64]
    """(N,), label indices."""
    scores: NDArray[np.float32]
    """(N,), [0, 1]."""
    weights: NDArray[np.float32]
    """(N,), how near each is to the centre of its window; see `center_weights`."""
    masks: tuple[NDArray[np.uint8], ...]
    """Probability of each of the equal parts of the box, in 255ths; (z, y, x)."""

    def take(self, indices: NDArray[np.int64]) -> "FoundInstances":
        """Some of them."""
        return FoundInstances(
            self.boxes[indices],
            self.windows[indices],
            self.views[indices],
            self.labels[indices],
            self.scores[indices],
            self.weights[indices],
            tuple(self.masks[index] for index in indices),
        )

    def scaled(self, factors: Sequence[float]) -> "FoundInstances":
        """The same on a grid with so many times as many voxels along each axis."""
        factor = np.array(factors, dtype=np.float32)
        return replace(self, boxes=self.boxes * factor, windows=self.windows * factor)


@dataclass(frozen=True)
class Views:
    """All looks at an image."""

    windows: Boxes
    """(W, 2, 3)."""
    times: int
    """Looks at each window: networks times mirrored variants."""

    def scaled(self, factors: Sequence[float]) -> "Views":
        """The same on a grid with so many times as many voxels along each axis."""
        return Views(self.windows * np.array(factors, dtype=np.float32), self.times)


class Detector(Protocol):
    """A network that finds instances; see `networks.detection.detections`."""

    def detect(self, image: Tensor) -> list[Detections]:
        """Instances of each sample of (B, C, *S)."""


def find_in_windows(
    loaded: LoadedConfiguration,
    image: NDArray[np.float32],
    settings: WindowSettings,
    absent_channels: Sequence[int] = (),
) -> tuple[FoundInstances, Views]:
    """Let every network look at every window and its mirrored variants.

    Args:
        loaded: Networks of the folds, with device and precision.
        image: (C, Z, Y, X), preprocessed; neighbouring slices are appended where the configuration has some.
        settings: Overlap, mirroring and batch.
        absent_channels: Numbers of the channels that the image lacks.

    Returns:
        What was found, and the looks, on the grid of the image.
    """
    patch, shape, device = loaded.configuration.patch_size, image.shape[1:], loaded.passes.device
    flat = len(patch) == 2
    window: Triple = (1, *patch) if flat else tuple(patch)  # type: ignore[assignment]
    variants = mirror_variants(loaded.mirror_axes if settings.mirroring else ())
    boxes = list(window_boxes(shape, window, settings.overlap))
    size = windows_per_pass(choose_window_batch(patch, device, settings), variants)
    views = Views(_as_boxes(boxes), len(loaded.networks) * len(variants))
    channels = append_neighbors(list(image), loaded.configuration.neighbor_slices)
    presence = list_presence(loaded.configuration, absent_channels)
    parts: list[FoundInstances] = []
    kept_bytes = 0
    for first in range(0, len(boxes), size):
        group = boxes[first : first + size]
        windows = cut_windows(channels, group, device)
        windows = append_planes(windows.squeeze(2) if flat else windows, presence)
        for look, variant, detections in _look(loaded, windows, variants):
            for index, found in enumerate(detections, start=first):
                own = _unmirrored(found, variant, patch, loaded.swap)
                parts.append(_place(own, views.windows[index], index * views.times + look, shape))
                kept_bytes += sum(mask.nbytes for mask in parts[-1].masks)
        if kept_bytes > 2 * MAX_MASK_BYTES:
            parts = [_best(join_found(parts))]
            kept_bytes = sum(mask.nbytes for mask in parts[0].masks)
    return _best(join_found(parts)), views


def center_weights(points: NDArray[np.float32], windows: Boxes) -> NDArray[np.float32]:
    """How near points are to the centres of windows: a Gaussian along each axis, averaged over the axes.

    Args:
        points: (N, 3).
        windows: (N, 2, 3).

    Returns:
        (N,), in (0, 1].

    References:
        Jaeger et al. 2019, "Retina U-Net", weighted box clustering: boxes near the border of a patch count less.
    """
    half = (windows[:, 1] - windows[:, 0]) / 2
    offsets = (points - windows[:, 0]) / half - 1
    weights: NDArray[np.float32] = np.exp(-0.5 * (offsets / CENTER_WIDTH) ** 2).mean(axis=1)
    return weights


def _look(
    loaded: LoadedConfiguration, windows: Tensor, variants: Sequence[Variant]
) -> Iterator[tuple[int, Variant, list[Detections]]]:
    """Number of the look at these windows, its mirrored axes, and what it found in each window."""
    passes, dtype = loaded.passes, loaded.passes.current_dtype
    autocast = torch.autocast(passes.device.type, dtype=dtype, enabled=dtype != torch.float32)
    look = 0
    for variant in variants:
        mirrored = torch.flip(windows, [axis + 2 for axis in variant]) if variant else windows
        for network in loaded.networks:
            with torch.inference_mode(), passes.threads.timed(windows.numel()), autocast:
                detections = cast("Detector", network).detect(mirrored)
            yield look, variant, detections
            look += 1


@dataclass(frozen=True)
class _Own:
    """What one look found in one window, on the grid of the window."""

    boxes: Boxes
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: NDArray[np.uint8]


def _unmirrored(found: Detections, variant: Variant, patch: Sequence[int], swap: SideSwap | None) -> _Own:
    """What was found in a mirrored window, mirrored back, in three axes."""
    dimensions = len(patch)
    boxes = found.boxes.float().cpu().numpy().reshape(-1, 2, dimensions)
    masks = (found.masks.float() * 255).round().to(torch.uint8).cpu().numpy()
    labels = found.labels.cpu().numpy()
    for axis in variant:
        boxes[:, :, axis] = patch[axis] - boxes[:, ::-1, axis]
        masks = np.flip(masks, axis + 1)
    if swap is not None and swap.axis in variant:
        labels = np.array(swap.labels)[labels]
    if dimensions == 2:
        boxes = np.concatenate([np.tile(_ONE_SLICE, (len(boxes), 1, 1)), boxes], axis=2)
        masks = masks[:, None]
    return _Own(boxes, labels, found.scores.float().cpu().numpy(), masks)


def _place(own: _Own, window: NDArray[np.float32], view: int, shape: Sequence[int]) -> FoundInstances:
    """The same on the grid of the image, without what lies outside it."""
    boxes = own.boxes + window[0]
    count = len(boxes)
    windows = np.broadcast_to(window, (count, 2, 3))
    found = FoundInstances(
        boxes,
        windows,
        np.full(count, view, dtype=np.int64),
        own.labels,
        own.scores,
        center_weights(boxes.mean(axis=1), windows),
        tuple(own.masks),
    )
    start, stop = boxes[:, 0].clip(0), boxes[:, 1].clip(max=np.array(shape, dtype=np.float32))
    return found.take(np.flatnonzero((start < stop).all(axis=1)))


def join_found(parts: Sequence[FoundInstances]) -> FoundInstances:
    """What was found in several parts, one after the other."""
    return FoundInstances(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.windows for part in parts]),
        np.concatenate([part.views for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.weights for part in parts]),
        tuple(mask for part in parts for mask in part.masks),
    )


def _best(found: FoundInstances) -> FoundInstances:
    """The instances of the highest scores, best first, as many as may be kept."""
    order = np.argsort(-found.scores, kind="stable")
    sizes = np.cumsum([found.masks[index].nbytes for index in order])
    return found.take(order[: np.searchsorted(sizes, MAX_MASK_BYTES, side="right")])


def _as_boxes(windows: Sequence[Window]) -> Boxes:
    return np.array(
        [[[side.start for side in window], [side.stop for side in window]] for window in windows], dtype=np.float32
    )
