"""Predict: from images to label maps on their own grids.

    files: find inputs -> assign outputs -> for every case: read -> predict -> write, and lists of the run

How one image is predicted stands in `inference.predictor.case_predictor`.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoseg.cluster.dask_workers import ToolCluster
from autoseg.device_resampling import choose_resampler
from autoseg.errors import PredictionError, UsageError
from autoseg.imaging.formats.reading import is_series
from autoseg.inference.files.case_pipeline import predict_case, predict_cases
from autoseg.inference.files.confidence import check_confidence
from autoseg.inference.files.dicom_outputs import segments_of, warn_of_unknown_codes
from autoseg.inference.files.inputs import choose_series, find_inputs
from autoseg.inference.files.outputs import CaseOutcome, OutputFile, assign_outputs, refuse_clashes
from autoseg.inference.files.run_lists import PredictionFailure, keep_lists
from autoseg.inference.files.run_provenance import keep_provenance
from autoseg.inference.models.correction import load_correcting
from autoseg.inference.models.loading import (
    LoadedConfiguration,
    load_coarse_configuration,
    load_with_previous,
    refuse_other_plans,
    with_first_folds,
    with_precision,
)
from autoseg.inference.models.mirroring import choose_mirroring
from autoseg.inference.models.nested_levels import keep_nested_levels
from autoseg.inference.models.recipe_sentence import describe_recipe, name_weights_of_other_plans
from autoseg.inference.models.recipes import choose_recipe
from autoseg.inference.predictor.adaptation import choose_adapting
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.correction import correct_volume
from autoseg.inference.predictor.images import Image, LabelMap, as_label_map, as_volume
from autoseg.inference.predictor.instance_maps import complete_choices, refuse_voxel_options
from autoseg.inference.predictor.missing_channels import may_lack_channels
from autoseg.inference.predictor.region_of_interest import CoarsePass
from autoseg.inference.predictor.training_range import read_training_range
from autoseg.inference.refinement.loading import load_refiners
from autoseg.inference.windows.sliding_window import WindowSettings
from autoseg.interop.models import open_model
from autoseg.networks.devices import choose_device, describe_faulty_versions, use_precision
from autoseg.postprocessing import check_labels_are_known
from autoseg.progress import Progress, no_progress
from autoseg.provenance import describe_provenance
from autoseg.records.case import Affine, Spacing
from autoseg.records.clicks import Click
from autoseg.records.contrast import Adaptation
from autoseg.records.files import read_record
from autoseg.records.part import WHOLE_RUN, Part
from autoseg.records.plan import Plan
from autoseg.records.prediction import OutputChoices, Prediction
from autoseg.records.provenance import Provenance
from autoseg.records.selection import LabelDecision
from autoseg.records.workspace import Workspace
from autoseg.system import ThreadOption

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How a model predicts."""

    configuration: str | None = None
    """Configuration name; None: the choice of selection.json (with its folds and post-processing), else the first of
    3d_cascade_fullres, 3d_fullres, 3d_lowres and 2d that is trained. A cascade includes its earlier steps."""
    folds: Sequence[str] | None = None
    """Fold names; None: those in selection.json if it chose the configuration, else all trained ones except `all`,
    unless only that exists."""
    max_folds: int | None = None
    """Maximum number of folds; None: all."""
    checkpoint: str = "final"
    """final or best."""
    device: str = "auto"
    """A name of `choose_device`."""
    precision: str = "auto"
    """auto, fp32, tf32, bf16 or fp16. `auto` takes 16 bits where the hardware has them and label maps of the first
    windows agree with those of float32 (`inference.windows.network_pass`)."""
    threads: ThreadOption = "auto"
    """Threads on a CPU; auto: what is fastest beside other programs."""
    mirroring: bool = True
    """Whether logits are averaged over variants of the image mirrored along the axes that training mirrored: up to 8
    (2D: 4) times the work. A plan for limited time mirrors none, and there is nothing to average."""
    mirror_axes: str | None = None
    """Axes of the patch that are mirrored whatever training mirrored: letters of `zyx`, of which a 2D patch has the
    last two, or `all`; None: the axes of the training."""
    overlap: float = 0.5
    """Smallest fraction of a window that it has in common with the next one, [0, 1)."""
    region_of_interest: bool = False
    """Whether a coarse pass (3d_lowres if it is trained, else the halved image) finds the foreground first, and only
    its surroundings are predicted. Saves most of the work where foreground fills little of the image; a structure that
    the coarse pass misses is lost."""
    decision: LabelDecision | None = None
    """How labels follow from probabilities; None: as selection.json says, else argmax."""
    adapt: Adaptation | None = None
    """How all images are adapted; None: images with another contrast than the training images, as selection.json
    says."""
    refine: bool = True
    """Whether boundaries are refined if selection.json says so. Saved probabilities are those before refinement."""
    nested_levels: int | None = None
    """Levels of a U-Net++ that predict; None: all. Fewer are faster."""
    accept_other_plan: bool = False
    """Whether weights that were trained for another plan than the model's may be used, with a warning and as the
    plan says: its spacing, normalisation and labels."""
    max_memory: int | None = None
    """Approximate limit in bytes of the whole process, from reading to writing; None: what the machine has free. Where
    RAM does not suffice, sums of windows are kept in a temporary file (in TMPDIR); label maps do not depend on it."""


