"""Predict: from images to label maps on their own grids.

read -> working orientation -> preprocess -> network -> labels on the image's grid -> post-process -> write

A cascade preprocesses twice, and the label map of its first network goes into the second one, all in memory.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from autoseg.errors import PredictionError, UsageError
from autoseg.imaging.formats.volume import Volume
from autoseg.inference.files.case_pipeline import CaseSteps, run_cases
from autoseg.inference.files.cluster import Cluster
from autoseg.inference.files.inputs import find_inputs
from autoseg.inference.files.outputs import OutputFile, PredictionFailure, assign_outputs
from autoseg.inference.files.parts import Part
from autoseg.inference.files.predict_file import (
    PredictedFile,
    PreparedFile,
    finish_file,
    predict_file,
    prepare_file,
    process_file,
)
from autoseg.inference.files.run_lists import keep_lists
from autoseg.inference.files.side_files import CaseOutcome, OutputChoices, is_done, refuse_clashes
from autoseg.inference.models.loading import (
    LoadedConfiguration,
    choose_recipe,
    load_locator,
    load_with_previous,
    say_what_predicts,
    with_first_folds,
    with_precision,
)
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.images import Image, as_volume
from autoseg.inference.predictor.training_range import read_training_range
from autoseg.inference.refinement.loading import load_refiners
from autoseg.interop.models import open_model
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.progress import Progress, no_progress
from autoseg.records.case import Affine, Spacing
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.prediction import Prediction

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
        max_memory: int | None = None,
        most_folds: int | None = None,
        region_of_interest: bool = False,
        refine: bool = True,
    ) -> None:
        """Load the networks of all folds.

        Args:
            model: A workspace, or what `autoseg export` wrote: a folder or a zip file.
            configuration: Name in the plan; None: what selection.json chose (with its folds and post-processing),
                else what is trained: 3d_cascade_fullres, 3d_fullres, 3d_lowres, 2d, whichever comes first. A
                cascade brings its previous stage along.
            folds: None: those that selection.json names when it chose the configuration, else all trained ones
                except `all`, unless only that exists.
            device: auto, cpu, cuda or cuda:N.
            precision: auto, fp32, bf16 or fp16. `auto` takes 16 bits where the hardware has them and the first
                windows' label maps agree with those of float32 (`inference.windows.network_pass`).
            mirroring: Average over variants of the image mirrored along the axes that training mirrored: up to 8
                (2D: 4) times the work. A plan for limited time mirrors none, and there is nothing to average.
            overlap: Least share of a window that it has in common with the next one, [0, 1).
            checkpoint: final or best.
            max_memory: Bytes that the whole process may hold, from reading to writing, about; None: what the machine
                has free. Where RAM does not suffice, sums of windows lie in a temporary file (in TMPDIR); label maps
                do not depend on it.
            most_folds: Use no more than the first so many of the folds.
            region_of_interest: Let a cheap pass (3d_lowres if it is trained, else the halved image) find the
                foreground, and look closely at its surroundings only. Saves most of the work where foreground fills
                little of the image; a structure that the cheap pass misses altogether is lost.
            refine: Refine boundaries if selection.json says so. Probabilities that are saved are those before.

        Raises:
            PredictionError: If there is no such model, or it cannot be loaded.
            InteropError: If an exported model is damaged or was altered.
            UsageError: If device or precision are not to be had here.
        """
        if not 0 <= overlap < 1:
            raise UsageError(f"overlap must be in [0, 1), not {overlap}")
        self.device = choose_device(device)
        choose_dtype(precision, self.device)  # refuses what the device lacks before anything is loaded
        with open_model(Path(model)) as workspace:
            if not workspace.plan.is_file():
                raise PredictionError(
                    f"{model}: not a model, it has no plan.json; give a folder that autoseg-plan made"
                )
            self.plan = read_record(Plan, workspace.plan)
            recipe = choose_recipe(workspace, self.plan, configuration, folds, checkpoint)
            members = tuple(
                load_with_previous(workspace, self.plan, name, recipe.folds, checkpoint, self.device)
                for name in recipe.configurations
            )
            training_range = read_training_range(workspace.fingerprint)
            locator = (
                load_locator(workspace, self.plan, members, checkpoint, self.device) if region_of_interest else None
            )
            refinement = recipe.refinement if refine else None
            refiners = None if refinement is None else load_refiners(workspace, refinement, self.device)
        self.members: tuple[LoadedConfiguration, ...] = tuple(
            with_first_folds(member, most_folds) for member in members
        )
        self.members = tuple(
            with_precision(member, precision, self.device, self.plan.encoding) for member in self.members
        )
        if locator is not None:
            locator = with_precision(locator, precision, self.device, self.plan.encoding)
        if precision == "auto" and choose_dtype(precision, self.device) == torch.float32:
            logger.info("precision float32: this device does not compute in 16 bits")
        self.postprocessing = recipe.postprocessing
        logger.info("%s", say_what_predicts(self.members, self.postprocessing, recipe.region_thresholds))
        if refiners is not None:
            logger.info("boundaries are refined by %d networks (--refine none: not)", len(refiners.networks))
        self.case_predictor = CasePredictor(
            plan=self.plan, members=self.members, postprocessing=self.postprocessing,
            device=self.device, mirroring=mirroring, overlap=overlap, max_memory=max_memory,
            training_range=training_range, is_regional=region_of_interest, locator=locator,
            region_thresholds=recipe.region_thresholds,
            refiners=refiners,
        )  # fmt: skip

    def predict(
        self,
        image: Image,
        *,
        spacing: Spacing | None = None,
        affine: Affine | None = None,
        probabilities: bool = False,
        uncertainty: bool = False,
        instances: bool = False,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: See `inference.predictor.images.Image`.
            spacing: Of an array, mm, (z, y, x); needed for arrays, not allowed otherwise.
            affine: Of an array, voxel index (z, y, x, 1) to world mm; None: the array is in canonical orientation.
            probabilities: Also give probabilities by head; they need heads x voxels x 2 bytes.
            uncertainty: Also give entropy and, of several networks, their disagreement: these run twice then.
            instances: Also give the objects of each label; see `imaging.arrays.instances`.

        Returns:
            Labels on the image's own grid, axes (z, y, x): a file's or nibabel image's axes reversed.

        Raises:
            ImageFileError: If a file cannot be read.
            PredictionError: If the image does not fit the model.
            UsageError: If spacing is missing, or given for something that knows its own.
        """
        start = time.perf_counter()
        volume = as_volume(image, spacing, affine)
        return self.predict_volume(
            volume,
            probabilities=probabilities,
            uncertainty=uncertainty,
            instances=instances,
            overwrite=isinstance(image, str | Path | list | tuple),  # from files: nobody else has the array
            read_seconds=time.perf_counter() - start,
        )

    def predict_volume(
        self,
        volume: Volume,
        *,
        case: str = "image",
        probabilities: bool | Path = False,
        uncertainty: bool = False,
        instances: bool = False,
        overwrite: bool = False,
        read_seconds: float = 0.0,
    ) -> Prediction:
        """Segment an image that was read already; see `predict`.

        Args:
            volume: (C, Z, Y, X) in stored order, with its grid.
            case: Name for messages.
            probabilities: Also give probabilities by head; a path: write them there instead, as a chunked, compressed
                blosc2 array (.b2nd), float16 (K, Z, Y, X).
            uncertainty: Also give entropy and disagreement.
            instances: Also give the objects of each label.
            overwrite: The volume's array is not needed any more: it may be changed, which saves a copy.
            read_seconds: Time that reading took, for Prediction.seconds.
        """
        prepared = self.case_predictor.prepare(volume, case=case, overwrite=overwrite, read_seconds=read_seconds)
        return self.case_predictor.predict(prepared, probabilities, uncertainty=uncertainty, instances=instances)


