"""Files through a model: the next case is read while this one is predicted, and the last one is written behind it.

    read, preprocess case n + 1 (thread)      predict case n (caller's thread)      measure, write case n - 1 (thread)

At most three cases are in memory, one per step: reading waits until the prediction has taken the case before, and a
predicted case waits until the one before it is written.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from typing import TypeVar

from autoseg.errors import AutosegError, WriteError
from autoseg.imaging.arrays.display import choose_window
from autoseg.inference.files.dicom_outputs import is_on_series, write_dicom_maps
from autoseg.inference.files.input_cases import read_input
from autoseg.inference.files.meshes import refuse_flat, write_meshes
from autoseg.inference.files.outputs import CaseOutcome, OutputFile, write_labels, write_side_maps
from autoseg.inference.files.overlays import write_overlay
from autoseg.inference.files.run_provenance import hash_inputs
from autoseg.inference.files.tables import LabelStatistics, measure_labels
from autoseg.inference.models.label_colors import name_label_values
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.predictor.prepared_case import PreparedCase
from autoseg.networks.devices import check_device_works, is_out_of_memory
from autoseg.records.prediction import OVERLAY, OutputChoices, Prediction
from autoseg.records.provenance import InputFile

logger = logging.getLogger("autoseg.predict")

Result = TypeVar("Result")

CASE_ERRORS = (AutosegError, OSError, MemoryError, RuntimeError, ValueError)
"""Errors that fail one case and leave the others alone, but for WriteError: a full disk is full for all of them."""


def predict_cases(
    predictor: CasePredictor, files: Sequence[OutputFile], choices: OutputChoices
) -> Iterator[CaseOutcome]:
    """Predict one case after the other; with a limit of memory, only one is in memory at a time.

    When the caller's thread is interrupted, or stops asking, the case that is being written is written, so that no
    file is left half written; the one that is being read is dropped.

    Args:
        predictor: The model.
        files: Cases and the files of their label maps.
        choices: Outputs besides label maps.

    Yields:
        The outcome of every case, in order; one of CASE_ERRORS fails the case, any other error is raised.

    Raises:
        WriteError: If the disk is full: the cases that follow could not be written either.
        PredictionError: If a GPU does not compute any more, as after an error of its kernels.
    """
    if predictor.max_memory is not None:
        for file in files:
            yield predict_case(predictor, file, choices)
        return
    writing: Future[CaseOutcome] | None = None
    try:
        for file, reading in _read_ahead(predictor, files, choices):
            try:
                prepared = reading.result()
                prediction = _predict(predictor, prepared, file, choices)
            except WriteError:
                raise
            except CASE_ERRORS as error:
                check_device_works(predictor.device)
                finish = partial(CaseOutcome, describe_error(error))
            else:
                finish = partial(finish_case, predictor, file, prepared, prediction, choices)
                del prepared, prediction
            del reading
            if writing is not None:
                yield writing.result()
            writing = _start(finish)
            del finish  # from here on, only the thread holds the case
        if writing is not None:
            yield writing.result()
    finally:
        if writing is not None:
            wait([writing])


def predict_case(predictor: CasePredictor, file: OutputFile, choices: OutputChoices) -> CaseOutcome:
    """Read, predict and write one case; one of CASE_ERRORS becomes the outcome's error."""
    try:
        prepared = prepare_case(predictor, file, choices)
        prediction = _predict(predictor, prepared, file, choices)
    except WriteError:
        raise
    except CASE_ERRORS as error:
        check_device_works(predictor.device)
        return CaseOutcome(describe_error(error))
    return finish_case(predictor, file, prepared, prediction, choices)


def _predict(predictor: CasePredictor, prepared: PreparedCase, file: OutputFile, choices: OutputChoices) -> Prediction:
    """Predict one case, with probabilities where its segmentation holds them."""
    if choices.segmentation_type == "fractional" and is_on_series(prepared.template, file):
        choices = replace(choices, probabilities=True)
    return predictor.predict(prepared, choices, file.probabilities)


