#!/usr/bin/env python3
"""Windows in batches against windows one by one: seconds of the sliding window, as a ratio.

Both are measured in one run, alternating, on an untrained U-Net and noise; label maps do not depend on the choice.

    python scripts/bench_windows.py --patch 40 56 40 --shape 80 112 80 --features 16 --precision auto
"""

import argparse
import statistics
import time

import torch

from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses
from autoseg.inference.windows.sliding_window import WindowSettings, choose_window_batch, stream_logits
from autoseg.networks.build import build_network
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.networks.layout import place_network
from autoseg.records.network import NetworkSpec

MIRROR_AXES = (0, 1, 2)
NUM_HEADS = 3


def main() -> None:
    """Print one line per window batch, and the ratios to one window at a time."""
    options = _parse_options()
    torch.manual_seed(0)
    device = choose_device(options.device)
    dtype = choose_dtype(options.precision, device)
    network = _build_network(options.features, device)
    forward = NetworkPass(network, NetworkPasses(device, dtype=dtype))
    image = torch.randn(1, *options.shape)
    chosen = choose_window_batch(options.patch, device, WindowSettings())
    batches = sorted({1, chosen, *options.batches})
    seconds: dict[int, list[float]] = {batch: [] for batch in batches}
    print(f"{torch.get_num_threads()} threads, {device}, {dtype}, patch {options.patch}, image {options.shape}")
    for repeat in range(options.repeats + 1):
        for batch in batches:
            start = time.perf_counter()
            settings = WindowSettings(window_batch=batch)
            for _ in stream_logits(forward, list(image.numpy()), options.patch, NUM_HEADS, MIRROR_AXES, settings):
                pass
            if repeat:  # the first round warms up
                seconds[batch].append(time.perf_counter() - start)
    one_by_one = statistics.median(seconds[1])
    for batch in batches:
        median = statistics.median(seconds[batch])
        mark = "  <- chosen by the patch's size" if batch == chosen else ""
        print(f"window batch {batch:3d}: {median:8.3f} s, {one_by_one / median:5.2f} times one by one{mark}")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(40, 56, 40), help="voxels, z y x")
    parser.add_argument("--shape", type=int, nargs=3, default=(60, 84, 60), help="voxels, z y x")
    parser.add_argument("--features", type=int, default=8, help="feature maps at full resolution")
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    return parser.parse_args()


def _build_network(features: int, device: torch.device) -> torch.nn.Module:
    spec = NetworkSpec(
        architecture="unet",
        dimensions=3,
        input_channels=1,
        output_channels=NUM_HEADS,
        features=(features, 2 * features, 4 * features),
        strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((3, 3, 3),) * 3,
        encoder_blocks=(2, 2, 2),
        decoder_blocks=(2, 2),
    )
    network: torch.nn.Module = build_network(spec, deep_supervision=False)
    return place_network(network, spec, device).eval()


if __name__ == "__main__":
    main()