def predict_files(
    predictor: Predictor,
    inputs: Path,
    output: Path,
    *,
    save_probabilities: bool = False,
    save_uncertainty: bool = False,
    statistics: bool = False,
    colors: bool = False,
    instances: bool = False,
    skip_existing: bool = False,
    part: Part | None = None,
    cluster: Cluster[Predictor] | None = None,
    progress: Progress = no_progress,
) -> list[PredictionFailure]:
    """Predict files; a case that fails does not stop the others.

    Args:
        predictor: The model; with a cluster, only its plan is used.
        inputs: An image, a folder of `CASE.ext` or `CASE_0000.ext`, or a list; see `inference.files.inputs`.
        output: Folder for `CASE.ext`, in the image's format (pictures: PNG); for a single case also a file name.
        save_probabilities: Also write `CASE_probabilities.b2nd`, float16 (K, Z, Y, X) by head.
        save_uncertainty: Also write `CASE_uncertainty.ext` and, of several networks, `CASE_disagreement.ext`.
        statistics: Also write `statistics.csv`; see `inference.files.label_statistics`.
        colors: Also name and colour the labels; see `inference.models.label_colors`.
        instances: Also write `CASE_instances.ext` and `instances.csv`; see `inference.files.instance_table`.
        skip_existing: Leave cases alone whose label map (and, with `instances`, map of instances) is there.
        part: The cases that this process takes, when several share the work; None: all.
        cluster: Where the cases are predicted, with absolute paths; None: here.
        progress: Called after every case.

    Returns:
        The cases that failed; also written to `failures.json` beside the label maps, where other cases' earlier
        entries stay. A part has lists of its own: see `inference.files.parts`.

    Raises:
        UsageError: If `inputs` holds nothing to predict, or `output` cannot take what is to be written.
    """
    choices = OutputChoices(
        probabilities=save_probabilities, uncertainty=save_uncertainty, statistics=statistics, colors=colors,
        instances=instances,
    )  # fmt: skip
    part = part or Part()
    cases = find_inputs(inputs, predictor.plan.channel_names)
    outputs = part.take(refuse_clashes(assign_outputs(cases, output), choices))
    if not outputs:
        logger.warning("part %d of %d has nothing to do: there are %d cases", part.number, part.count, len(cases))
        return []
    faulty = [index for index, file in enumerate(outputs) if file.fault]
    kept = [i for i, file in enumerate(outputs) if not file.fault and skip_existing and is_done(file, choices)]
    pending = sorted({*range(len(outputs))} - {*faulty, *kept})
    files = [outputs[index] for index in pending]
    with keep_lists(outputs, kept, predictor.plan, choices, part, progress) as lists:
        for index in faulty:
            lists.add(index, CaseOutcome(outputs[index].fault))
        answers: Iterator[tuple[int, CaseOutcome | str]]
        if cluster is None:
            answers = enumerate(_predict_here(predictor, files, choices))
        else:
            answers = cluster.work(partial(_process_file, choices=choices), files)
        for position, answer in answers:
            lists.add(pending[position], CaseOutcome(answer) if isinstance(answer, str) else answer)
    return lists.failures


def _predict_here(
    predictor: Predictor, files: Sequence[OutputFile], choices: OutputChoices
) -> Iterator[CaseOutcome | str]:
    """Read the next file while this one is predicted and the last one written, unless memory is limited."""
    case_predictor = predictor.case_predictor
    steps: CaseSteps[OutputFile, PreparedFile, PredictedFile, CaseOutcome] = CaseSteps(
        prepare=lambda file: prepare_file(case_predictor, file, choices),
        predict=lambda file, prepared: predict_file(case_predictor, file, prepared, choices),
        finish=lambda file, predicted: finish_file(case_predictor, file, predicted, choices),
    )
    return run_cases(files, steps, side_by_side=case_predictor.max_memory is None)


def _process_file(predictor: Predictor, file: OutputFile, *, choices: OutputChoices) -> CaseOutcome:
    """What a cluster's process does."""
    return process_file(predictor.case_predictor, file, choices)
