"""Resampling against scikit-image, scipy and SimpleITK on the same volume in one run; prints times and ratios.

Run: OPENBLAS_NUM_THREADS=1 python scripts/bench_resampling.py [Z Y X] [--device cuda]; the others but SimpleITK use one
thread too. With a device, torch resamples there as well: the time is that from array to array, copies included, and of
a GPU the largest memory at once is printed beside it. `--device cpu` runs the same code without a GPU.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from autoseg.device_resampling import SLAB_BYTES, resample_channel
from autoseg.imaging.arrays.resampling import axis_operator, resample_image
from autoseg.networks.devices import choose_device
from autoseg.records.case import Triple
from autoseg.records.network import ResamplingSpec

REPEATS = 3
SPACING = (1.0, 1.0, 1.0)
SCALE = (1.3, 0.8, 1.2)


def main() -> None:
    """Time one cubic resampling per library; the best of a few repeats counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", type=int, nargs="*", default=[96, 160, 144], help="Z Y X")
    parser.add_argument("--device", type=choose_device, default=None, help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    z, y, x = arguments.shape
    shape: Triple = (z, y, x)
    new_shape: Triple = (round(shape[0] * SCALE[0]), round(shape[1] * SCALE[1]), round(shape[2] * SCALE[2]))
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    print(f"cubic, {shape} -> {new_shape}, best of {REPEATS}; difference: largest, as a fraction of the range")
    reference, reference_seconds = _timed(lambda: _by_autoseg(volume, new_shape))
    print(f"{'autoseg':24s} {reference_seconds:8.3f} s")
    for name, other in (
        ("skimage.transform.resize", _by_skimage),
        ("scipy.ndimage.zoom", _by_scipy),
        ("SimpleITK", _by_itk),
    ):
        result, seconds = _timed(lambda other=other: other(volume, new_shape))  # type: ignore[misc]
        difference = float(np.abs(result - reference).max() / np.ptp(volume))
        print(f"{name:24s} {seconds:8.3f} s   {seconds / reference_seconds:6.1f} x   difference {difference:.1e}")
    if arguments.device is not None:
        _print_device(volume, reference, reference_seconds, arguments.device)


def _print_device(
    volume: NDArray[np.float32], reference: NDArray[np.float32], reference_seconds: float, device: torch.device
) -> None:
    new_shape: Triple = (reference.shape[0], reference.shape[1], reference.shape[2])
    result, seconds = _timed(lambda: resample_channel(volume, new_shape, None, ResamplingSpec(), device, SLAB_BYTES))
    difference = float(np.abs(result - reference).max() / np.ptp(volume))
    memory = f"   {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB" if device.type == "cuda" else ""
    name = f"torch, {device}"
    print(f"{name:24s} {seconds:8.3f} s   {seconds / reference_seconds:6.1f} x   difference {difference:.1e}{memory}")


def _timed(work: Callable[[], NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    best = np.inf
    result = work()
    for _ in range(REPEATS):
        axis_operator.cache_clear()
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return result, best


def _by_autoseg(volume: NDArray[np.float32], new_shape: Triple) -> NDArray[np.float32]:
    resized: NDArray[np.float32] = resample_image(volume[None], new_shape, SPACING, SPACING, ResamplingSpec())[0]
    return resized


def _by_skimage(volume: NDArray[np.float32], new_shape: Triple) -> NDArray[np.float32]:
    resized: NDArray[np.float64] = resize(
        volume.astype(np.float64), new_shape, 3, mode="edge", clip=True, anti_aliasing=False
    )
    return resized.astype(np.float32)


def _by_scipy(volume: NDArray[np.float32], new_shape: Triple) -> NDArray[np.float32]:
    factors = [new / old for new, old in zip(new_shape, volume.shape, strict=True)]
    resized = ndimage.zoom(volume, factors, order=3, mode="nearest", grid_mode=True)
    clipped: NDArray[np.float32] = np.clip(resized, volume.min(), volume.max())
    return clipped


def _by_itk(volume: NDArray[np.float32], new_shape: Triple) -> NDArray[np.float32]:
    """Its border is mirrored and its outer half voxels are filled with zeros, so its voxels differ at the faces."""
    image = SimpleITK.GetImageFromArray(volume)
    spacing = [old / new for old, new in zip(volume.shape, new_shape, strict=True)][::-1]
    origin = [0.5 * step - 0.5 for step in spacing]
    resized = SimpleITK.Resample(
        image, new_shape[::-1], SimpleITK.Transform(), SimpleITK.sitkBSpline, origin, spacing, image.GetDirection()
    )
    array: NDArray[np.float32] = SimpleITK.GetArrayFromImage(resized)
    return array


if __name__ == "__main__":
    main()