def prepare_case(predictor: CasePredictor, file: OutputFile, choices: OutputChoices) -> PreparedCase:
    """Read and preprocess one case; statistics and overlays need the image as it was read."""
    start = time.perf_counter()
    volume = read_input(file.item)
    seconds = time.perf_counter() - start
    if choices.meshes:
        refuse_flat(volume, file)
    overwrite = not (choices.statistics or choices.overlay)
    return predictor.prepare(volume, case=file.item.case, overwrite=overwrite, read_seconds=seconds)


def finish_case(
    predictor: CasePredictor, file: OutputFile, prepared: PreparedCase, prediction: Prediction, choices: OutputChoices
) -> CaseOutcome:
    """Measure and write one case; the label map comes last, because it says that the case is done.

    Args:
        predictor: The model.
        file: The case and the file of its label map.
        prepared: The image, with its header.
        prediction: Maps to write; probabilities are in their file already.
        choices: Outputs besides label maps.
    """
    rows: tuple[LabelStatistics, ...] = ()
    inputs: tuple[InputFile, ...] = ()
    notes = [*prepared.notes, *prepared.warnings]
    try:
        if choices.provenance:
            inputs = hash_inputs(file)
        start = time.perf_counter()
        if choices.statistics and prepared.volume is not None:
            item, absent = file.item, file.item.absent_channels
            rows = measure_labels(item.case, prediction.labels, prepared.volume, predictor.plan.labels, absent)
            expected = prediction.expected_dice
            rows = tuple(replace(row, expected_dice=expected.get(row.label) if row.voxels else None) for row in rows)
        if choices.overlay and prepared.volume is not None:
            names, window = name_label_values(predictor.plan.encoding), choose_window(predictor.plan)
            write_overlay(prepared.volume, prediction.labels, names, window, file.side_map(OVERLAY))
        if choices.meshes:
            remark = write_meshes(prediction.labels, prepared.grid, file, predictor.plan.encoding, choices)
            notes += [remark] if remark else []
        write_side_maps(prediction, prepared.template, file)
        encoding, series = predictor.plan.encoding, prepared.template.series
        if series is not None:
            write_dicom_maps(prediction, series, file, encoding, predictor.weights_hash, choices)
        if not is_on_series(prepared.template, file):
            write_labels(prediction, prepared.template, file, encoding, colors=choices.colors)
        seconds = prediction.seconds | {"write": time.perf_counter() - start}
    except WriteError:
        raise
    except CASE_ERRORS as error:
        return CaseOutcome(describe_error(error))
    steps = ", ".join(f"{step} {duration:.3f} s" for step, duration in seconds.items())
    logger.debug("%s: %s", file.item.case, steps)
    instances = None if prediction.instances is None else prediction.instances.table
    return CaseOutcome("", tuple(notes), rows, instances, inputs, seconds)


def _read_ahead(
    predictor: CasePredictor, files: Sequence[OutputFile], choices: OutputChoices
) -> Iterator[tuple[OutputFile, Future[PreparedCase]]]:
    """Every file with its image, once that is read or has failed; the next one is read meanwhile."""
    ahead: Future[PreparedCase] | None = None
    for index, file in enumerate(files):
        reading = _start(partial(prepare_case, predictor, file, choices)) if ahead is None else ahead
        wait([reading])
        following = files[index + 1 : index + 2]
        ahead = _start(partial(prepare_case, predictor, following[0], choices)) if following else None
        yield file, reading


def _start(work: Callable[[], Result]) -> Future[Result]:
    """Begin in a thread that does not keep the program from ending."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def describe_error(error: Exception) -> str:
    """Why a case failed, in words; an exhausted memory is named as such."""
    if is_out_of_memory(error):
        return (
            "the memory of the machine or the GPU is too small for this image, or used by others. End other programs "
            "that use it, or predict with --max-memory or --device cpu."
        )
    return str(error) or type(error).__name__
