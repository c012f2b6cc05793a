"""Predict: from images to label maps on their own grids.

read -> working orientation -> preprocess -> network -> labels on the image's grid -> post-process -> write

A cascade preprocesses twice, and the label map of its first network goes into the second one, all in memory.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from autoseg.errors import PredictionError, UsageError
from autoseg.inference.files.case_pipeline import CaseSteps, run_cases
from autoseg.inference.files.cluster import Cluster
from autoseg.inference.files.inputs import find_inputs
from autoseg.inference.files.outputs import OutputFile, PredictionFailure, assign_outputs
from autoseg.inference.files.parts import WHOLE_RUN, Part
from autoseg.inference.files.predict_file import (
    PredictedFile,
    PreparedFile,
    finish_file,
    predict_file,
    prepare_file,
    process_file,
)
from autoseg.inference.files.run_lists import keep_lists
from autoseg.inference.files.side_files import CaseOutcome, is_done, refuse_clashes
from autoseg.inference.models.loading import (
    choose_recipe,
    describe_recipe,
    load_coarse_configuration,
    load_with_previous,
    with_first_folds,
    with_precision,
)
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.images import Image, as_volume
from autoseg.inference.predictor.region_of_interest import CoarsePass
from autoseg.inference.predictor.training_range import read_training_range
from autoseg.inference.refinement.loading import load_refiners
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.interop.models import open_model
from autoseg.networks.devices import choose_device, choose_dtype
from autoseg.progress import Progress, no_progress
from autoseg.records.case import Affine, Spacing
from autoseg.records.files import read_record
from autoseg.records.output_choices import OutputChoices
from autoseg.records.plan import Plan
from autoseg.records.prediction import Prediction
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How a model predicts."""

    configuration: str | None = None
    """Name in the plan; None: what selection.json chose (with its folds and post-processing), else what is trained:
    3d_cascade_fullres, 3d_fullres, 3d_lowres, 2d, whichever comes first. A cascade brings its earlier steps along."""
    folds: Sequence[str] | None = None
    """None: those that selection.json names when it chose the configuration, else all trained ones except `all`,
    unless only that exists."""
    max_folds: int | None = None
    """Maximum number of the folds that are used; None: all."""
    checkpoint: str = "final"
    """final or best."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: str = "auto"
    """auto, fp32, bf16 or fp16. `auto` takes 16 bits where the hardware has them and the first windows' label maps
    agree with those of float32 (`inference.windows.network_pass`)."""
    mirroring: bool = True
    """Average over variants of the image mirrored along the axes that training mirrored: up to 8 (2D: 4) times the
    work. A plan for limited time mirrors none, and there is nothing to average."""
    overlap: float = 0.5
    """Smallest fraction of a window that it has in common with the next one, [0, 1)."""
    region_of_interest: bool = False
    """Find the foreground in a coarse pass first (3d_lowres if it is trained, else the halved image), and predict its
    surroundings only. Saves most of the work where foreground fills little of the image; a structure that the coarse
    pass misses altogether is lost."""
    refine: bool = True
    """Refine boundaries if selection.json says so. Probabilities that are saved are those before."""
    max_memory: int | None = None
    """Bytes that the whole process may hold, from reading to writing, about; None: what the machine has free. Where RAM
    does not suffice, sums of windows are kept in a temporary file (in TMPDIR); label maps do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which cases of a run over files are predicted, and where."""

    skip_existing: bool = False
    """Whether cases are left alone whose label map, and map of instances where that is wanted, exists."""
    part: Part = WHOLE_RUN
    """Cases that this process takes, when several share the work."""
    cluster: "Cluster[Predictor] | None" = None
    """Where the cases are predicted, with absolute paths; None: here."""


class Predictor:
    """A model, loaded once, that predicts any number of images; safe to use from several threads.

    Examples:
        predictor = Predictor(Path("hippocampus.autoseg"), PredictionOptions(device="cpu"))
        labels = predictor.predict("patient.nii.gz").labels
    """

    def __init__(self, model: Path | str, options: PredictionOptions | None = None) -> None:
        """Load the networks of all folds.

        Args:
            model: A workspace, or what `autoseg export` wrote: a folder or a zip file.
            options: How it predicts; None: the defaults.

        Raises:
            PredictionError: If there is no such model, or it cannot be loaded.
            InteropError: If an exported model is damaged or was altered.
            UsageError: If device or precision are not available here, or the overlap is not in [0, 1).
        """
        options = options or PredictionOptions()
        if not 0 <= options.overlap < 1:
            raise UsageError(f"overlap must be in [0, 1), not {options.overlap}")
        device = choose_device(options.device)
        dtype = choose_dtype(options.precision, device)  # refuses what the device lacks before anything is loaded
        with open_model(Path(model)) as workspace:
            self.case_predictor = load_case_predictor(workspace, options, device)
        self.plan = self.case_predictor.plan
        self.members = self.case_predictor.members
        self.postprocessing = self.case_predictor.postprocessing
        if options.precision == "auto" and dtype == torch.float32:
            logger.info("precision float32: this device does not compute in 16 bits")
        logger.info("%s", describe_recipe(self.members, self.postprocessing, self.case_predictor.thresholds))
        if (refiners := self.case_predictor.refiners) is not None:
            logger.info("boundaries are refined by %d networks (--refine none: not)", len(refiners.networks))

    def predict(
        self,
        image: Image,
        *,
        spacing: Spacing | None = None,
        affine: Affine | None = None,
        **outputs: bool,
    ) -> Prediction:
        """Segment one image.

        Args:
            image: See `inference.predictor.images.Image`.
            spacing: Spacing of an array in mm, (z, y, x); needed for arrays, not allowed otherwise.
            affine: Affine of an array, voxel index (z, y, x, 1) to world mm; None: the array is in canonical
                orientation.
            outputs: What else to compute: probabilities, uncertainty, instances (see `OutputChoices`). Probabilities
                need heads x voxels x 2 bytes; for the uncertainty, several networks run twice.

        Returns:
            Labels on the image's own grid, axes (z, y, x): a file's or nibabel image's axes reversed.

        Raises:
            ImageFileError: If a file cannot be read.
            PredictionError: If the image does not fit the model.
            UsageError: If spacing is missing, or given for something that knows its own.
        """
        start = time.perf_counter()
        volume = as_volume(image, spacing, affine)
        is_own = isinstance(image, str | Path | list | tuple)  # read from files: nobody else has the array
        prepared = self.case_predictor.prepare(volume, overwrite=is_own, read_seconds=time.perf_counter() - start)
        return self.case_predictor.predict(prepared, OutputChoices(**outputs))


def load_case_predictor(workspace: Workspace, options: PredictionOptions, device: torch.device) -> CasePredictor:
    """Load what a recipe needs.

    Raises:
        PredictionError: If there is no such model, or it cannot be loaded.
    """
    if not workspace.plan.is_file():
        raise PredictionError(
            f"{workspace.root}: not a model, it has no plan.json; give a folder that autoseg-plan made"
        )
    plan, checkpoint = read_record(Plan, workspace.plan), options.checkpoint
    recipe = choose_recipe(workspace, plan, options.configuration, options.folds, checkpoint)
    members = tuple(
        load_with_previous(workspace, plan, name, recipe.folds, checkpoint, device) for name in recipe.configurations
    )
    coarse_pass = None
    if options.region_of_interest:
        coarser = load_coarse_configuration(workspace, plan, members, checkpoint, device)
        if coarser is not None:
            coarser = with_precision(coarser, options.precision, device, plan.encoding)
        coarse_pass = CoarsePass(plan.encoding.activation == "softmax", coarser)
    refinement = recipe.refinement if options.refine else None
    return CasePredictor(
        plan=plan,
        members=tuple(
            with_precision(with_first_folds(member, options.max_folds), options.precision, device, plan.encoding)
            for member in members
        ),
        windows=WindowSettings(overlap=options.overlap, mirroring=options.mirroring),
        thresholds=recipe.region_thresholds,
        coarse_pass=coarse_pass,
        refiners=None if refinement is None else load_refiners(workspace, refinement, device),
        postprocessing=recipe.postprocessing,
        training_range=read_training_range(workspace.fingerprint),
        max_memory=options.max_memory,
    )


def predict_files(
    predictor: Predictor,
    inputs: Path,
    output: Path,
    choices: OutputChoices | None = None,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
) -> list[PredictionFailure]:
    """Predict files; a case that fails does not stop the others.

    Args:
        predictor: The model; with a cluster, only its plan is used.
        inputs: An image, a folder of `CASE.ext` or `CASE_0000.ext`, or a list; see `inference.files.inputs`.
        output: Folder for `CASE.ext`, in the image's format (2D images: PNG); for a single case also a file name.
        choices: What else to write; None: label maps alone.
        options: Which cases are predicted, and where; None: all, here.
        progress: Called after every case.

    Returns:
        The cases that failed; also written to `failures.json` beside the label maps, where other cases' earlier
        entries stay. A part has lists of its own: see `inference.files.parts`.

    Raises:
        UsageError: If `inputs` holds nothing to predict, or `output` cannot take what is to be written.
    """
    choices, options = choices or OutputChoices(), options or RunOptions()
    part = options.part
    cases = find_inputs(inputs, predictor.plan.channel_names)
    outputs = part.take(refuse_clashes(assign_outputs(cases, output), choices))
    if not outputs:
        logger.warning("part %d of %d has nothing to do: there are %d cases", part.number, part.count, len(cases))
        return []
    faulty = [index for index, file in enumerate(outputs) if file.fault]
    kept = [i for i, file in enumerate(outputs) if not file.fault and options.skip_existing and is_done(file, choices)]
    pending = sorted({*range(len(outputs))} - {*faulty, *kept})
    files = [outputs[index] for index in pending]
    with keep_lists(outputs, kept, predictor.plan, choices, part, progress) as lists:
        for index in faulty:
            lists.add(index, CaseOutcome(outputs[index].fault))
        answers: Iterator[tuple[int, CaseOutcome | str]]
        if options.cluster is None:
            answers = enumerate(_predict_here(predictor, files, choices))
        else:
            answers = options.cluster.work(partial(_process_file, choices=choices), files)
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
