"""Predict: from images to label maps on their own grids.

    files: find inputs -> assign outputs -> for every case: read -> predict -> write, and lists of the run

How one image is predicted stands in `inference.predictor.case_predictor`.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoseg.cluster.dask_workers import ToolCluster
from autoseg.errors import UsageError
from autoseg.imaging.formats.reading import is_series
from autoseg.inference.files.case_pipeline import predict_case, predict_cases
from autoseg.inference.files.confidence import check_confidence
from autoseg.inference.files.dicom_outputs import segments_of, warn_of_unknown_codes
from autoseg.inference.files.inputs import choose_series, find_inputs
from autoseg.inference.files.outputs import CaseOutcome, OutputFile, assign_outputs, refuse_clashes
from autoseg.inference.files.run_lists import PredictionFailure, keep_lists
from autoseg.inference.files.run_provenance import keep_provenance
from autoseg.inference.models.recipe_sentence import describe_recipe, name_weights_of_other_plans
from autoseg.inference.predictor.correction import correct_volume
from autoseg.inference.predictor.images import Image, LabelMap, as_label_map, as_volume
from autoseg.inference.predictor.instance_maps import complete_choices
from autoseg.inference.predictor.loading import load_case_predictor
from autoseg.inference.predictor.missing_channels import may_lack_channels
from autoseg.inference.predictor.options import SPEEDS, PredictionOptions
from autoseg.interop.models import open_model
from autoseg.networks.devices import choose_device, describe_faulty_versions, use_precision
from autoseg.progress import Progress, no_progress
from autoseg.provenance import describe_provenance
from autoseg.records.case import Affine, Spacing
from autoseg.records.clicks import Click
from autoseg.records.part import WHOLE_RUN, Part
from autoseg.records.prediction import OutputChoices, Prediction
from autoseg.records.provenance import Provenance

__all__ = ["SPEEDS", "PredictionOptions", "Predictor", "RunOptions", "predict_files"]

logger = logging.getLogger("autoseg.predict")


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
            clicks: Voxels and the labels that they should have; see `records.clicks.Click`. After more clicks give all
                of them with the last answer as `labels`; the newest alone, or the first label map, may say less.
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
