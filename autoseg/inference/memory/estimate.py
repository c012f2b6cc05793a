"""How much memory a case needs, estimated before it starts, and where its sums of windows are kept.

    shapes --MemberSizes, StepSizes--> bytes at the peak of each choice --choose_storage--> the first that fits

Sums are kept beside the network on a GPU, in RAM, or in a temporary file, all in float32 and with the same label map to
the bit; only where the disk is too full for the file they are kept in RAM in float16, as nnU-Net's always are.
"""

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.costs.memory import count_finest_features
from autoseg.errors import MemoryLimitError
from autoseg.imaging.arrays.cropping import find_content_bounds
from autoseg.imaging.arrays.resampling import preprocessed_grid
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.restoring.resizing import HELD_VOXELS
from autoseg.inference.restoring.restore import SLAB_VOXELS
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.mirrored_variants import mirror_variants
from autoseg.inference.windows.sliding_window import WindowSettings, choose_window_batch, slab_depth, windows_per_pass
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import free_memory_bytes
from autoseg.records.case import Spacing, Triple
from autoseg.records.dataset import LabelEncoding
from autoseg.system import measure_available_memory, measure_resident_memory

FLOAT32_BYTES = 4
TOP_LEVEL_TENSORS = 6
"""Tensors of a U-Net's widest level in memory at once: skip, upsampled, both joined (2), a block's input and output."""
LOGIT_COPIES = 3
"""Copies of a window's logits in memory at once: as they come, mirrored back, and summed."""
MASK_BYTES = 6
"""Bytes per voxel of a mask, and of the numbered components of what is not in it."""
REFINING_BYTES = 20
"""Bytes per voxel of masks and surface of one structure, its probability before and after, sums of patches and weights.
"""
DEVICE_FRACTION = 0.9
"""Fraction of a GPU's free memory that is counted on; the rest is lost between blocks."""
PROGRAM_BYTES = 600_000_000
"""Interpreter and libraries, where the system does not say what the process holds."""
RESIZED_SLABS = 6
"""Tensors of SLAB_VOXELS that deciding a slab holds."""
BINNED_SLABS = 4
"""Further tensors of SLAB_VOXELS for probabilities in bins: the bins, those of labels, and both as they are counted and
written."""
CHOICES = (
    SlabStorage("device", torch.float32),
    SlabStorage("ram", torch.float32),
    SlabStorage("file", torch.float32),
    SlabStorage("ram", torch.float16),
)
"""Choices in the order of preference."""


@dataclass(frozen=True)
class MemberSizes:
    """Bytes of one configuration at work on one case."""

    preprocessing: int
    """Held only while the image is cropped and resampled."""
    image: int
    """The preprocessed image, and the label map of the previous cascade step."""
    slab: int
    """Sums of windows, float32."""
    weights: int
    windows: int
    """One network pass."""
    restoring: int
    """Slices that are held for resizing, and the slab that is decided."""


@dataclass(frozen=True)
class StepSizes:
    """Bytes of configurations that stream side by side, or of one step of a cascade."""

    members: tuple[MemberSizes, ...]
    labels: int
    """Bytes of the label map that they fill."""
    binned: int = 0
    """Bytes for probabilities in bins, where labels are decided by their expected Dice."""


@dataclass(frozen=True)
class CaseShapes:
    """Shapes of one case in voxels, and its spacing; the plan's axes."""

    image: Triple
    cropped: Triple
    spacing: Spacing
    """Spacing of the image in mm."""


@dataclass(frozen=True)
class AvailableMemory:
    """Bytes that a prediction may take."""

    resident: int
    """Bytes that the process holds before a case: program, weights, and the image as it was read."""
    limit: int | None
    """Bytes of the whole process; None: not known."""
    is_limit_set: bool
    """Whether the user set the limit; else it is what the machine can give."""
    device: int | None
    """Free bytes of a GPU; None without one."""
    disk: int
    """Free bytes in the folder of temporary files."""

    def holds(self, steps: Sequence[StepSizes], storage: SlabStorage) -> bool:
        """Whether disk or device hold the sums of windows, and the device the image and resized slabs with them.

        Memory of the process is compared with the limit elsewhere.
        """
        if storage.place == "device":
            return self.device is not None and device_bytes(steps, storage) <= self.device
        return disk_bytes(steps, storage) <= self.disk


