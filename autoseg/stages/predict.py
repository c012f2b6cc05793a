"""Predict: from images to label maps on their own grids.

read -> working orientation -> preprocess -> network -> labels on the image's grid -> post-process -> write

A cascade preprocesses twice, and the label map of its first network goes into the second one, all in memory.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import AutosegError, PredictionError, UsageError
from autoseg.imaging.case_reading import choose_orientation
from autoseg.imaging.geometry import orient_array, orient_grid, restore_array
from autoseg.imaging.labels import decode_label_map
from autoseg.imaging.reading import Volume, read_image
from autoseg.inference.case import predict_case_logits
from autoseg.inference.cluster import Cluster
from autoseg.inference.images import Image, as_volume
from autoseg.inference.inputs import find_inputs
from autoseg.inference.label_statistics import measure_labels
from autoseg.inference.model_loading import (
    LoadedConfiguration,
    choose_recipe,
    load_with_previous,
    say_what_predicts,
)
from autoseg.inference.outputs import (
    OutputFile,
    PredictionFailure,
    assign_outputs,
    write_probabilities,
)
from autoseg.inference.parts import Part
from autoseg.inference.restore import (
    CaseLogits,
    mean_probability_slabs,
    restore_labels,
    restore_mean_labels,
    restore_on_grid,
    restore_probabilities,
)
from autoseg.inference.run_lists import keep_lists
from autoseg.inference.side_files import CaseOutcome, OutputChoices, refuse_clashes, write_maps
from autoseg.inference.training_range import describe_departures, intensity_ranges, read_training_range
from autoseg.inference.uncertainty import EntropyVolume, fold_disagreement, single_networks
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.postprocessing import apply_postprocessing
from autoseg.records.case import Affine, Spacing
from autoseg.records.files import Progress, read_record
from autoseg.records.plan import Plan
from autoseg.records.prediction import Prediction
from autoseg.records.workspace import Workspace
from autoseg.stages.preprocess import preprocess_case

logger = logging.getLogger("autoseg.predict")


class Predictor:
    """A model, loaded once, that predicts any number of images; safe to use from several threads.

    Examples:
        predictor = Predictor(Path("hippocampus.autoseg"))
        labels = predictor.predict("patient.nii.gz").labels
    """

    def __init__(
        self,
        model: Path,
        *,
        configuration: str | None = None,
        folds: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        mirroring: bool = True,
        overlap: float = 0.5,
        checkpoint: str = "final",
    ) -> None:
        """Load the networks of all folds.

        Args:
            model: A workspace.
            configuration: Name in the plan; None: what selection.json chose (with its folds and post-processing),
                else what is trained: 3d_cascade_fullres, 3d_fullres, 3d_lowres, 2d, whichever comes first. A
                cascade brings its previous stage along.
            folds: None: those that selection.json names when it chose the configuration, else all trained ones
                except `all`, unless only that exists.
            device: auto, cpu, cuda or cuda:N.
            precision: auto, fp32, bf16 or fp16.
            mirroring: Average over variants of the image mirrored along the axes that training mirrored: up to 8
                (2D: 4) times the work. A plan for limited time mirrors none, and there is nothing to average.
            overlap: Least share of a window that it has in common with the next one, [0, 1).
            checkpoint: final or best.

        Raises:
            PredictionError: If there is no such model, or it cannot be loaded.
            UsageError: If device or precision are not to be had here.
        """
        workspace = Workspace(Path(model))
        if not workspace.plan.is_file():
            raise PredictionError(f"{model}: not a model, it has no plan.json; give the folder that autoseg-plan made")
        if not 0 <= overlap < 1:
            raise UsageError(f"overlap must be in [0, 1), not {overlap}")
        self.plan = read_record(Plan, workspace.plan)
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        recipe = choose_recipe(workspace, self.plan, configuration, folds, checkpoint)
        self.members: tuple[LoadedConfiguration, ...] = tuple(
            load_with_previous(workspace, self.plan, name, recipe.folds, checkpoint, self.device)
            for name in recipe.configurations
        )
        self.postprocessing = recipe.postprocessing
        self._training_range = read_training_range(workspace.fingerprint)
        logger.info("%s", say_what_predicts(self.members, self.postprocessing))
        self._mirroring = mirroring
        self._overlap = overlap

    def predict(
        self,
        image: Image,
        *,
        spacing: Spacing | None = None,
        affine: Affine | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: See `inference.images.Image`.
            spacing: Of an array, mm, (z, y, x); needed for arrays, not allowed otherwise.
            affine: Of an array, voxel index (z, y, x, 1) to world mm; None: the array is in canonical orientation.
            probabilities: Also give probabilities by head; they need heads x voxels x 2 bytes.
            uncertainty: Also give entropy and, of several networks, their disagreement: these run twice then.

        Returns:
            Labels on the image's own grid, axes (z, y, x): a file's or nibabel image's axes reversed.

        Raises:
            ImageFileError: If a file cannot be read.
            PredictionError: If the image does not fit the model.
            UsageError: If spacing is missing, or given for something that knows its own.
        """
        start = time.perf_counter()
        volume = as_volume(image, spacing, affine)
        read_seconds = time.perf_counter() - start
        return self.predict_volume(
            volume, probabilities=probabilities, uncertainty=uncertainty, read_seconds=read_seconds
        )

    def predict_volume(
        self,
        volume: Volume,
        *,
        case: str = "image",
        probabilities: bool = False,
        uncertainty: bool = False,
        read_seconds: float = 0.0,
    ) -> Prediction:
        """Segment an image that was read already; see `predict`.

        Args:
            volume: (C, Z, Y, X) in stored order, with its grid.
            case: Name for messages.
            probabilities: Also give probabilities by head.
            uncertainty: Also give entropy and disagreement.
            read_seconds: Time that reading took, for Prediction.seconds.
        """
        self._check_image(volume, case)
        warnings = self._describe_departures(volume)
        seconds = {"read": read_seconds, "preprocess": 0.0, "network": 0.0, "export": 0.0}
        orientation = choose_orientation(volume.grid, self.plan.orientation)
        grid = orient_grid(volume.grid, orientation)
        image = orient_array(volume.array, orientation)
        members = [self._predict_logits(member, image, grid.spacing, case, seconds) for member in self.members]
        encoding = self.plan.encoding
        with _timed(seconds, "export"):
            if len(members) == 1:
                (only,) = members
                labels = restore_labels(only.logits, only.record, encoding, only.resampling)
            else:
                labels = restore_mean_labels(members, encoding)
            kept = apply_postprocessing(labels, self.postprocessing, encoding)
            values = decode_label_map(restore_array(kept, orientation), encoding)
            maps = restore_array(restore_probabilities(members, encoding), orientation) if probabilities else None
            entropy = EntropyVolume(grid.shape, encoding) if uncertainty else None
            if entropy is not None:
                for start, stop, slab in mean_probability_slabs(members, encoding):
                    entropy.write(members[0].record, start, stop, slab)
        del members  # logits are large; they are gone before the networks run on their own
        prediction = Prediction(
            labels=np.ascontiguousarray(values),
            grid=volume.grid,
            probabilities=maps,
            uncertainty=None if entropy is None else restore_array(entropy.values, orientation),
            warnings=warnings,
            seconds=seconds,
        )
        return self._with_disagreement(prediction, volume, case) if uncertainty else prediction

    def _with_disagreement(self, prediction: Prediction, volume: Volume, case: str) -> Prediction:
        """Run every network on its own; a model of one network cannot disagree with itself."""
        networks = single_networks(self.members)
        if len(networks) == 1:
            return prediction
        start = time.perf_counter()
        own = (self._only(network).predict_volume(volume, case=case).labels for network in networks)
        disagreement = fold_disagreement(prediction.labels, own)
        seconds = {**prediction.seconds, "disagreement": time.perf_counter() - start}
        return replace(prediction, disagreement=disagreement, seconds=seconds)

    def _only(self, member: LoadedConfiguration) -> Self:
        other = copy(self)
        other.members = (member,)
        return other

    def _describe_departures(self, volume: Volume) -> tuple[str, ...]:
        if self._training_range is None:
            return ()
        grid = orient_grid(volume.grid, choose_orientation(volume.grid, self.plan.orientation))
        schemes = self.members[0].configuration.normalization
        ranges = intensity_ranges(volume.array)
        return describe_departures(self._training_range, grid, ranges, self.plan.channel_names, schemes)

    def _predict_logits(
        self, member: LoadedConfiguration, image: NDArray[np.float32], spacing: Spacing, case: str,
        seconds: dict[str, float],
    ) -> CaseLogits:  # fmt: skip
        """Logits of one configuration; the image is (C, Z, Y, X) in working orientation."""
        earlier = None
        if member.previous is not None:
            earlier = self._predict_logits(member.previous, image, spacing, case, seconds)
        with _timed(seconds, "preprocess"):
            prepared, _, record = preprocess_case(
                image, None, spacing, case=case, plan=self.plan, configuration=member.name
            )
            labels = None if earlier is None else restore_on_grid(earlier, record, self.plan.encoding)
        del earlier  # logits are large; they are gone before the second network runs
        with _timed(seconds, "network"):
            logits = predict_case_logits(
                member, prepared, labels,
                device=self.device, dtype=self.dtype, mirroring=self._mirroring, overlap=self._overlap,
            )  # fmt: skip
        return CaseLogits(logits, record, member.configuration.resampling)

    def _check_image(self, volume: Volume, case: str) -> None:
        expected = self.plan.channel_names
        if len(volume.array) != len(expected):
            raise PredictionError(
                f"{volume.path or case}: has {len(volume.array)} channel(s), the model expects {len(expected)}: "
                f"{', '.join(expected)}. Give one file with that many channels, or one file per channel."
            )
        undefined = sum(int(np.count_nonzero(~np.isfinite(channel))) for channel in volume.array)
        if undefined:
            raise PredictionError(
                f"{volume.path or case}: {undefined} voxels are NaN or infinite; replace them in the image"
            )


