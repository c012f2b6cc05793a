"""Resampling of images on the device against the CPU."""

from dataclasses import dataclass

import numpy as np

from autoseg.device_resampling import MAX_DIFFERENCE, SLAB_BYTES, resample_channel
from autoseg.imaging.arrays.resampling import resample_image, separate_axis
from autoseg.networks.devices import use_precision
from autoseg.records.case import Spacing, Triple
from autoseg.records.network import ResamplingSpec
from gpu_checks.machine import Machine
from gpu_checks.results import Finding, Findings, at_least, at_most

SPEC = ResamplingSpec()
MIN_SPEEDUP = 1.0
"""Below, the CPU resamples: a trial on the first image finds out."""

TINY_DIVISOR = 16


@dataclass(frozen=True)
class Resized:
    """An image that is brought to another spacing."""

    name: str
    shape: Triple
    spacing: Spacing
    new_shape: Triple
    new_spacing: Spacing


IMAGES = (
    Resized("CT", (600, 512, 512), (1.0, 0.8, 0.8), (400, 273, 273), (1.5, 1.5, 1.5)),
    Resized("thick slices", (40, 320, 320), (6.0, 0.8, 0.8), (60, 426, 426), (4.0, 0.6, 0.6)),
)


def check_resampling(machine: Machine) -> Findings:
    """Resample a CT and an image of thick slices on the device and on the CPU."""
    use_precision("fp32", machine.device)
    found = []
    for image in IMAGES:
        found += _compare(machine, image)
    return found


def _compare(machine: Machine, image: Resized) -> Findings:
    shape, new_shape = (_shrunk(size) if machine.is_tiny else size for size in (image.shape, image.new_shape))
    volume = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    separate = separate_axis(image.spacing, image.new_spacing, SPEC)
    made = {}

    def on_device() -> None:
        made["device"] = resample_channel(volume, new_shape, separate, SPEC, machine.device, SLAB_BYTES)

    def on_cpu() -> None:
        made["cpu"] = resample_image(volume[None], new_shape, image.spacing, image.new_spacing, SPEC)[0]

    on_device()  # starts kernels
    machine.start_peak()
    of_device, of_cpu = machine.seconds_of(on_device), machine.seconds_of(on_cpu)
    difference = float(np.abs(made["device"] - made["cpu"]).max() / np.ptp(volume))
    return [
        Finding(f"{image.name}, on the device", of_device, "s"),
        Finding(f"{image.name}, on the CPU", of_cpu, "s"),
        Finding(f"{image.name}, memory of the device", machine.peak_gigabytes(), "GB"),
        at_most(f"{image.name}, largest difference as a fraction of the range", difference, MAX_DIFFERENCE),
        machine.judge(at_least(f"{image.name}, speed-up", of_cpu / of_device, MIN_SPEEDUP, "times")),
    ]


def _shrunk(shape: Triple) -> Triple:
    depth, height, width = (max(8, size // TINY_DIVISOR) for size in shape)
    return depth, height, width
