"""Refine the surface of every structure at the image's own resolution, and blend the refined probabilities in.

    coarse logits --stream--> label map, and probabilities by head in a compressed temporary file
    head by head: surface -> patches -> refiners -> Gaussian mean of patches -> file
    voxels whose probabilities changed -> decided again

One head at a time is in memory, within the box around its surface.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoseg.imaging.arrays.cropping import cropped_view, find_bounds
from autoseg.imaging.arrays.labels import foreground_heads
from autoseg.inference.refinement.patches import choose_centres, cut_patches, find_surface, patch_box
from autoseg.inference.restoring.decisions import DEFAULT_THRESHOLDS, Thresholds, decide_probabilities
from autoseg.inference.restoring.restore import (
    SLAB_VOXELS,
    LabelIndices,
    LogitStream,
    ProbabilitySink,
    StepClock,
    restore_labels,
)
from autoseg.inference.sinks.probabilities import probability_file
from autoseg.inference.windows.logit_slab import CPU
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import is_out_of_memory, release_cached_memory
from autoseg.networks.refiner import RefinerNetwork
from autoseg.records.case import PreprocessedCase, Slices3, Triple
from autoseg.records.dataset import Head, LabelEncoding
from autoseg.records.files import scratch_folder
from autoseg.records.selection import PatchSettings

if TYPE_CHECKING:
    import blosc2

PATCHES_PER_PASS, GPU_PATCHES_PER_PASS = 8, 128
"""A GPU takes longer to start a pass of few patches than to compute it; not measured."""
SIGMAS_PER_PATCH = 4
"""Edge of a patch over the sigma of its Gaussian weight: a third of the way to the border has weight 0.8."""


@dataclass(frozen=True)
class LoadedRefiners:
    """Networks whose probabilities are averaged, on their device and in evaluation mode."""

    patches: PatchSettings
    networks: tuple[RefinerNetwork, ...]
    device: torch.device


@dataclass(frozen=True)
class CoarseCase:
    """Coarse prediction of one case within the crop; axes follow the plan's transpose."""

    volume: LabelIndices
    """Label indices of the whole image, working orientation."""
    labels: LabelIndices
    """Label indices (Z, Y, X) within the crop, a view of `volume`."""
    probabilities: "NDArray[np.float16] | blosc2.NDArray"
    """Probabilities (K, Z, Y, X), float16."""
    image: NDArray[np.float32]
    """Normalised image (C, Z, Y, X) at its own resolution."""


@contextmanager
def coarse_case(
    streams: Sequence[LogitStream],
    image: NDArray[np.float32],
    encoding: LabelEncoding,
    sinks: Sequence[ProbabilitySink] = (),
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    clock: StepClock | None = None,
) -> Iterator[CoarseCase]:
    """Restore the label map of a case and keep its probabilities in a temporary file as long as the block lasts.

    Args:
        streams: Logits of the configurations to combine, as for `restore_labels`.
        image: (C, Z, Y, X), the normalised crop; see `imaging.arrays.preprocessing.normalized_crop`.
        encoding: Label index of each head.
        sinks: What also receives the coarse probabilities.
        thresholds: Probability above which a voxel belongs to a region.
        clock: Measures the steps `network` and `export`.
    """
    record = streams[0].record
    shape = (len(encoding.heads), *image.shape[1:])
    with (
        scratch_folder("coarse") as folder,
        probability_file(folder / "coarse.b2nd", shape, 0) as file,
    ):
        volume = restore_labels(streams, encoding, [*sinks, _CroppedProbabilities(file)], thresholds, clock)
        labels = cropped_view(volume, record)
        yield CoarseCase(volume, labels, file, image)


class _CroppedProbabilities:
    """Probabilities of the cropped box in a file; a `ProbabilitySink`."""

    def __init__(self, file: "blosc2.NDArray") -> None:
        self._file = file

    def write(self, record: PreprocessedCase, start: int, stop: int, probabilities: torch.Tensor) -> None:
        """Set some rows of the cropped box; see `ProbabilitySink`."""
        self._file[:, start:stop] = probabilities.cpu().numpy().astype(np.float16)


