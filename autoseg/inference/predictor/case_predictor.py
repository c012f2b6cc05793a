"""One image, from voxels to a label map on its own grid, in bounded memory.

    preprocess (all configurations) -> networks: slices of logits -> labels, slab by slab -> post-process

A cascade's first stage streams into the label map of its second one before that one's networks run.

Tested in tests/stages/test_predict.py and tests/stages/test_predictor.py.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.imaging.arrays.instances import find_instances
from autoseg.imaging.arrays.labels import decode_label_map
from autoseg.imaging.arrays.preprocessing import labels_on_grid, normalized_crop, preprocess_case
from autoseg.imaging.datasets.case_reading import choose_orientation
from autoseg.imaging.formats.geometry import measurable_spacing, orient_array, orient_grid, restore_array
from autoseg.imaging.formats.volume import Volume
from autoseg.inference.memory.available import measure_room
from autoseg.inference.memory.estimate import case_stages, choose_storage, measure_shapes, refining_stage
from autoseg.inference.models.label_colors import value_names
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.models.stream import stream_case_logits
from autoseg.inference.predictor.images import check_image
from autoseg.inference.predictor.instances import measure_instances
from autoseg.inference.predictor.prepared_case import PreparedCase, timed, timed_slices
from autoseg.inference.predictor.region_of_interest import (
    enlarge,
    find_by_network,
    find_in_labels,
    halve,
    surround,
)
from autoseg.inference.predictor.training_range import TrainingRange, describe_departures, intensity_ranges
from autoseg.inference.refinement.refine import LoadedRefiners, restore_refined
from autoseg.inference.restoring.decisions import Thresholds
from autoseg.inference.restoring.restore import CaseLogits, ProbabilitySink, restore_labels, restore_on_grid
from autoseg.inference.sinks.probabilities import ProbabilityVolume, probability_file
from autoseg.inference.sinks.uncertainty import EntropyVolume, fold_disagreement, single_networks
from autoseg.inference.sinks.winning_probability import WinningProbability
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.postprocessing import apply_postprocessing
from autoseg.records.case import PreprocessedCase, Slices3, Spacing
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import PostprocessingStep
from autoseg.records.prediction import Instances, Prediction

if TYPE_CHECKING:
    import blosc2

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True, kw_only=True)
class CasePredictor:
    """What predicts, and how; see `stages.predict.Predictor`."""

    plan: Plan
    members: tuple[LoadedConfiguration, ...]
    postprocessing: tuple[PostprocessingStep, ...]
    device: torch.device
    mirroring: bool
    overlap: float
    max_memory: int | None
    """Bytes of the whole process; None: what the machine has free."""
    training_range: TrainingRange | None = None
    """Of the training images; None where the model does not know it."""
    is_regional: bool = False
    """Whether a cheap pass finds the foreground first, and networks look at its surroundings only."""
    region_thresholds: Thresholds = field(default_factory=dict)
    locator: LoadedConfiguration | None = None
    """A coarser configuration for the cheap pass; None: the configuration itself, on the halved image."""
    refiners: LoadedRefiners | None = None
    """Look again at boundaries; None: nothing does."""
    memory_log_level: int = logging.INFO
    """Of the estimate that is logged for every case."""

    def prepare(self, volume: Volume, *, case: str, overwrite: bool, read_seconds: float) -> PreparedCase:
        """Check an image and preprocess it for every network; arguments as for `Predictor.predict_volume`.

        Raises:
            PredictionError: If the image does not fit the model, or more memory is needed than is allowed.
        """
        check_image(volume, case, self.plan.channel_names)
        warnings = self._describe_departures(volume)
        orientation = choose_orientation(volume.grid, self.plan.orientation)
        image = orient_array(volume.array, orientation)
        spacing = orient_grid(volume.grid, orientation).spacing
        reuse = overwrite and self.refiners is None
        storage = self._choose_storage(image, spacing, case, overwrite=reuse)
        seconds = {"read": read_seconds, "preprocess": 0.0, "network": 0.0, "export": 0.0}
        names = list(dict.fromkeys(name for member in self.members for name in _stages(member)))
        if self.locator is not None and self.locator.name not in names:
            names.insert(0, self.locator.name)
        inputs = {}
        with timed(seconds, "preprocess"):
            for name in names:
                prepared, _, record = preprocess_case(
                    image, None, spacing,
                    case=case, plan=self.plan, configuration=name, overwrite=reuse and name == names[-1],
                )  # fmt: skip
                inputs[name] = prepared, record
            own = None
            if self.refiners is not None:
                schemes = self.members[0].configuration.normalization
                own = normalized_crop(image, inputs[names[-1]][1], schemes, overwrite=overwrite)
        is_flat = volume.template.file_dimensions == 2
        return PreparedCase(volume.grid, orientation, storage, inputs, own, warnings, is_flat, seconds)

    def predict(
        self,
        case: PreparedCase,
        probabilities: bool | Path = False,
        *,
        uncertainty: bool = False,
        instances: bool = False,
    ) -> Prediction:
        """Run the networks and restore the label map; lets the preprocessed images go."""
        encoding, orientation = self.plan.encoding, case.orientation
        shape = orient_grid(case.grid, orientation).shape
        entropy = EntropyVolume(shape, encoding) if uncertainty else None
        winning = WinningProbability(shape, encoding, self.region_thresholds) if instances else None
        with self._probabilities(probabilities, case) as array:
            sinks = [] if array is None else [ProbabilityVolume(array, encoding, orientation).write]
            sinks += [] if entropy is None else [entropy.write]
            sinks += [] if winning is None else [winning.write]
            indices = self._label_indices(case, sinks, winning, keep=uncertainty)
        with timed(case.seconds, "export"):
            labels = decode_label_map(restore_array(indices, orientation), encoding)
            found = None if winning is None else self._find_instances(indices, winning, case)
            del indices
        return Prediction(
            labels=labels,
            grid=case.grid,
            probabilities=array if isinstance(array, np.ndarray) else None,
            uncertainty=None if entropy is None else restore_array(entropy.values, orientation),
            disagreement=self._disagreement(labels, case) if uncertainty else None,
            instances=found,
            warnings=case.warnings,
            seconds=case.seconds,
        )

    def _label_indices(
        self,
        case: PreparedCase,
        sinks: Sequence[ProbabilitySink] = (),
        winning: WinningProbability | None = None,
        *,
        keep: bool,
    ) -> NDArray[np.integer]:
        """Post-processed, in working orientation; the preprocessed images are let go unless they are to be kept."""
        encoding = self.plan.encoding
        with timed(case.seconds, "export"):
            answers, thresholds = self.answers(case), self.region_thresholds
            if self.refiners is None or case.image is None:
                labels = restore_labels(answers, encoding, sinks, thresholds)
            else:
                labels = restore_refined(answers, case.image, encoding, self.refiners, sinks, thresholds)
            if not keep:
                case.inputs.clear()
            spacing = measurable_spacing(orient_grid(case.grid, case.orientation))
            kept = apply_postprocessing(labels, self.postprocessing, encoding, spacing)
            if winning is not None and kept is not labels:
                winning.forget(kept != labels)
            return kept

    def _find_instances(
        self, indices: NDArray[np.integer], winning: WinningProbability, case: PreparedCase
    ) -> Instances:
        encoding, orientation = self.plan.encoding, case.orientation
        ids, owners = find_instances(indices, encoding, orient_grid(case.grid, orientation).spacing)
        ids, probabilities = restore_array(ids, orientation), restore_array(winning.values, orientation)
        table = measure_instances(
            ids, owners, value_names(encoding), case.grid, probabilities, is_flat=case.is_flat
        )  # fmt: skip
        return Instances(ids=ids, table=table)

    def answers(self, case: PreparedCase) -> list[CaseLogits]:
        """Logits of every member, to be read once and side by side."""
        return [self._stream(member, case) for member in self.members]

    def _disagreement(self, labels: NDArray[np.unsignedinteger], case: PreparedCase) -> NDArray[np.float16] | None:
        """Run every network on its own; a model of one network cannot disagree with itself."""
        networks = single_networks(self.members)
        if len(networks) == 1:
            return None
        start = time.perf_counter()
        again = replace(case, seconds=dict.fromkeys(case.seconds, 0.0))
        own = (replace(self, members=(network,))._label_indices(again, keep=True) for network in networks)
        restored = (restore_array(indices, case.orientation) for indices in own)
        disagreement = fold_disagreement(labels, (decode_label_map(one, self.plan.encoding) for one in restored))
        case.seconds["disagreement"] = time.perf_counter() - start
        return disagreement

    def _describe_departures(self, volume: Volume) -> tuple[str, ...]:
        if self.training_range is None:
            return ()
        grid = orient_grid(volume.grid, choose_orientation(volume.grid, self.plan.orientation))
        schemes = self.members[0].configuration.normalization
        ranges = intensity_ranges(volume.array)
        return tuple(describe_departures(self.training_range, grid, ranges, self.plan.channel_names, schemes))

    def _stream(self, member: LoadedConfiguration, case: PreparedCase, *, everywhere: bool = False) -> CaseLogits:
        """Logits of one configuration, to be read once; the stages before it run here, and look everywhere."""
        image, record = case.inputs[member.name]
        labels = None
        if member.previous is not None:
            labels = self._label_map_for(member, self._stream(member.previous, case, everywhere=True), record)
        box = self._region(member, case, labels) if self.is_regional and not everywhere else None
        if box is not None:
            image, labels = image[:, *box], None if labels is None else labels[box]
        settings = WindowSettings(overlap=self.overlap, mirroring=self.mirroring, storage=case.storage)
        slices = stream_case_logits(member, image, labels, settings=settings)
        if box is not None:
            heads = len(self.plan.encoding.heads)
            slices = surround(slices, box, record.shape, heads, is_softmax=self.plan.encoding.activation == "softmax")
        return CaseLogits(timed_slices(slices, case.seconds), record, member.configuration.resampling)

    def _region(
        self, member: LoadedConfiguration, case: PreparedCase, labels: NDArray[np.integer] | None
    ) -> Slices3 | None:
        """Where a configuration has to look, on its own grid; None: everywhere. `labels`: of the stage before."""
        shape = case.inputs[member.name][1].shape
        is_flat = member.configuration.network.dimensions == 2
        window = (1,) * is_flat + member.configuration.patch_size
        if all(edge >= size for edge, size in zip(window[is_flat:], shape[is_flat:], strict=True)):
            return None  # one window sees it all
        if labels is not None:
            found = find_in_labels(labels)
            return None if found is None else enlarge(found, shape, shape, window)
        found, grid = self._find_cheaply(member, case, flat=is_flat)
        return None if found is None else enlarge(found, grid, shape, window)

    def _find_cheaply(
        self, member: LoadedConfiguration, case: PreparedCase, *, flat: bool
    ) -> tuple[Slices3 | None, tuple[int, ...]]:
        """The box of the foreground and the grid that it is on."""
        locator = self.locator or member
        with timed(case.seconds, "network"):
            image = case.inputs[locator.name][0]
            if self.locator is None:
                image = halve(image, flat=flat)
            found = find_by_network(
                locator, image, is_softmax=self.plan.encoding.activation == "softmax",
            )  # fmt: skip
        return found, image.shape[1:]

    def _label_map_for(
        self, member: LoadedConfiguration, earlier: CaseLogits, grid: PreprocessedCase
    ) -> NDArray[np.integer]:
        """What a cascade's stage gets of the stage before it, on its own grid."""
        if member.configuration.previous_labels == "logits":
            return restore_on_grid(earlier, grid, self.plan.encoding)
        labels = restore_labels([earlier], self.plan.encoding)
        return labels_on_grid(labels, grid, member.configuration.resampling)

    @contextmanager
    def _probabilities(
        self, wanted: bool | Path, case: PreparedCase
    ) -> "Iterator[NDArray[np.float16] | blosc2.NDArray | None]":
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
        encoding, shapes = self.plan.encoding, measure_shapes(image, spacing, self.plan.transpose)
        label_bytes = np.min_scalar_type(max(encoding.values)).itemsize
        stages = case_stages(
            self.members, shapes, len(encoding.heads), label_bytes,
            mirroring=self.mirroring, overlap=self.overlap, overwrite=overwrite,
        )  # fmt: skip
        if self.refiners is not None:
            stages = (*stages, refining_stage(shapes, len(image), label_bytes))
        room = measure_room(self.max_memory, self.device, image.nbytes)
        storage, peak = choose_storage(stages, room, case)
        limit = "" if room.limit is None else f" of {room.limit / 1e9:.2f} GB"
        logger.log(
            self.memory_log_level,
            "%s: about %.2f GB of memory at the peak%s; sums of windows %s",
            case, peak / 1e9, limit, storage.describe(),
        )  # fmt: skip
        return replace(storage, device=self.device)


def _stages(member: LoadedConfiguration) -> tuple[str, ...]:
    """A configuration and, before it, all that come before it in a cascade."""
    return (member.name,) if member.previous is None else (*_stages(member.previous), member.name)
