"""Predict: from images to label maps on their own grids.

read -> working orientation -> preprocess -> network -> labels on the image's grid -> post-process -> write

A cascade preprocesses twice, and the label map of its first network goes into the second one, all in memory.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import AutosegError, PredictionError, UsageError
from autoseg.imaging.case_reading import choose_orientation
from autoseg.imaging.geometry import orient_array, orient_grid, restore_array
from autoseg.imaging.labels import decode_label_map
from autoseg.imaging.reading import Volume, read_image
from autoseg.imaging.writing import write_label_map
from autoseg.inference.case import predict_case_logits
from autoseg.inference.images import Image, as_volume
from autoseg.inference.inputs import find_inputs
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
    write_failures,
    write_probabilities,
)
from autoseg.inference.restore import (
    CaseLogits,
    restore_labels,
    restore_mean_labels,
    restore_on_grid,
    restore_probabilities,
)
from autoseg.interop.models import opening_model
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

    @opening_model
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
            model: A workspace, or what `autoseg export` wrote: a folder or a zip file.
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
    ) -> Prediction:
        """Segment one image.

        Args:
            image: See `inference.images.Image`.
            spacing: Of an array, mm, (z, y, x); needed for arrays, not allowed otherwise.
            affine: Of an array, voxel index (z, y, x, 1) to world mm; None: the array is in canonical orientation.
            probabilities: Also give probabilities by head; they need heads x voxels x 2 bytes.

        Returns:
            Labels on the image's own grid, axes (z, y, x): a file's or nibabel image's axes reversed.

        Raises:
            ImageFileError: If a file cannot be read.
            PredictionError: If the image does not fit the model.
            UsageError: If spacing is missing, or given for something that knows its own.
        """
        start = time.perf_counter()
        volume = as_volume(image, spacing, affine)
        return self.predict_volume(volume, probabilities=probabilities, read_seconds=time.perf_counter() - start)

    def predict_volume(
        self, volume: Volume, *, case: str = "image", probabilities: bool = False, read_seconds: float = 0.0
    ) -> Prediction:
        """Segment an image that was read already; see `predict`.

        Args:
            volume: (C, Z, Y, X) in stored order, with its grid.
            case: Name for messages.
            probabilities: Also give probabilities by head.
            read_seconds: Time that reading took, for Prediction.seconds.
        """
        self._check_image(volume, case)
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
        return Prediction(labels=np.ascontiguousarray(values), grid=volume.grid, probabilities=maps, seconds=seconds)

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
    skip_existing: bool = False,
    progress: Progress | None = None,
) -> list[PredictionFailure]:
    """Predict files; a case that fails does not stop the others.

    Args:
        predictor: The model.
        inputs: An image, a folder of `CASE.ext` or `CASE_0000.ext`, or a list; see `inference.inputs`.
        output: Folder for `CASE.ext`, in the image's format (pictures: PNG); for a single case also a file name.
        save_probabilities: Also write `CASE_probabilities.b2nd`, float16 (K, Z, Y, X) by head.
        skip_existing: Leave cases alone whose label map is there.
        progress: Called after every case.

    Returns:
        The cases that failed; also written to `failures.json` beside the label maps, where other cases' earlier
        entries stay.

    Raises:
        UsageError: If `inputs` holds nothing to predict, or `output` cannot take the label maps.
    """
    cases = find_inputs(inputs, predictor.plan.channel_names)
    outputs = assign_outputs(cases, output)
    failures = []
    for done, file in enumerate(outputs, start=1):
        item, error = file.item, file.fault
        if not error and not (skip_existing and file.target.is_file()):
            error = _predict_file(predictor, file, save_probabilities=save_probabilities)
        if error:
            logger.error("%s: %s", item.case, error)
            failures.append(PredictionFailure(item.case, tuple(str(path) for path in item.images), error))
        if progress is not None:
            progress(done, len(cases))
    write_failures(failures, cases, outputs[0].target.parent / "failures.json")
    return failures


def _predict_file(predictor: Predictor, file: OutputFile, *, save_probabilities: bool) -> str:
    """Predict and write one case; the error's message when that failed, else an empty string."""
    case, target = file.item.case, file.target
    try:
        start = time.perf_counter()
        volume = read_image(file.item.images)
        for note in volume.notes:
            logger.warning("%s: %s", case, note)
        prediction = predictor.predict_volume(
            volume, case=case, probabilities=save_probabilities, read_seconds=time.perf_counter() - start
        )
        if prediction.probabilities is not None:  # before the label map, whose presence says that the case is done
            write_probabilities(prediction.probabilities, target.with_name(f"{case}_probabilities.b2nd"))
        write_label_map(prediction.labels, volume.template, target)
    except (AutosegError, OSError, MemoryError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[step] += time.perf_counter() - start