def device_bytes(steps: Sequence[StepSizes], storage: SlabStorage) -> int:
    """Bytes that a case takes of a GPU: windows, and what lies beside the networks in the place `device`."""
    windows = max(member.windows for step in steps for member in step.members)
    if storage.place != "device":
        return windows
    slabs = max(sum(member.slab for member in step.members) for step in steps)
    images = max(sum(member.image + member.restoring for member in step.members) for step in steps)
    return slabs + images + windows


def disk_bytes(steps: Sequence[StepSizes], storage: SlabStorage) -> int:
    """Bytes of a case's temporary file; 0 where there is none."""
    if storage.place != "file":
        return 0
    return max(sum(member.slab for member in step.members) for step in steps)


def measure_available(max_memory: int | None, device: torch.device, image_bytes: int) -> AvailableMemory:
    """Ask the system how much memory and disk there is.

    Args:
        max_memory: Bytes that the process may hold; None: what the machine has free, where the system says it.
        device: Device of the networks.
        image_bytes: Bytes of the image as read, counted where the system does not say what the process holds.
    """
    resident, available = measure_resident_memory(), measure_available_memory()
    if resident is None:
        resident = PROGRAM_BYTES + image_bytes
    return AvailableMemory(
        resident=resident,
        limit=max_memory if max_memory is not None or available is None else resident + available,
        is_limit_set=max_memory is not None,
        device=int(DEVICE_FRACTION * free_memory_bytes(device)) if device_type(device).is_gpu else None,
        disk=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def measure_shapes(image: NDArray[np.float32], spacing: Spacing, transpose: Triple) -> CaseShapes:
    """Shapes of an image (C, Z, Y, X) in working orientation."""
    start, stop = find_content_bounds(image)
    first, second, third = transpose
    cropped = [last - begin for begin, last in zip(start, stop, strict=True)]
    return CaseShapes(
        image=(image.shape[1 + first], image.shape[1 + second], image.shape[1 + third]),
        cropped=(cropped[first], cropped[second], cropped[third]),
        spacing=(spacing[first], spacing[second], spacing[third]),
    )


def estimate_case(
    members: Sequence[LoadedConfiguration],
    shapes: CaseShapes,
    encoding: LabelEncoding,
    windows: WindowSettings,
    *,
    overwrite: bool,
) -> tuple[StepSizes, ...]:
    """Estimate a case: its configurations side by side, and every earlier step of a cascade.

    Args:
        members: Configurations that predict.
        shapes: Shapes of the case.
        encoding: Heads and label values.
        windows: Overlap, mirroring and largest network pass.
        overwrite: Whether the last configuration may normalise the image in place.
    """
    labels = label_bytes(encoding) * math.prod(shapes.image)
    num_heads = len(encoding.heads)
    side_by_side = tuple(
        _member_sizes(member, shapes, num_heads, windows, overwrite=overwrite and member is members[-1])
        for member in members
    )
    steps = [StepSizes(side_by_side, labels)]
    waiting = [member.previous for member in members]
    while waiting:
        if (member := waiting.pop()) is not None:
            steps.append(StepSizes((_member_sizes(member, shapes, num_heads, windows, overwrite=False),), labels))
            waiting.append(member.previous)
    return tuple(steps)


def with_bins(steps: Sequence[StepSizes]) -> tuple[StepSizes, ...]:
    """The same case where its configurations, the first step, are decided by the expected Dice of their labels.

    The bins themselves are in a compressed file, of which a slab is in memory at a time.
    """
    first, *earlier = steps
    return replace(first, binned=BINNED_SLABS * FLOAT32_BYTES * SLAB_VOXELS), *earlier


def estimate_refinement(shapes: CaseShapes, channels: int, encoding: LabelEncoding) -> StepSizes:
    """Estimate boundary refinement, which comes after the networks; a structure may fill the crop.

    Args:
        shapes: Shapes of the case.
        channels: Channels of the image, whose crop is kept at its own resolution.
        encoding: Label values.
    """
    cropped = math.prod(shapes.cropped)
    member = MemberSizes(
        preprocessing=REFINING_BYTES * cropped, image=FLOAT32_BYTES * channels * cropped, slab=0, weights=0, windows=0,
        restoring=0,
    )  # fmt: skip
    return StepSizes((member,), label_bytes(encoding) * math.prod(shapes.image))


def label_bytes(encoding: LabelEncoding) -> int:
    """Bytes of one voxel of a label map as it is written."""
    return np.min_scalar_type(max(encoding.values)).itemsize


def _member_sizes(
    loaded: LoadedConfiguration, shapes: CaseShapes, num_heads: int, windows: WindowSettings, *, overwrite: bool
) -> MemberSizes:
    configuration, network = loaded.configuration, loaded.configuration.network
    _, shape = preprocessed_grid(shapes.cropped, shapes.spacing, configuration.spacing)
    cropped, prepared = math.prod(shapes.cropped), math.prod(shape)
    channels, is_resampled = len(configuration.normalization), shape != shapes.cropped
    has_mask = any(spec.use_mask for spec in configuration.normalization)
    copied = 0 if overwrite else channels * cropped
    plane = num_heads * math.prod(shape[1:])
    variants = mirror_variants(loaded.mirror_axes if windows.mirroring else ())
    batch = choose_window_batch(configuration.patch_size, loaded.passes.device, windows)
    depth = slab_depth(shape, configuration.patch_size, windows.overlap, windows_per_pass(batch, variants))
    finest = count_finest_features(network, configuration.patch_size)
    per_voxel = network.input_channels + TOP_LEVEL_TENSORS * finest + LOGIT_COPIES * num_heads
    # a cubic spline makes a row of all slices, a linear one of two
    held = num_heads * prepared if configuration.resampling.logits_order > 1 else max(HELD_VOXELS, 4 * plane)
    return MemberSizes(
        preprocessing=(2 * FLOAT32_BYTES * max(cropped, prepared) if is_resampled else 0)
        + (FLOAT32_BYTES * copied if is_resampled else 0)
        + (MASK_BYTES * cropped if has_mask else 0),
        image=FLOAT32_BYTES * (channels * prepared if is_resampled else copied)
        + (FLOAT32_BYTES * channels * prepared if configuration.neighbor_slices else 0)
        + (prepared if loaded.previous is not None else 0),
        slab=FLOAT32_BYTES * depth * plane,
        weights=FLOAT32_BYTES * depth * math.prod(shape[1:]),
        windows=FLOAT32_BYTES * batch * math.prod(configuration.patch_size) * per_voxel,
        restoring=FLOAT32_BYTES * (held + RESIZED_SLABS * SLAB_VOXELS),
    )


def estimate_peak(steps: Sequence[StepSizes], storage: SlabStorage, resident: int) -> int:
    """Bytes of the process at its peak; memory of a GPU is not among them.

    Preprocessing, network and the last conversion of the label map follow each other; windows of configurations that
    stream side by side go one after the other.
    """
    peak = 0
    for step in steps:
        images = sum(member.image for member in step.members)
        slabs = sum(_host_bytes(member, storage) for member in step.members)
        windows = max(member.windows for member in step.members)
        restoring = sum(member.restoring for member in step.members)
        preprocessing = images + max(member.preprocessing for member in step.members)
        streaming = images + slabs + windows + restoring + step.labels + step.binned
        peak = max(peak, preprocessing, streaming, 2 * step.labels)
    return resident + peak


def choose_storage(steps: Sequence[StepSizes], available: AvailableMemory, case: str) -> tuple[SlabStorage, int]:
    """The first of CHOICES that fits, and the estimated bytes at the peak.

    Args:
        steps: Sizes of the case, in any order; its steps follow each other.
        available: Memory and disk. Where the user set no limit, the smallest choice is tried in any case.
        case: Case id for the message.

    Raises:
        MemoryLimitError: If even the smallest goes beyond a limit that was set.
    """
    peaks = {
        storage: estimate_peak(steps, storage, available.resident)
        for storage in CHOICES
        if available.holds(steps, storage)
    }
    for storage, peak in peaks.items():
        if available.limit is None or peak <= available.limit:
            return storage, peak
    storage, smallest = min(peaks.items(), key=lambda item: item[1])
    if available.limit is None or not available.is_limit_set:
        return storage, smallest
    raise MemoryLimitError(
        f"case {case}: needs about {smallest / 1e9:.2f} GB of memory, {available.resident / 1e9:.2f} GB of it before "
        f"it starts (program, weights, image as read); {available.limit / 1e9:.2f} GB are allowed. Allow more "
        "(--max-memory), or cut the image into parts."
    )


def _host_bytes(member: MemberSizes, storage: SlabStorage) -> int:
    match storage.place:
        case "device":
            return 0
        case "file":
            return member.weights
        case "ram":
            return member.weights + member.slab * storage.dtype.itemsize // FLOAT32_BYTES