SPEEDS = {
    "best": PredictionOptions(),
    "balanced": PredictionOptions(mirroring=False),
    "fast": PredictionOptions(mirroring=False, overlap=0.25, max_folds=1),
}
"""From the best label map to the fastest one; what they cost and lose stands in docs/benchmarks.md."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which cases of a run over files are predicted, and where."""

    image_pattern: str | None = None
    """Names of the images in the folder; None: they are recognised."""
    skip_existing: bool = False
    """Whether cases are skipped whose label map, and map of instances where that is asked for, exists."""
    part: Part = WHOLE_RUN
    """Cases that this process takes, when several share the work."""
    series: str | None = None
    """Number or UID of the series of DICOM images; None: the only one, or clearly the largest."""
    resample_gaps: bool = False
    """Whether slices of DICOM images at irregular positions are resampled, rather than refused."""
    cluster: "ToolCluster[Predictor] | None" = None
    """Cluster that predicts the cases, with absolute paths; None: this process predicts them."""


class Predictor:
    """A model, loaded once, that predicts any number of images; safe to use from several threads.

    Examples:
        predictor = Predictor(Path("hippocampus.autoseg"), PredictionOptions(device="cpu"))
        labels = predictor.predict("patient.nii.gz").labels
    """

    def __init__(self, model: Path | str, options: PredictionOptions | None = None) -> None:
        """Load the networks of all folds.

        Args:
            model: A workspace or an exported model, a folder or a zip file.
            options: How the model predicts; None: the defaults.

        Raises:
            PredictionError: If there is no such model, or it cannot be loaded.
            InteropError: If an exported model is damaged or was altered.
            UsageError: If device or precision are not available, the overlap is not in [0, 1), or the networks have no
                such levels.
        """
        options = options or PredictionOptions()
        if not 0 <= options.overlap < 1:
            raise UsageError(f"overlap must be in [0, 1), not {options.overlap}")
        device = choose_device(options.device)
        # before anything is loaded: refuses a precision that the device does not compute in
        dtype = use_precision(options.precision, device)
        if fault := describe_faulty_versions(device):
            logger.warning("warning: %s", fault)
        with open_model(Path(model)) as workspace:
            self.case_predictor = load_case_predictor(workspace, options, device)
            coarse = self.case_predictor.coarse_pass
            coarser = None if coarse is None else coarse.coarser
            self.provenance = describe_provenance(workspace, device=str(device)).model_copy(
                update={
                    "weights_of_other_plans": name_weights_of_other_plans(self.case_predictor.members, coarser),
                    "decision": self.case_predictor.decision,
                }
            )
        self.plan = self.case_predictor.plan
        self.members = self.case_predictor.members
        self.postprocessing = self.case_predictor.postprocessing
        if options.precision == "auto" and dtype == torch.float32:
            logger.info("precision float32: this device does not compute in 16 bits")
        logger.info("%s", describe_recipe(self.members, self.postprocessing, self.case_predictor.thresholds))
        if self.case_predictor.decision == "expected-dice":
            logger.info("labels are decided by their expected Dice in each case (off: --decision argmax)")
        if (refiners := self.case_predictor.refiners) is not None:
            logger.info("boundaries are refined by %d networks (off: --refine none)", len(refiners.networks))

    def predict(
        self,
        image: Image,
        *,
        spacing: Spacing | None = None,
        affine: Affine | None = None,
        **outputs: Any,  # noqa: ANN401  # the fields of OutputChoices
    ) -> Prediction:
        """Segment one image.

        Args:
            image: Files, an image object or an array; see `inference.predictor.images.Image`.
            spacing: Spacing of an array in mm, (z, y, x); needed for arrays, not allowed otherwise.
            affine: Affine of an array, voxel index (z, y, x, 1) to world mm; None: the array is in canonical
                orientation.
            outputs: Outputs besides the label map: probabilities, uncertainty, instances (see `OutputChoices`).
                Probabilities need heads x voxels x 2 bytes; for the uncertainty, several networks run twice.

        Returns:
            Labels on the image's own grid, axes (z, y, x): the axes of a file or nibabel image reversed.

        Raises:
            ImageFileError: If a file cannot be read.
            PredictionError: If the image does not fit the model.
            UsageError: If spacing is missing, or given for an image that has its own.
        """
        start = time.perf_counter()
        volume = as_volume(image, spacing, affine)
        is_own = isinstance(image, str | Path | list | tuple)  # read from files: nobody else has the array
        choices = complete_choices(self.plan, OutputChoices(**outputs))
        check_confidence(self.case_predictor.confidence, choices)
        prepared = self.case_predictor.prepare(volume, overwrite=is_own, read_seconds=time.perf_counter() - start)
        return self.case_predictor.predict(prepared, choices)

    def correct(
        self,
        image: Image,
        labels: LabelMap,
        clicks: Sequence[Click],
        *,
        spacing: Spacing | None = None,
        affine: Affine | None = None,
    ) -> Prediction:
        """Correct the label map of an image by clicks, near these; needs a trained configuration `interactive`.

        Args:
            image: Files, an image object or an array, as for `predict`.
            labels: The label map to correct: label values (Z, Y, X), a file, or an image object. It is not changed.
            clicks: Voxels and the labels that they should have; see `records.clicks.Click`. All clicks about a label
                map may be given each time, or only those about the answer before.
            spacing: Spacing of an array in mm, (z, y, x).
            affine: Affine of an array.

        Raises:
            PredictionError: If the model has no such networks, a click is outside the image or its label unknown, or
                image or label map do not fit.
            ImageFileError: If a file cannot be read.
        """
        volume = as_volume(image, spacing, affine)
        return correct_volume(self.case_predictor, volume, as_label_map(labels), clicks)

    def describe(self) -> Provenance:
        """The provenance of its predictions, with the hash of its weights, which takes a moment."""
        return self.provenance.model_copy(update={"weights_hash": self.case_predictor.weights_hash})