def predict_files(
    predictor: Predictor,
    inputs: Path,
    output: Path,
    *,
    save_probabilities: bool = False,
    save_uncertainty: bool = False,
    statistics: bool = False,
    colors: bool = False,
    skip_existing: bool = False,
    part: Part | None = None,
    cluster: Cluster[Predictor] | None = None,
    progress: Progress | None = None,
) -> list[PredictionFailure]:
    """Predict files; a case that fails does not stop the others.

    Args:
        predictor: The model; with a cluster, only its plan is used.
        inputs: An image, a folder of `CASE.ext` or `CASE_0000.ext`, or a list; see `inference.inputs`.
        output: Folder for `CASE.ext`, in the image's format (pictures: PNG); for a single case also a file name.
        save_probabilities: Also write `CASE_probabilities.b2nd`, float16 (K, Z, Y, X) by head.
        save_uncertainty: Also write `CASE_uncertainty.ext` and, of several networks, `CASE_disagreement.ext`.
        statistics: Also write `statistics.csv`; see `inference.label_statistics`.
        colors: Also name and colour the labels; see `inference.label_colors`.
        skip_existing: Leave cases alone whose label map is there.
        part: The cases that this process takes, when several share the work; None: all.
        cluster: Where the cases are predicted, with absolute paths; None: here.
        progress: Called after every case.

    Returns:
        The cases that failed; also written to `failures.json` beside the label maps, where other cases' earlier
        entries stay. A part has lists of its own: see `inference.parts`.

    Raises:
        UsageError: If `inputs` holds nothing to predict, or `output` cannot take what is to be written.
    """
    choices = OutputChoices(
        probabilities=save_probabilities, uncertainty=save_uncertainty, statistics=statistics, colors=colors
    )
    part = part or Part()
    cases = find_inputs(inputs, predictor.plan.channel_names)
    outputs = part.take(refuse_clashes(assign_outputs(cases, output), choices))
    if not outputs:
        logger.warning("part %d of %d has nothing to do: there are %d cases", part.number, part.count, len(cases))
        return []
    faulty = [index for index, file in enumerate(outputs) if file.fault]
    kept = [i for i, file in enumerate(outputs) if not file.fault and skip_existing and file.target.is_file()]
    pending = sorted({*range(len(outputs))} - {*faulty, *kept})
    work = partial(_predict_file, choices=choices)
    files = [outputs[index] for index in pending]
    with keep_lists(outputs, kept, predictor.plan, choices, part, progress) as lists:
        for index in faulty:
            lists.add(index, CaseOutcome(outputs[index].fault))
        answers = enumerate(work(predictor, file) for file in files) if cluster is None else cluster.work(work, files)
        for position, answer in answers:
            lists.add(pending[position], CaseOutcome(answer) if isinstance(answer, str) else answer)
    return lists.failures


def _predict_file(predictor: Predictor, file: OutputFile, *, choices: OutputChoices) -> CaseOutcome:
    """Predict one case and write what is wanted of it."""
    case, target = file.item.case, file.target
    notes: tuple[str, ...] = ()
    try:
        start = time.perf_counter()
        volume = read_image(file.item.images)
        notes = volume.notes
        prediction = predictor.predict_volume(
            volume,
            case=case,
            probabilities=choices.probabilities,
            uncertainty=choices.uncertainty,
            read_seconds=time.perf_counter() - start,
        )
        notes += prediction.warnings
        if prediction.probabilities is not None:  # before the label map, whose presence says that the case is done
            write_probabilities(prediction.probabilities, target.with_name(f"{case}_probabilities.b2nd"))
        rows = measure_labels(case, prediction.labels, volume, predictor.plan.labels) if choices.statistics else ()
        write_maps(prediction, volume.template, file, predictor.plan.encoding, colors=choices.colors)
    except (AutosegError, OSError, MemoryError, RuntimeError, ValueError) as error:
        return CaseOutcome(str(error) or type(error).__name__, notes)
    return CaseOutcome("", notes, rows)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] += time.perf_counter() - start
