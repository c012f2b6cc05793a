"""Augmented training samples per second on one core: autoseg against batchgenerators' own transforms.

Both read patches from the same volume in memory and apply the same list of changes with the same probabilities; rounds
alternate, so that other load on the machine hits both. batchgenerators gets the pipeline that nnU-Net v1 built from it,
with linear interpolation instead of cubic, because autoseg interpolates linearly (as nnU-Net v2 does).

    python scripts/bench_augmentation.py [--samples 40] [--rounds 3]
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import threadpool_limits

from autoseg.records.case import Triple
from autoseg.training.data.augmentation.compose import compose_training_transforms
from autoseg.training.data.augmentation.parameters import AugmentationRules, enlarged_patch_size, rotation_range_degrees
from autoseg.training.data.augmentation.spatial import draw_affine, read_patch
from autoseg.training.data.sampling import cut_box, draw_patch_corner

SETTINGS: tuple[tuple[Triple, Triple, int], ...] = (
    ((40, 56, 40), (48, 64, 48), 1),
    ((64, 160, 160), (110, 300, 300), 1),
    ((64, 160, 160), (110, 300, 300), 4),
)
"""Patch, volume, channels: MSD Hippocampus, a CT organ, the same with four channels."""

RULES = AugmentationRules()
Sampler = Callable[[], None]


def make_volume(shape: Triple, channels: int) -> NDArray[np.float32]:
    """Noise in the image channels, three smooth labels in the last one."""
    generator = np.random.default_rng(0)
    volume = generator.standard_normal((channels + 1, *shape), dtype=np.float32)
    smooth = ndimage.gaussian_filter(volume[0], [edge / 12 for edge in shape])
    volume[-1] = np.digitize(smooth, np.quantile(smooth, (0.8, 0.95)))
    return volume


def our_sampler(volume: NDArray[np.float32], patch_size: Triple) -> Sampler:
    """One augmented sample by autoseg."""
    channels = len(volume) - 1
    transforms = compose_training_transforms(patch_size, masked_channels=(), mirror_axes=(0, 1, 2), rules=RULES)
    numbers = itertools.count()

    def draw() -> None:
        generator = np.random.default_rng([0, next(numbers)])  # one per sample, as in the loader
        image = np.empty((1, channels, *patch_size), dtype=np.float32)
        target = np.empty((1, *patch_size), dtype=np.int16)
        corner = draw_patch_corner(volume.shape[1:], patch_size, None, generator)
        read_patch(volume, corner, draw_affine(patch_size, RULES, generator), image=image[0], labels=target[0])
        transforms(image=image, target=target, cases=["case"], generators=[generator])

    return draw


def their_sampler(volume: NDArray[np.float32], patch_size: Triple) -> Sampler:
    """One augmented sample by batchgenerators: cut an enlarged patch, then transform it."""
    enlarged = enlarged_patch_size(patch_size)
    enlarged_triple = (enlarged[0], enlarged[1], enlarged[2])
    transforms = their_transforms(patch_size)
    generator = np.random.default_rng(0)

    def draw() -> None:
        corner = draw_patch_corner(volume.shape[1:], patch_size, None, generator)
        start = [low - (big - edge) // 2 for low, big, edge in zip(corner, enlarged, patch_size, strict=True)]
        box = cut_box(volume, (start[0], start[1], start[2]), enlarged_triple)
        transforms(data=box[None, :-1].copy(), seg=box[None, -1:].copy())

    return draw


def their_transforms(patch_size: Sequence[int]) -> Compose:
    """The same list as ours, from batchgenerators' own transforms."""
    limit = math.radians(rotation_range_degrees(patch_size))
    return Compose(
        [
            SpatialTransform(
                patch_size,
                do_elastic_deform=False,
                angle_x=(-limit, limit),
                angle_y=(-limit, limit),
                angle_z=(-limit, limit),
                scale=RULES.scaling_range,
                border_mode_data="constant",
                border_cval_data=0,
                order_data=1,
                border_mode_seg="constant",
                border_cval_seg=-1,
                order_seg=1,
                random_crop=False,
                p_scale_per_sample=RULES.scaling_probability,
                p_rot_per_sample=RULES.rotation_probability,
            ),
            GaussianNoiseTransform(RULES.noise_std_range, p_per_sample=RULES.noise_probability),
            GaussianBlurTransform(
                RULES.blur_sigma_range,
                p_per_sample=RULES.blur_probability,
                p_per_channel=RULES.blur_channel_probability,
            ),
            BrightnessMultiplicativeTransform(RULES.brightness_range, p_per_sample=RULES.brightness_probability),
            ContrastAugmentationTransform(RULES.contrast_range, p_per_sample=RULES.contrast_probability),
            SimulateLowResolutionTransform(
                RULES.low_resolution_range,
                per_channel=True,
                p_per_channel=RULES.low_resolution_channel_probability,
                order_downsample=0,
                order_upsample=1,
                p_per_sample=RULES.low_resolution_probability,
            ),
            GammaTransform(
                RULES.gamma_range,
                invert_image=True,
                per_channel=True,
                retain_stats=True,
                p_per_sample=RULES.inverted_gamma_probability,
            ),
            GammaTransform(
                RULES.gamma_range, per_channel=True, retain_stats=True, p_per_sample=RULES.gamma_probability
            ),
            MirrorTransform((0, 1, 2)),
        ]
    )


def measure_seconds(draw: Sampler, samples: int) -> float:
    """Mean processor time of one sample; other work on the machine does not count."""
    began = time.process_time()
    for _ in range(samples):
        draw()
    return (time.process_time() - began) / samples


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40, help="per round and pipeline (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'patch':>15} {'channels':>8} {'autoseg':>22} {'batchgenerators':>22} {'ratio':>6}")
    for patch_size, shape, channels in SETTINGS:
        volume = make_volume(shape, channels)
        samplers = our_sampler(volume, patch_size), their_sampler(volume, patch_size)
        with threadpool_limits(1):
            for draw in samplers:
                measure_seconds(draw, 3)
            rounds = [[measure_seconds(draw, options.samples) for draw in samplers] for _ in range(options.rounds)]
        ours, theirs = np.mean(rounds, axis=0)
        columns = [f"{1 / seconds:7.1f}/s {seconds * 1000:8.1f} ms" for seconds in (ours, theirs)]
        size = " x ".join(map(str, patch_size))
        print(f"{size:>15} {channels:>8} {columns[0]:>22} {columns[1]:>22} {theirs / ours:>6.1f}")


if __name__ == "__main__":
    main()