def load_case_predictor(workspace: Workspace, options: PredictionOptions, device: torch.device) -> CasePredictor:
    """Load the networks of a recipe.

    Raises:
        PredictionError: If there is no such model, or it cannot be loaded.
        RecordError: If its post-processing names labels that it does not have.
    """
    if not workspace.plan.is_file():
        raise PredictionError(
            f"{workspace.root}: not a model, it has no plan.json; give a folder that autoseg-plan made"
        )
    plan, checkpoint = read_record(Plan, workspace.plan), options.checkpoint
    asked = {"--decision expected-dice": options.decision == "expected-dice", "--roi": options.region_of_interest}
    refuse_voxel_options(plan, asked)
    recipe = choose_recipe(workspace, plan, options.configuration, options.folds, checkpoint)
    check_labels_are_known(recipe.postprocessing, plan.encoding)
    members = tuple(
        load_with_previous(workspace, plan, name, recipe.folds, checkpoint, device) for name in recipe.configurations
    )
    members = _with_weights(members, recipe.member_weights)
    if options.nested_levels is not None:
        keep_nested_levels(members, options.nested_levels)
    if options.mirroring:
        members = choose_mirroring(members, plan, options.mirror_axes)
    coarse_pass, coarser = None, None
    if options.region_of_interest:
        coarser = load_coarse_configuration(workspace, plan, members, checkpoint, device)
        if coarser is not None:
            coarser = with_precision(coarser, options.precision, device, plan.encoding, options.threads)
        coarse_pass = CoarsePass(plan.encoding.activation == "softmax", coarser)
    refinement = recipe.refinement if options.refine else None
    training_range = read_training_range(workspace.fingerprint)
    decision = options.decision or recipe.decision
    if recipe.region_thresholds and decision == "expected-dice":
        logger.info("thresholds of regions in %s are not used: --decision expected-dice", workspace.selection)
    if not options.accept_other_plan:
        refuse_other_plans(workspace, members if coarser is None else (*members, coarser))
    correcting = load_correcting(workspace, plan, options.folds, checkpoint, device)

    def finish(member: LoadedConfiguration) -> LoadedConfiguration:
        first = with_first_folds(member, options.max_folds)
        return with_precision(first, options.precision, device, plan.encoding, options.threads)

    return CasePredictor(
        plan=plan,
        members=tuple(map(finish, members)),
        correcting=None if correcting is None else finish(correcting),
        windows=WindowSettings(overlap=options.overlap, mirroring=options.mirroring),
        thresholds=recipe.region_thresholds if decision == "argmax" else {},
        decision=decision,
        coarse_pass=coarse_pass,
        refiners=None if refinement is None else load_refiners(workspace, refinement, device),
        postprocessing=recipe.postprocessing,
        confidence=recipe.confidence,
        training_range=training_range,
        adapting=choose_adapting(workspace, members, training_range, options.adapt, recipe.adaptation),
        max_memory=options.max_memory,
        resampler=choose_resampler(device, options.precision),
    )


