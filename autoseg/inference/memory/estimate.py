"""How much memory a case needs, reckoned before it starts, and where its sums of windows may lie.

    shapes --MemberSizes, StageSizes--> bytes at the peak of each choice --choose_storage--> the first that fits

Sums lie beside the network on a GPU, in RAM, or in a temporary file, all in float32 and with the same label map to the
bit; only where the file finds no room they lie in RAM in float16, as nnU-Net's always do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.errors import PredictionError
from autoseg.imaging.arrays.cropping import find_content_bounds
from autoseg.imaging.arrays.resampling import preprocessed_grid
from autoseg.inference.memory.available import Room
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.restoring.resizing import HELD_VOXELS
from autoseg.inference.restoring.restore import SLAB_VOXELS
from autoseg.inference.windows.forwards import mirror_variants
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.sliding_window import choose_window_batch, slab_depth, windows_per_pass
from autoseg.records.case import Spacing, Triple

FLOAT32_BYTES = 4
TOP_LEVEL_TENSORS = 6
"""Of a U-Net's widest level, alive at once: skip, upsampled, both joined (2), and a block's in- and output."""
ANSWERS = 3
"""Copies of a window's logits at a time: as they come, mirrored back, and summed."""
MASK_BYTES = 6
"""Per voxel: a mask, and numbered components of what is not in it."""
REFINING_BYTES = 20
"""Per voxel: masks and surface of one structure, its probability before and after, sums of patches and of weights."""
RESIZED_SLABS = 6
"""Tensors of SLAB_VOXELS that deciding a slab holds."""
CHOICES = (
    SlabStorage("device", torch.float32),
    SlabStorage("ram", torch.float32),
    SlabStorage("file", torch.float32),
    SlabStorage("ram", torch.float16),
)
"""In the order of preference."""


@dataclass(frozen=True)
class MemberSizes:
    """Bytes of one configuration at work on one case."""

    preprocessing: int
    """Held only while the image is cropped and resampled."""
    image: int
    """The preprocessed image, and the previous stage's label map."""
    slab: int
    """Sums of windows, float32."""
    weights: int
    windows: int
    """One network pass."""
    restoring: int
    """Slices that wait to be resized, and the slab that is decided."""


@dataclass(frozen=True)
class StageSizes:
    """Configurations that stream side by side; or one stage of a cascade."""

    members: tuple[MemberSizes, ...]
    labels: int
    """Bytes of the label map that they fill."""


@dataclass(frozen=True)
class CaseShapes:
    """Shapes of one case, voxels, the plan's axes."""

    image: Triple
    cropped: Triple
    spacing: Spacing
    """mm."""


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


def case_stages(
    members: Sequence[LoadedConfiguration],
    shapes: CaseShapes,
    num_heads: int,
    label_bytes: int,
    *,
    mirroring: bool,
    overlap: float,
    overwrite: bool,
) -> tuple[StageSizes, ...]:
    """Reckon a case: its configurations side by side, and before them every earlier stage of a cascade.

    Args:
        members: What predicts.
        shapes: Of the case.
        num_heads: K.
        label_bytes: Per voxel of the label map.
        mirroring: Whether windows are mirrored.
        overlap: Of windows.
        overwrite: Whether the last configuration may normalise the image where it lies.
    """

    def sizes(member: LoadedConfiguration, *, overwrite: bool) -> MemberSizes:
        return _member_sizes(member, shapes, num_heads, mirroring=mirroring, overlap=overlap, overwrite=overwrite)

    voxels = math.prod(shapes.image)
    last = tuple(sizes(member, overwrite=overwrite and member is members[-1]) for member in members)
    stages = [StageSizes(last, label_bytes * voxels)]
    waiting = [member.previous for member in members]
    while waiting:
        if (member := waiting.pop()) is not None:
            stages.append(StageSizes((sizes(member, overwrite=False),), label_bytes * voxels))
            waiting.append(member.previous)
    return tuple(stages)


def refining_stage(shapes: CaseShapes, channels: int, label_bytes: int) -> StageSizes:
    """Reckon boundary refinement, which comes after the networks; a structure may fill the crop.

    Args:
        shapes: Of the case.
        channels: Of the image, whose crop is kept at its own resolution.
        label_bytes: Per voxel of the label map.
    """
    cropped = math.prod(shapes.cropped)
    member = MemberSizes(
        preprocessing=REFINING_BYTES * cropped, image=FLOAT32_BYTES * channels * cropped, slab=0, weights=0, windows=0,
        restoring=0,
    )  # fmt: skip
    return StageSizes((member,), label_bytes * math.prod(shapes.image))


