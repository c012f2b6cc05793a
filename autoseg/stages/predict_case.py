"""One image, from voxels to a label map on its own grid, in bounded memory.

    preprocess (all configurations) -> networks: slices of logits -> labels, slab by slab -> post-process

A cascade's first stage streams into the label map of its second one before that one's networks run.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import blosc2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.imaging.case_reading import choose_orientation
from autoseg.imaging.cropping import content_box
from autoseg.imaging.geometry import orient_array, orient_grid, restore_array
from autoseg.imaging.labels import decode_label_map
from autoseg.imaging.volume import Volume
from autoseg.inference.case import stream_case_logits
from autoseg.inference.logit_slab import SlabStorage
from autoseg.inference.memory import CaseShapes, case_stages, choose_storage
from autoseg.inference.model_loading import LoadedConfiguration
from autoseg.inference.probabilities import ProbabilityVolume, probability_file
from autoseg.inference.restore import CaseLogits, restore_labels, restore_on_grid
from autoseg.inference.room import measure_room
from autoseg.postprocessing import apply_postprocessing
from autoseg.records.case import Grid, Orientation, PreprocessedCase, Spacing, Triple
from autoseg.records.plan import Plan
from autoseg.records.prediction import Prediction
from autoseg.records.selection import KeepLargestComponent
from autoseg.stages.preprocess import preprocess_case

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True)
class PreparedCase:
    """An image, preprocessed for all networks; predicted once."""

    grid: Grid
    """Stored order."""
    orientation: Orientation
    """From stored to working axes."""
    storage: SlabStorage
    inputs: dict[str, tuple[NDArray[np.float32], PreprocessedCase]]
    """By configuration, the earlier stages of cascades too."""
    seconds: dict[str, float]
    """By step, so far."""


@dataclass(frozen=True, kw_only=True)
class CasePredictor:
    """What predicts, and how; see `stages.predict.Predictor`."""

    plan: Plan
    members: tuple[LoadedConfiguration, ...]
    postprocessing: tuple[KeepLargestComponent, ...]
    device: torch.device
    dtype: torch.dtype
    mirroring: bool
    overlap: float
    max_memory: int | None
    """Bytes of the whole process; None: what the machine has free."""

    def prepare(self, volume: Volume, *, case: str, overwrite: bool, read_seconds: float) -> "PreparedCase":
        """Preprocess an image for every network; arguments as for `Predictor.predict_volume`, which has checked it.

        Raises:
            PredictionError: If more memory is needed than is allowed.
        """
        orientation = choose_orientation(volume.grid, self.plan.orientation)
        image = orient_array(volume.array, orientation)
        spacing = orient_grid(volume.grid, orientation).spacing
        storage = self._choose_storage(image, spacing, case, overwrite=overwrite)
        seconds = {"read": read_seconds, "preprocess": 0.0, "network": 0.0, "export": 0.0}
        names = list(dict.fromkeys(name for member in self.members for name in _stages(member)))
        inputs = {}
        with _timed(seconds, "preprocess"):
            for name in names:
                prepared, _, record = preprocess_case(
                    image, None, spacing,
                    case=case, plan=self.plan, configuration=name, overwrite=overwrite and name == names[-1],
                )  # fmt: skip
                inputs[name] = prepared, record
        return PreparedCase(volume.grid, orientation, storage, inputs, seconds)

    def predict(self, case: "PreparedCase", probabilities: bool | Path = False) -> Prediction:
        """Run the networks and restore the label map; lets the preprocessed images go."""
        encoding, orientation = self.plan.encoding, case.orientation
        with _timed(case.seconds, "export"), self._probabilities(probabilities, case) as array:
            volume = None if array is None else ProbabilityVolume(array, encoding, orientation)
            labels = restore_labels([self._stream(member, case) for member in self.members], encoding, volume)
            case.inputs.clear()
            kept = apply_postprocessing(labels, self.postprocessing, encoding)
            del labels
            values = decode_label_map(restore_array(kept, orientation), encoding)
        maps = array if isinstance(array, np.ndarray) else None
        return Prediction(labels=values, grid=case.grid, probabilities=maps, seconds=case.seconds)

    def _stream(self, member: LoadedConfiguration, case: "PreparedCase") -> CaseLogits:
        """Logits of one configuration, to be read once; the stages before it run here."""
        image, record = case.inputs[member.name]
        labels = None
        if member.previous is not None:
            labels = restore_on_grid(self._stream(member.previous, case), record, self.plan.encoding)
        slices = stream_case_logits(
            member, image, labels,
            device=self.device, dtype=self.dtype, mirroring=self.mirroring, overlap=self.overlap, storage=case.storage,
        )  # fmt: skip
        return CaseLogits(_timed_slices(slices, case.seconds), record, member.configuration.resampling)

    @contextmanager
    def _probabilities(
        self, wanted: bool | Path, case: "PreparedCase"
    ) -> Iterator[NDArray[np.float16] | blosc2.NDArray | None]:
        """Zeros (K, Z, Y, X) in memory (True) or in a file (its path); nothing (False)."""
        shape = (len(self.plan.encoding.heads), *case.grid.shape)
        if isinstance(wanted, Path):
            with probability_file(wanted, shape, case.orientation.axes[self.plan.transpose[0]]) as file:
                yield file
        else:
            yield np.zeros(shape, dtype=np.float16) if wanted else None

    def _choose_storage(
        self, image: NDArray[np.float32], spacing: Spacing, case: str, *, overwrite: bool
    ) -> SlabStorage:
        """Where sums of windows lie; logs the estimate of the memory."""
        encoding = self.plan.encoding
        stages = case_stages(
            self.members, _case_shapes(image, spacing, self.plan.transpose), len(encoding.heads),
            np.min_scalar_type(max(encoding.values)).itemsize,
            mirroring=self.mirroring, overlap=self.overlap, overwrite=overwrite,
        )  # fmt: skip
        room = measure_room(self.max_memory, self.device, image.nbytes)
        storage, peak = choose_storage(stages, room, case)
        limit = "" if room.limit is None else f" of {room.limit / 1e9:.2f} GB"
        logger.info(
            "%s: about %.2f GB of memory at the peak%s; sums of windows %s",
            case, peak / 1e9, limit, storage.describe(),
        )  # fmt: skip
        return storage


def _stages(member: LoadedConfiguration) -> tuple[str, ...]:
    """A configuration and, before it, all that come before it in a cascade."""
    return (member.name,) if member.previous is None else (*_stages(member.previous), member.name)


def _case_shapes(image: NDArray[np.float32], spacing: Spacing, transpose: Triple) -> CaseShapes:
    start, stop = content_box(image)
    first, second, third = transpose
    cropped = [last - begin for begin, last in zip(start, stop, strict=True)]
    return CaseShapes(
        image=(image.shape[1 + first], image.shape[1 + second], image.shape[1 + third]),
        cropped=(cropped[first], cropped[second], cropped[third]),
        spacing=(spacing[first], spacing[second], spacing[third]),
    )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add what the block takes to its step, but for what other steps take within it."""
    start, before = time.perf_counter(), sum(seconds.values())
    try:
        yield
    finally:
        others = sum(seconds.values()) - before
        seconds[step] += time.perf_counter() - start - others


def _timed_slices(slices: Iterator[Tensor], seconds: dict[str, float]) -> Iterator[Tensor]:
    while True:
        with _timed(seconds, "network"):
            logits = next(slices, None)
        if logits is None:
            return
        yield logits