def _with_weights(members: Sequence[LoadedConfiguration], weights: Sequence[float]) -> tuple[LoadedConfiguration, ...]:
    """Members of an ensemble with their parts of the mean of probabilities; no weights: equal parts."""
    if not weights:
        return tuple(members)
    return tuple(replace(member, weight=weight) for member, weight in zip(members, weights, strict=True))


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
        inputs: An image, a folder of `CASE.ext` or `CASE_0000.ext`, a DICOM series, or a list; see
            `inference.files.inputs`.
        output: Folder for `CASE.ext`, in the image's format (2D images: PNG; DICOM series: a segmentation, .dcm); for
            a single case also a file name.
        choices: Outputs besides label maps; None: label maps only.
        options: Which cases are predicted, and where; None: all, in this process.
        progress: Called after every case.

    Returns:
        The cases that failed; also written to `failures.json` beside the label maps, where earlier entries of other
        cases stay. A part of a run has a list of its own; see `records.part`.

    Raises:
        UsageError: If `inputs` holds nothing to predict, `output` cannot be written to, or calibrated probabilities
            are asked of a model without temperatures.
    """
    choices, options = complete_choices(predictor.plan, choices or OutputChoices()), options or RunOptions()
    part = options.part
    check_confidence(predictor.case_predictor.confidence, choices)
    names, labels, may_lack = predictor.plan.channel_names, predictor.plan.labels, may_lack_channels(predictor.plan)
    cases = find_inputs(inputs, names, options.image_pattern, labels, may_lack_channels=may_lack)
    cases = choose_series(cases, options.series, resample_gaps=options.resample_gaps)
    if any(is_series(path) for item in cases for path in item.images):
        warn_of_unknown_codes(segments_of(predictor.plan.encoding, choices.codes))
    outputs = part.take(refuse_clashes(assign_outputs(cases, output), choices))
    if not outputs:
        logger.warning("part %d of %d has nothing to do: there are %d cases", part.number, part.count, len(cases))
        return []
    faulty = [index for index, file in enumerate(outputs) if file.fault]
    kept = [i for i, file in enumerate(outputs) if options.skip_existing and not file.fault and file.is_done(choices)]
    pending = sorted({*range(len(outputs))} - {*faulty, *kept})
    files = [outputs[index] for index in pending]
    with ExitStack() as stack:
        lists = stack.enter_context(keep_lists(outputs, kept, predictor.plan, choices, part, progress))
        if choices.provenance:
            stack.enter_context(keep_provenance(lists, predictor.describe(), outputs[0].target.parent, part))
        for index in faulty:
            lists.add(index, CaseOutcome(outputs[index].fault))
        outcomes: Iterator[tuple[int, CaseOutcome | str]]
        if options.cluster is None:
            outcomes = enumerate(predict_cases(predictor.case_predictor, files, choices))
        else:
            outcomes = options.cluster.work(partial(_predict_in_worker, choices=choices), files, task="prediction")
        for position, outcome in outcomes:
            lists.add(pending[position], CaseOutcome(outcome) if isinstance(outcome, str) else outcome)
    return lists.failures


def _predict_in_worker(predictor: Predictor, file: OutputFile, *, choices: OutputChoices) -> CaseOutcome:
    """Predict one file in a process of a cluster."""
    return predict_case(predictor.case_predictor, file, choices)