def find_head_surface(
    labels: LabelIndices, head: Head, size: Triple, distance: Triple
) -> tuple[Slices3, list[Triple]] | None:
    """Place patches along the surface of one head's structure; None if the label map does not have it.

    Args:
        labels: Label indices (Z, Y, X).
        head: Label or region.
        size: Size of the patches; 1 along the first axis: each slice has its own surface.
        distance: Distance between centres; see `choose_centres`.

    Returns:
        Box around the structure and all patches, and the centres of the patches as indices within it.
    """
    mask = np.isin(labels, head.indices)
    if not mask.any():
        return None
    starts, stops = find_bounds(mask)
    starts_with_margin = [max(0, start - edge // 2) for start, edge in zip(starts, size, strict=True)]
    ends = zip(stops, size, mask.shape, strict=True)
    stops_with_margin = [min(end, stop + edge // 2) for stop, edge, end in ends]
    z, y, x = (slice(*ends) for ends in zip(starts_with_margin, stops_with_margin, strict=True))
    surface = find_surface(mask[z, y, x], flat=size[0] == 1)
    return (z, y, x), choose_centres(surface, distance)


def refine_labels(
    coarse: CoarseCase, encoding: LabelEncoding, refiners: LoadedRefiners, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> None:
    """Refine every structure's probabilities, then decide again where they changed; `coarse` is overwritten.

    With softmax, background loses what foreground gains, so that refiners that change nothing change no label.

    Args:
        coarse: Coarse prediction of the case.
        encoding: Label encoding of the heads.
        refiners: Refiners on their device.
        thresholds: Probability above which a voxel belongs to a region.

    References:
        Tang et al. 2021, boundary patch refinement (BPR): patches along the contour, averaged where they overlap,
        coarse labels elsewhere. Differs: soft, Gaussian weights, several classes decided together.
    """
    changed = np.zeros(coarse.labels.shape, dtype=np.bool_)
    settings = refiners.patches
    for number, head in foreground_heads(encoding):
        surface = find_head_surface(coarse.labels, head, settings.size, settings.prediction_distance)
        if surface is None:
            continue
        box, centres = surface
        at = (number, *box)
        before = np.array(coarse.probabilities[at])
        after = _blend(before, coarse.image[:, *box], centres, refiners).astype(np.float16)
        coarse.probabilities[at] = after
        changed[box] |= after != before
        if encoding.activation == "softmax":
            background = (0, *box)
            coarse.probabilities[background] = coarse.probabilities[background] - (after - before)
    _decide_again(coarse, encoding, changed, thresholds)


def _blend(
    before: NDArray[np.float16], image: NDArray[np.float32], centres: Sequence[Triple], refiners: LoadedRefiners
) -> NDArray[np.float32]:
    """Weighted mean of patches; where their weights sum to less than 1, the coarse probability has the rest.

    Image and sums lie beside the networks, and in RAM where the memory of a GPU is too small for them.
    """
    try:
        return _blend_beside(before, image, centres, refiners, refiners.device)
    except (RuntimeError, MemoryError) as error:
        if not device_type(refiners.device).is_gpu or not is_out_of_memory(error):
            raise
    release_cached_memory(refiners.device)
    return _blend_beside(before, image, centres, refiners, CPU)


def _blend_beside(
    before: NDArray[np.float16],
    image: NDArray[np.float32],
    centres: Sequence[Triple],
    refiners: LoadedRefiners,
    place: torch.device,
) -> NDArray[np.float32]:
    """The mean of `_blend`, with image and sums at `place`."""
    size, device = refiners.patches.size, refiners.device
    per_pass = GPU_PATCHES_PER_PASS if device_type(place).is_gpu else PATCHES_PER_PASS
    shape = (before.shape[0], before.shape[1], before.shape[2])
    probability, channels = torch.from_numpy(before.astype(np.float32)).to(place), torch.from_numpy(image).to(place)
    weight, places = torch.from_numpy(_gaussian_weight(size)).to(place), torch.tensor(centres).to(place)
    changes, weights = torch.zeros_like(probability), torch.zeros_like(probability)
    for start in range(0, len(centres), per_pass):
        chosen = places[start : start + per_pass]
        images, patches = (cut_patches(array, chosen, size) for array in (channels, probability))
        refined = _refine_patches(images.to(device), patches.to(device), refiners).to(place)
        for centre, change in zip(centres[start : start + per_pass], weight * (refined - patches), strict=True):
            inside, own = patch_box(centre, size, shape)
            changes[inside] += change[own]
            weights[inside] += weight[own]
    after: NDArray[np.float32] = probability.add_(changes / weights.clamp(min=1)).cpu().numpy()
    return after


@torch.inference_mode()
def _refine_patches(images: Tensor, coarse: Tensor, refiners: LoadedRefiners) -> Tensor:
    """Mean probability (B, *size) of all refiners."""
    refined = [torch.sigmoid(network(images, coarse)) for network in refiners.networks]
    mean: Tensor = sum(refined[1:], refined[0]) / len(refined)
    return mean


def _gaussian_weight(size: Triple) -> NDArray[np.float32]:
    """Weights of a patch's voxels, 1 at its centre, index size // 2."""
    z, y, x = (np.exp(-0.5 * ((np.arange(edge) - edge // 2) * SIGMAS_PER_PATCH / edge) ** 2) for edge in size)
    weight: NDArray[np.float32] = (z[:, None, None] * y[:, None] * x).astype(np.float32)
    return weight


def _decide_again(
    coarse: CoarseCase, encoding: LabelEncoding, changed: NDArray[np.bool_], thresholds: Thresholds
) -> None:
    """Decide within the box of all changes, some rows at a time."""
    boxes = ndimage.find_objects(changed.view(np.uint8))
    if not boxes:
        return
    rows, *plane = boxes[0]
    voxels = np.prod([part.stop - part.start for part in plane])
    step = max(1, int(SLAB_VOXELS // (voxels * len(encoding.heads))))
    for first in range(rows.start, rows.stop, step):
        part = (slice(first, min(first + step, rows.stop)), *plane)
        heads = np.stack([coarse.probabilities[(number, *part)] for number in range(len(encoding.heads))])
        labels = decide_probabilities(torch.from_numpy(heads), encoding, thresholds).numpy()
        np.copyto(coarse.labels[part], labels, casting="unsafe", where=changed[part])
