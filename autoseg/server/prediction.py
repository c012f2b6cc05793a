"""One task in the process that has the models: check the image's size, predict, measure, write.

Errors become a status and a sentence, which names no folder of this machine.

Tested in tests/server/test_model_process.py.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import (
    AutosegError,
    ImageFileError,
    InteropError,
    MemoryLimitError,
    PredictionError,
    UsageError,
    WriteError,
)
from autoseg.imaging.arrays.display import choose_window
from autoseg.imaging.formats.dicom.reading import SERIES_ENDING
from autoseg.inference.files.case_pipeline import finish_case, prepare_case
from autoseg.inference.files.dicom_outputs import write_dicom_maps
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.outputs import CaseOutcome, OutputFile
from autoseg.inference.files.tables import LabelStatistics
from autoseg.inference.models.label_colors import name_label_values
from autoseg.networks.devices import is_out_of_memory
from autoseg.records.plan import Plan
from autoseg.records.prediction import OutputChoices
from autoseg.server.messages import (
    DISAGREEMENT,
    IMAGE_NAME,
    LABEL_MAP,
    SEGMENTATION,
    UNCERTAINTY,
    LabelFacts,
    ModelFacts,
    PredictionTask,
    TaskResult,
)
from autoseg.server.sizes import measure_image_bytes
from autoseg.server.slices import write_slices
from autoseg.stages.predict import Predictor
from autoseg.text import distinct_names, format_memory

BAD_IMAGE, TOO_LARGE, NO_ROOM, UNEXPECTED = 422, 413, 503, 500
"""HTTP statuses of what can go wrong with an image."""


class TooLargeError(AutosegError):
    """An image that takes more memory than the server gives to one."""


def describe_model(name: str, path: Path, predictor: Predictor) -> ModelFacts:
    """What clients are told about a model."""
    plan = predictor.plan
    configurations = " + ".join(member.name for member in predictor.members)
    return ModelFacts(
        name=name,
        channels=plan.channel_names,
        labels=name_label_values(plan.encoding),
        background=plan.encoding.values[0],
        dimensions=max(member.configuration.network.dimensions for member in predictor.members),
        description=f"{plan.dataset_name}, {configurations}, from {path.name}",
    )


def run_task(predictors: Mapping[str, Predictor], task: PredictionTask) -> TaskResult:
    """Predict one image; whatever fails becomes the result's error."""
    began = time.perf_counter()
    predictor = predictors[task.model]
    file = OutputFile(InputCase(IMAGE_NAME, task.images), task.folder / f"{IMAGE_NAME}{task.ending}")
    try:
        outcome, centers = _predict(predictor, task, file)
    except (AutosegError, OSError, MemoryError, RuntimeError, ValueError) as error:
        status, sentence = _explain_failure(error)
        return TaskResult(error=_without_paths(sentence, task), status=status)
    if outcome.error:
        return TaskResult(error=_without_paths(outcome.error, task), status=UNEXPECTED)
    maps = {
        LABEL_MAP: file.target,
        SEGMENTATION: _segmentation_file(task, file).target,
        UNCERTAINTY: file.side_map("uncertainty"),
        DISAGREEMENT: file.side_map("disagreement"),
    }
    return TaskResult(
        files={kind: path.name for kind, path in maps.items() if path.is_file()},
        statistics=tuple(_label_facts(row, predictor.plan) for row in outcome.statistics),
        centers=centers,
        notes=tuple(_without_paths(note, task) for note in outcome.notes),
        seconds=time.perf_counter() - began,
    )


def _predict(
    predictor: Predictor, task: PredictionTask, file: OutputFile
) -> tuple[CaseOutcome, dict[int, tuple[float, float, float]]]:
    """Outcome of the case, and centres of its labels."""
    needed = sum(measure_image_bytes(path) for path in task.images)
    if needed > task.max_image_bytes:
        raise TooLargeError(
            f"the image takes {format_memory(needed)} in memory, this server takes up to "
            f"{format_memory(task.max_image_bytes)}; cut it into parts, or start the server with a larger --max-image"
        )
    choices = OutputChoices(statistics=True, uncertainty=task.uncertainty, colors=True)
    prepared = prepare_case(predictor.case_predictor, file, choices)
    prediction = predictor.case_predictor.predict(prepared, choices)
    if task.slices and prepared.volume is not None:
        write_slices(prepared.volume, prediction.labels, choose_window(predictor.plan), task.folder)
    outcome = finish_case(predictor.case_predictor, file, prepared, prediction, choices)
    series = prepared.template.series
    if series is not None and not outcome.error:
        segmentation = _segmentation_file(task, file)
        hashed = predictor.case_predictor.weights_hash
        write_dicom_maps(prediction, series, segmentation, predictor.plan.encoding, hashed, choices)
    return outcome, find_centers(prediction.labels, predictor.plan.encoding.values[0])


def _segmentation_file(task: PredictionTask, file: OutputFile) -> OutputFile:
    """The file of the DICOM segmentation, beside the label map."""
    return replace(file, target=task.folder / f"{IMAGE_NAME}{SERIES_ENDING}")


def find_centers(labels: NDArray[np.integer], background: int) -> dict[int, tuple[float, float, float]]:
    """Mean voxel index (x, y, z) of every value but the background's, (Z, Y, X); slice by slice."""
    size = int(labels.max(initial=0)) + 1
    counts, sums = np.zeros(size), np.zeros((3, size))
    columns = np.broadcast_to(np.arange(labels.shape[2]), labels.shape[1:]).ravel()
    rows = np.repeat(np.arange(labels.shape[1]), labels.shape[2])
    for z, plane in enumerate(labels):
        flat = plane.ravel()
        found = np.bincount(flat, minlength=size)
        counts += found
        sums[0] += np.bincount(flat, weights=columns, minlength=size)
        sums[1] += np.bincount(flat, weights=rows, minlength=size)
        sums[2] += z * found
    present = [int(value) for value in np.flatnonzero(counts) if value != background]
    return {
        value: (sums[0][value] / counts[value], sums[1][value] / counts[value], sums[2][value] / counts[value])
        for value in present
    }


def _explain_failure(error: Exception) -> tuple[int, str]:
    if isinstance(error, TooLargeError | MemoryLimitError):
        return TOO_LARGE, str(error)
    if isinstance(error, WriteError):
        return NO_ROOM, f"the server's disk is full ({error}); try again later"
    if isinstance(error, MemoryError) or is_out_of_memory(error):
        return NO_ROOM, "the server's memory is too small for this image now; try again later, or cut it into parts"
    if isinstance(error, ImageFileError | PredictionError | InteropError | UsageError):
        return BAD_IMAGE, str(error)
    return UNEXPECTED, f"the prediction failed ({type(error).__name__}: {error}); tell whoever runs the server"


def _label_facts(row: LabelStatistics, plan: Plan) -> LabelFacts:
    names = distinct_names(plan.channel_names)
    return LabelFacts(
        label=row.label,
        values=row.values,
        voxels=row.voxels,
        volume_ml=row.volume_ml,
        mean_intensities=dict(zip(names, row.mean_intensities, strict=True)),
    )


def _without_paths(text: str, task: PredictionTask) -> str:
    """The sentence without the folders of this machine, which are none of the client's business."""
    for path in (*task.images, task.folder):
        text = text.replace(f"{path.parent}/", "").replace(str(path.parent), "")
    return text
