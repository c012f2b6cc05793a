"""A network that sees patches predicts a whole image: overlapping windows, blended by a Gaussian.

The image and the sums lie on the network's grid. Windows, and their mirrored variants, go through the network in
batches of one shape, because convolutions then run several times faster than window by window.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from autoseg.errors import PredictionError
from autoseg.inference.mirroring import Forward, mean_mirrored_logits, mirror_variants
from autoseg.records.case import Triple

SMALLEST_IMPORTANCE = 2.0**-24 / 10
"""Of the largest: what nnU-Net's float16 map, scaled to 10, can hold at least. Corners that truncation leaves without
weight get it. A much larger bound lets far windows speak up near the image's border: 1e-3 costs 1 to 2 % of Dice
against nnU-Net's own label maps where patches are flat."""

VOXELS_PER_BATCH = 2**20
"""About a dozen windows of 40 x 56 x 40, half a window of 128 x 128 x 128: beyond it, speed no longer grows."""

LARGEST_BATCH = 8
"""Windows; one window with all its mirrored variants in 3D."""


def window_starts(size: int, patch_size: int, overlap: float = 0.5) -> tuple[int, ...]:
    """First voxel of every window along one axis: evenly spread, both ends touched.

    Args:
        size: Voxels of the image along the axis.
        patch_size: Voxels of a window; an axis no longer than it has one window.
        overlap: Least share of a window that it has in common with the next one, [0, 1).

    Raises:
        ValueError: If the overlap is not in [0, 1).

    References:
        nnU-Net v2 (Isensee et al. 2021), sliding window; its step size is 1 - overlap.

    Examples:
        >>> window_starts(110, 64)
        (0, 23, 46)
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), not {overlap}")
    last = size - patch_size
    if last <= 0:
        return (0,)
    num_steps = math.ceil(last / (patch_size * (1 - overlap)))
    step = last / num_steps
    return tuple(round(index * step) for index in range(num_steps + 1))


def count_windows(shape: Triple, patch_size: Sequence[int], overlap: float = 0.5) -> int:
    """Number of windows of an image; a 2D patch (y, x) visits every slice.

    Examples:
        >>> count_windows((9, 110, 64), (64, 64))
        27
    """
    window = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    return sum(1 for _ in _window_boxes(shape, window, overlap))


@lru_cache(maxsize=4)
def importance_map(patch_size: tuple[int, ...]) -> NDArray[np.float32]:
    """Weight of a window's voxels: a Gaussian about its centre, so that borders, where networks err, count little.

    Args:
        patch_size: Voxels by axis.

    Returns:
        Array of shape `patch_size`, in [SMALLEST_IMPORTANCE, 1]; not to be written to.

    References:
        nnU-Net v2 (Isensee et al. 2021): sigma is an eighth of the patch, centre at patch_size // 2. Differs:
        float32 instead of float16, in which corners underflow, and a lower bound.
    """
    impulse = np.zeros(patch_size, dtype=np.float32)
    impulse[tuple(length // 2 for length in patch_size)] = 1
    gaussian = gaussian_filter(impulse, [length / 8 for length in patch_size], mode="constant")
    weights: NDArray[np.float32] = np.maximum(gaussian / gaussian.max(), np.float32(SMALLEST_IMPORTANCE))
    weights.setflags(write=False)
    return weights


def choose_window_batch(patch_size: Sequence[int]) -> int:
    """Windows per network pass, a power of two: small patches are batched, big ones go alone.

    Examples:
        >>> choose_window_batch((40, 56, 40)), choose_window_batch((64, 96, 96)), choose_window_batch((128, 128, 128))
        (8, 1, 1)
    """
    fitting = max(1, min(LARGEST_BATCH, VOXELS_PER_BATCH // math.prod(patch_size)))
    return 1 << (fitting.bit_length() - 1)


def predict_logits(
    forward: Forward,
    image: Tensor,
    patch_size: Sequence[int],
    num_heads: int,
    mirror_axes: Sequence[int] = (),
    *,
    overlap: float = 0.5,
    window_batch: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logits of a whole preprocessed image.

    Args:
        forward: The network in evaluation mode, on `device`, without deep supervision; for a fold ensemble the
            mean of several (`ensemble.mean_forward`).
        image: (C, Z, Y, X), float32, on the CPU.
        patch_size: Window, voxels: (z, y, x), or (y, x) for a 2D network, which gets every slice on its own.
        num_heads: K.
        mirror_axes: Axes of the patch that are mirrored; 0 is the first of `patch_size`.
        overlap: Least share of a window that it has in common with the next one, [0, 1).
        window_batch: Windows, mirrored variants counted, in one network pass; None: by the patch's size.
        device: Where the network is; None: the CPU.
        dtype: The type of autocast; float32: none.

    Returns:
        (K, Z, Y, X), float32, on the CPU; the weighted mean over all windows that cover a voxel.

    Raises:
        PredictionError: If the network gives infinite or undefined values.
    """
    flat = len(patch_size) == 2
    window: Triple = (1, *patch_size) if flat else tuple(patch_size)  # type: ignore[assignment]
    variants = mirror_variants([axis + flat for axis in mirror_axes])
    batch = window_batch or choose_window_batch(patch_size)
    run = _on_device(forward, flat=flat, device=device or torch.device("cpu"), dtype=dtype)
    padded, inside = _pad_to_window(image, window)
    weights = torch.from_numpy(importance_map(window).copy())
    logits = torch.zeros((num_heads, *padded.shape[1:]))
    total_weight = torch.zeros(padded.shape[1:])
    with torch.inference_mode():
        for boxes in _batched(_window_boxes(padded.shape[1:], window, overlap), max(1, batch // len(variants))):
            windows = torch.stack([padded[:, *box] for box in boxes])
            answers = mean_mirrored_logits(run, windows, variants, min(batch, len(variants)))
            for box, answer in zip(boxes, answers.mul_(weights), strict=True):
                logits[:, *box] += answer
                total_weight[box] += weights
        logits /= total_weight
    _check_finite(logits)
    return logits[:, *inside]


def _on_device(forward: Forward, *, flat: bool, device: torch.device, dtype: torch.dtype) -> Forward:
    """Windows (B, C, z, y, x) on the CPU -> logits (B, K, z, y, x) on the CPU; z is left out for a 2D network."""
    layout = torch.channels_last if flat else torch.channels_last_3d

    def run(windows: Tensor) -> Tensor:
        batch = windows.squeeze(2) if flat else windows
        batch = batch.to(device, memory_format=layout)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = forward(batch)
        logits = logits.to("cpu", torch.float32)
        return logits.unsqueeze(2) if flat else logits

    return run


def _pad_to_window(image: Tensor, window: Triple) -> tuple[Tensor, tuple[slice, ...]]:
    """Zeros on both sides of axes shorter than the window, the odd voxel at the far end; and where the image lies."""
    shape = image.shape[1:]
    missing = [max(0, wanted - size) for wanted, size in zip(window, shape, strict=True)]
    inside = tuple(slice(lack // 2, lack // 2 + size) for lack, size in zip(missing, shape, strict=True))
    if not any(missing):
        return image, inside
    margins = [side for lack in reversed(missing) for side in (lack // 2, lack - lack // 2)]
    return functional.pad(image, margins), inside


def _window_boxes(shape: Sequence[int], window: Sequence[int], overlap: float) -> Iterator[tuple[slice, ...]]:
    """All windows, the last axis fastest; a window of one slice visits every slice once."""
    starts = [
        range(size) if length == 1 else window_starts(size, length, overlap)
        for size, length in zip(shape, window, strict=True)
    ]
    for corner in product(*starts):
        yield tuple(slice(first, first + length) for first, length in zip(corner, window, strict=True))


def _batched(boxes: Iterator[tuple[slice, ...]], size: int) -> Iterator[list[tuple[slice, ...]]]:
    while group := list(islice(boxes, size)):
        yield group


def _check_finite(logits: Tensor) -> None:
    for head, values in enumerate(logits):
        if not torch.isfinite(values).all():
            raise PredictionError(
                f"the network gave infinite or undefined values for head {head}; "
                "look for extreme intensities in the image, or predict with precision fp32"
            )