def _member_sizes(
    loaded: LoadedConfiguration, shapes: CaseShapes, num_heads: int, *, mirroring: bool, overlap: float, overwrite: bool
) -> MemberSizes:
    configuration, network = loaded.configuration, loaded.configuration.network
    _, shape = preprocessed_grid(shapes.cropped, shapes.spacing, configuration.spacing)
    cropped, prepared = math.prod(shapes.cropped), math.prod(shape)
    channels, is_resampled = len(configuration.normalization), shape != shapes.cropped
    has_mask = any(spec.use_mask for spec in configuration.normalization)
    copied = 0 if overwrite else channels * cropped
    plane = num_heads * math.prod(shape[1:])
    variants = mirror_variants(loaded.mirror_axes if mirroring else ())
    batch = choose_window_batch(configuration.patch_size)
    depth = slab_depth(shape, configuration.patch_size, overlap, windows_per_pass(batch, variants))
    per_voxel = network.input_channels + TOP_LEVEL_TENSORS * network.features[0] + ANSWERS * num_heads
    # a cubic spline makes a row of all slices, a linear one of two
    held = num_heads * prepared if configuration.resampling.logits_order > 1 else max(HELD_VOXELS, 4 * plane)
    return MemberSizes(
        preprocessing=(2 * FLOAT32_BYTES * max(cropped, prepared) if is_resampled else 0)
        + (FLOAT32_BYTES * copied if is_resampled else 0)
        + (MASK_BYTES * cropped if has_mask else 0),
        image=FLOAT32_BYTES * (channels * prepared if is_resampled else copied)
        + (prepared if loaded.previous is not None else 0),
        slab=FLOAT32_BYTES * depth * plane,
        weights=FLOAT32_BYTES * depth * math.prod(shape[1:]),
        windows=FLOAT32_BYTES * batch * math.prod(configuration.patch_size) * per_voxel,
        restoring=FLOAT32_BYTES * (held + RESIZED_SLABS * SLAB_VOXELS),
    )


def estimate_peak(stages: Sequence[StageSizes], storage: SlabStorage, resident: int) -> int:
    """Bytes of the process at its peak; memory of a GPU is not among them.

    Preprocessing, network and the last conversion of the label map follow each other; windows of configurations that
    stream side by side go one after the other.
    """
    peak = 0
    for stage in stages:
        images = sum(member.image for member in stage.members)
        slabs = sum(_host_bytes(member, storage) for member in stage.members)
        windows = max(member.windows for member in stage.members)
        restoring = sum(member.restoring for member in stage.members)
        preprocessing = images + max(member.preprocessing for member in stage.members)
        streaming = images + slabs + windows + restoring + stage.labels
        peak = max(peak, preprocessing, streaming, 2 * stage.labels)
    return resident + peak


def choose_storage(stages: Sequence[StageSizes], room: Room, case: str) -> tuple[SlabStorage, int]:
    """The first of CHOICES that fits, and the estimate of the peak.

    Args:
        stages: Of the case, one after the other.
        room: What there is. Where nobody set its limit, the smallest choice is tried in any case.
        case: For the message.

    Raises:
        PredictionError: If even the smallest goes beyond a limit that was set.
    """
    peaks = {
        storage: estimate_peak(stages, storage, room.resident)
        for storage in CHOICES
        if _has_place(stages, storage, room)
    }
    for storage, peak in peaks.items():
        if room.limit is None or peak <= room.limit:
            return storage, peak
    storage, smallest = min(peaks.items(), key=lambda item: item[1])
    if room.limit is None or not room.is_limit_set:
        return storage, smallest
    raise PredictionError(
        f"case {case}: needs about {smallest / 1e9:.2f} GB of memory, {room.resident / 1e9:.2f} GB of it before it "
        f"starts (program, weights, image as read); {room.limit / 1e9:.2f} GB are allowed. Allow more (--max-memory), "
        "or cut the image into parts."
    )


def _has_place(stages: Sequence[StageSizes], storage: SlabStorage, room: Room) -> bool:
    """Whether device or disk take it; RAM is what the limit is about."""
    slabs = max(sum(member.slab for member in stage.members) for stage in stages)
    if storage.place == "device":
        windows = max(member.windows for stage in stages for member in stage.members)
        return room.device is not None and slabs + windows <= room.device
    return storage.place == "ram" or slabs <= room.disk


def _host_bytes(member: MemberSizes, storage: SlabStorage) -> int:
    match storage.place:
        case "device":
            return 0
        case "file":
            return member.weights
        case "ram":
            return member.weights + member.slab * storage.dtype.itemsize // FLOAT32_BYTES
