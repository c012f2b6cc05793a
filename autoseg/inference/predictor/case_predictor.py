"""One image, from voxels to a label map on its own grid, in bounded memory: the page to read first.

In the order of execution:

    prepare: image -> check -> working orientation -> preprocess for every configuration
    predict: for every slab of output rows:
                 windows -> networks -> slices of logits -> resize -> decide -> labels; probabilities -> sinks
             [refine boundaries] -> post-process -> undo the orientation -> label values [-> instances, disagreement]

The loop over slabs is `restoring.restore.restore_labels`: it asks each configuration's stream for the slices that the
next slab needs, and the networks run there, so no volume of logits exists. Earlier steps of a cascade, and the coarse
pass for a region of interest, run before it, when the streams are opened.

Tested in tests/stages/test_predict.py and tests/stages/test_predictor.py.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.imaging.arrays.labels import decode_label_map
from autoseg.imaging.arrays.preprocessing import normalized_crop, preprocess_case
from autoseg.imaging.arrays.resampling import ImageResampler, resample_on_cpu
from autoseg.imaging.datasets.cases import choose_orientation
from autoseg.imaging.formats.volume import (
    Volume,
    measurable_spacing,
    orient_array,
    orient_grid,
    restore_array,
)
from autoseg.inference.memory.estimate import (
    DEVICE_FRACTION,
    choose_storage,
    device_bytes,
    estimate_case,
    estimate_refinement,
    measure_available,
    measure_shapes,
    with_bins,
)
from autoseg.inference.memory.promises import CaseEstimate, PromisedMemory
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.models.recipe_sentence import loaded_steps
from autoseg.inference.models.weights_hash import hash_weights
from autoseg.inference.predictor.contrast import NO_ADAPTING, Adapting, compare_with_training
from autoseg.inference.predictor.expected_dice import decide_stored, restore_by_expected_dice
from autoseg.inference.predictor.images import check_image
from autoseg.inference.predictor.instance_maps import finds_instances, map_instances
from autoseg.inference.predictor.instances import find_instances_of_image
from autoseg.inference.predictor.member_streams import open_stream
from autoseg.inference.predictor.missing_channels import check_presence
from autoseg.inference.predictor.prepared_case import PreparedCase
from autoseg.inference.predictor.region_of_interest import CoarsePass
from autoseg.inference.predictor.training_range import TrainingRange
from autoseg.inference.refinement.refine import LoadedRefiners, coarse_case, refine_labels
from autoseg.inference.restoring.decisions import Thresholds
from autoseg.inference.restoring.restore import (
    LabelIndices,
    LogitStream,
    ProbabilitySink,
    StepClock,
    restore_labels,
)
from autoseg.inference.sinks.label_sums import LabelSumsCounter
from autoseg.inference.sinks.probabilities import ProbabilityVolume, probability_file
from autoseg.inference.sinks.temperature import calibrated
from autoseg.inference.sinks.uncertainty import EntropyVolume, fold_disagreement, single_networks
from autoseg.inference.sinks.winning_probability import WinningProbability
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.sliding_window import CPU_LIMITS, WindowSettings
from autoseg.networks.device_types import device_type
from autoseg.networks.devices import total_memory_bytes
from autoseg.postprocessing import apply_postprocessing
from autoseg.records.case import Spacing
from autoseg.records.confidence import Confidence
from autoseg.records.plan import Plan
from autoseg.records.prediction import OutputChoices, Prediction
from autoseg.records.selection import LabelDecision, PostprocessingStep

if TYPE_CHECKING:
    import blosc2

logger = logging.getLogger("autoseg.predict")

LABEL_MAP_ONLY = OutputChoices()


@dataclass(frozen=True, kw_only=True)
class CasePredictor:
    """Predicts one image after the other; see `stages.predict.Predictor`."""

    plan: Plan
    members: tuple[LoadedConfiguration, ...]
    """Configurations whose probabilities are averaged."""
    windows: WindowSettings = field(default_factory=WindowSettings)
    thresholds: Thresholds = field(default_factory=dict)
    """Probability above which a voxel belongs to a region."""
    decision: LabelDecision = "argmax"
    """How labels follow from probabilities; the earlier steps of a cascade decide by argmax, as in their training."""
    coarse_pass: CoarsePass | None = None
    """Finds the region of interest; None: the whole image is predicted in detail."""
    refiners: LoadedRefiners | None = None
    """Networks that predict the surroundings of surfaces again; None: no refinement."""
    correcting: LoadedConfiguration | None = None
    """Networks that correct label maps by clicks; None: the model has none."""
    postprocessing: tuple[PostprocessingStep, ...] = ()
    confidence: Confidence | None = None
    """What held-out cases say of the probabilities; None: not known."""
    training_range: TrainingRange | None = None
    """Range of the training images; None if the model does not know it."""
    adapting: Adapting = NO_ADAPTING
    """How images are adapted, and which ones."""
    max_memory: int | None = None
    """Bytes that the whole process may use; None: what the machine has free."""
    memory_log_level: int = logging.INFO
    """Level of what is logged for every case: its memory, and the channels that it lacks."""
    promised: PromisedMemory = field(default_factory=PromisedMemory, compare=False)
    """What running cases may take; shared by all threads that use this model."""
    resampler: ImageResampler = resample_on_cpu
    """What resamples images for the networks; it may be the device of the networks."""

    def prepare(
        self, volume: Volume, *, case: str = "image", overwrite: bool = False, read_seconds: float = 0.0
    ) -> PreparedCase:
        """Check an image and preprocess it for every network.

        Args:
            volume: Image (C, Z, Y, X) in stored order, with its grid.
            case: Case id for messages.
            overwrite: Whether the volume's array may be changed, which saves a copy.
            read_seconds: Seconds that reading took.

        Raises:
            PredictionError: If the image does not fit the model, or more memory is needed than is allowed.
        """
        check_image(volume, case, self.plan.channel_names)
        missing = check_presence(volume.array, case, self.plan, self.memory_log_level)
        clock = StepClock()
        clock.seconds["read"] = read_seconds
        orientation = choose_orientation(volume.grid, self.plan.orientation)
        grid = orient_grid(volume.grid, orientation)
        image = orient_array(volume.array, orientation)
        channels, specs = self.plan.channel_names, self.members[0].configuration.normalization
        compared = compare_with_training(self.training_range, image, grid, channels, specs, self.adapting, missing)
        reuse = overwrite and self.refiners is None
        estimate, windows = self._estimate_memory(image, grid.spacing, case, overwrite=reuse)
        images, records, crop = {}, {}, None
        names = self._configuration_names()
        with clock.step("preprocess"):
            for name in names:
                images[name], _, records[name] = preprocess_case(
                    image, None, grid.spacing,
                    case_id=case, plan=self.plan, configuration_name=name, overwrite=reuse and name == names[-1],
                    resampler=self.resampler, maps=compared.maps,
                )  # fmt: skip
            if self.refiners is not None:
                crop = normalized_crop(image, records[names[-1]], specs, overwrite=overwrite, maps=compared.maps)
        return PreparedCase(
            template=volume.template,
            volume=None if overwrite else volume,
            notes=volume.notes,
            orientation=orientation,
            estimate=estimate,
            windows=windows,
            images=images,
            records=records,
            crop=crop,
            warnings=compared.warnings,
            takes_statistics=compared.takes_statistics,
            clock=clock,
        )

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the weights of all networks that predict: what identifies the model in DICOM files."""
        return hash_weights(self.members)

    def predict(
        self, case: PreparedCase, choices: OutputChoices = LABEL_MAP_ONLY, probability_path: Path | None = None
    ) -> Prediction:
        """Run the networks and restore the label map; releases the preprocessed images.

        Args:
            case: The prepared image.
            choices: Outputs besides the label map.
            probability_path: File (.b2nd) to write the probabilities to; None: keep them in memory.
        """
        if finds_instances(self.plan):
            return self._predict_instances(case)
        encoding, orientation, clock = self.plan.encoding, case.orientation, case.clock
        shape = orient_grid(case.grid, orientation).shape
        entropy = EntropyVolume(shape, encoding) if choices.uncertainty else None
        winning = WinningProbability(shape, encoding, self.thresholds) if choices.instances else None
        sums = LabelSumsCounter(encoding, self.thresholds) if choices.statistics and self.confidence else None
        with self._open_probabilities(case, choices, probability_path) as array:
            volume = None if array is None else ProbabilityVolume(array, encoding, orientation)
            saved = calibrated(volume, self.confidence, encoding) if choices.calibrated else volume
            sinks = (saved, calibrated(entropy, self.confidence, encoding), sums)
            restored = self._restore(case, [sink for sink in sinks if sink is not None], winning)
        if not choices.uncertainty:
            case.images.clear()
        with clock.step("export"):
            labels = self._postprocess(restored, case)
            if winning is not None and labels is not restored:
                winning.forget(labels != restored)
            del restored
            values = decode_label_map(restore_array(labels, orientation), encoding)
            instances = None
            if winning is not None:
                instances = find_instances_of_image(
                    labels, winning.values, encoding, case.grid, orientation, is_flat=case.is_flat
                )
            del labels
        disagreement = None
        if choices.uncertainty:
            with clock.step("disagreement"):
                disagreement = self._measure_disagreement(values, case)
        return Prediction(
            labels=values,
            grid=case.grid,
            probabilities=array if isinstance(array, np.ndarray) else None,
            uncertainty=None if entropy is None else restore_array(entropy.values, orientation),
            disagreement=disagreement,
            instances=instances,
            expected_dice={} if sums is None else sums.expect(self.confidence),
            warnings=case.warnings,
            seconds=clock.seconds,
        )

    def _predict_instances(self, case: PreparedCase) -> Prediction:
        """The label map and the instances of networks that find these one by one."""
        encoding, orientation, clock = self.plan.encoding, case.orientation, case.clock
        with self.reserve(case), clock.step("network"):
            found = map_instances(self.members, case.images, case.records, case.windows)
        case.images.clear()
        with clock.step("export"):
            labels, instances = found.restore(encoding, case.grid, orientation, is_flat=case.is_flat)
        grid, warnings = case.grid, case.warnings
        return Prediction(labels=labels, grid=grid, instances=instances, warnings=warnings, seconds=clock.seconds)

    @contextmanager
    def open_streams(self, case: PreparedCase) -> Iterator[list[LogitStream]]:
        """Logits of every member, to be read once, side by side, within the block.

        The place of the sums of windows is chosen here, and the earlier steps of cascades run here.

        Raises:
            PredictionError: If more memory is needed than is allowed.
        """
        with self.reserve(case) as storage:
            encoding, coarse_pass = self.plan.encoding, self.coarse_pass
            yield [open_stream(member, case, storage, encoding, coarse_pass) for member in self.members]

    @contextmanager
    def reserve(self, case: PreparedCase) -> Iterator[SlabStorage]:
        """Memory of a case, and the place of its sums of windows, within the block."""
        available = measure_available(self.max_memory, self.device, case.estimate.image_bytes + case.array_bytes)
        available = replace(available, resident=available.resident - case.array_bytes)
        with self.promised.promise(case.estimate, available) as (storage, peak):
            limit = "" if available.limit is None else f" of {available.limit / 1e9:.2f} GB"
            logger.log(
                self.memory_log_level,
                "%s: about %.2f GB of memory at the peak%s; sums of windows %s",
                case.estimate.case, peak / 1e9, limit, storage.describe(),
            )  # fmt: skip
            yield storage

    def _restore(
        self, case: PreparedCase, sinks: Sequence[ProbabilitySink], winning: WinningProbability | None = None
    ) -> LabelIndices:
        """Label indices in working orientation, before post-processing; `winning` receives their probabilities."""
        encoding, clock = self.plan.encoding, case.clock
        if winning is not None and self.decision == "argmax":
            sinks = [*sinks, winning]
        with self.open_streams(case) as streams:
            if self.refiners is None or case.crop is None:
                if self.decision == "expected-dice":
                    return restore_by_expected_dice(streams, encoding, sinks, winning, clock)
                return restore_labels(streams, encoding, sinks, self.thresholds, clock)
            with coarse_case(streams, case.crop, encoding, sinks, self.thresholds, clock) as coarse:
                with clock.step("export"):
                    refine_labels(coarse, encoding, self.refiners, self.thresholds)
                    if self.decision == "expected-dice":
                        decide_stored(coarse.volume, streams[0].record, coarse.probabilities, encoding, winning)
                return coarse.volume

    def _postprocess(self, labels: NDArray[np.integer], case: PreparedCase) -> NDArray[np.integer]:
        spacing = measurable_spacing(orient_grid(case.grid, case.orientation))
        return apply_postprocessing(labels, self.postprocessing, self.plan.encoding, spacing)

    def _measure_disagreement(
        self, values: NDArray[np.unsignedinteger], case: PreparedCase
    ) -> NDArray[np.float16] | None:
        """Run every network on its own; None for a model of one network, which cannot disagree with itself."""
        networks = single_networks(self.members)
        if len(networks) == 1:
            return None
        return fold_disagreement(values, (self._predict_alone(network, case) for network in networks))

    def _predict_alone(self, network: LoadedConfiguration, case: PreparedCase) -> NDArray[np.unsignedinteger]:
        """Label values as if one network were the whole model; its steps do not count as those of the case."""
        alone, case = replace(self, members=(network,)), replace(case, clock=StepClock())
        labels = alone._postprocess(alone._restore(case, ()), case)
        return decode_label_map(restore_array(labels, case.orientation), self.plan.encoding)

    def _configuration_names(self) -> list[str]:
        """Names of all configurations that see the image, the last member last."""
        names = list(dict.fromkeys(name for member in self.members for name in loaded_steps(member)))
        coarser = None if self.coarse_pass is None else self.coarse_pass.coarser
        return names if coarser is None or coarser.name in names else [coarser.name, *names]

    @contextmanager
    def _open_probabilities(
        self, case: PreparedCase, choices: OutputChoices, path: Path | None
    ) -> "Iterator[NDArray[np.float16] | blosc2.NDArray | None]":
        """Zeros (K, Z, Y, X) in memory or in a file; None if probabilities are not asked for."""
        shape = (len(self.plan.encoding.heads), *case.grid.shape)
        if not choices.probabilities:
            yield None
        elif path is None:
            yield np.zeros(shape, dtype=np.float16)
        else:
            with probability_file(path, shape, case.orientation.axes[self.plan.transpose[0]]) as file:
                yield file

    def _estimate_memory(
        self, image: NDArray[np.float32], spacing: Spacing, case: str, *, overwrite: bool
    ) -> tuple[CaseEstimate, WindowSettings]:
        """What the case needs, which is refused here if it is more than is allowed, before it is preprocessed.

        Where a GPU's whole memory is too small for its large network passes, they are as small as on a CPU.
        """
        encoding, shapes = self.plan.encoding, measure_shapes(image, spacing, self.plan.transpose)
        windows, is_gpu = self.windows, device_type(self.device).is_gpu
        steps = estimate_case(self.members, shapes, encoding, windows, overwrite=overwrite)
        if is_gpu and device_bytes(steps, SlabStorage("device")) > DEVICE_FRACTION * total_memory_bytes(self.device):
            windows = replace(windows, limits=CPU_LIMITS)
            steps = estimate_case(self.members, shapes, encoding, windows, overwrite=overwrite)
        if self.decision == "expected-dice":
            steps = with_bins(steps)
        if self.refiners is not None:
            steps = (*steps, estimate_refinement(shapes, len(image), encoding))
        available = measure_available(self.max_memory, self.device, image.nbytes)
        choose_storage(steps, available, case)
        return CaseEstimate(case, steps, image.nbytes, available.resident), windows

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.members[0].passes.device
