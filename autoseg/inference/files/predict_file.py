"""One file of a run over files, in three steps that may run beside those of other files, or in one on a cluster.

read, check, preprocess --> networks, label map --> statistics, maps on disk

Tested in tests/stages/test_predict.py.
"""

import logging
import time
from dataclasses import dataclass

from autoseg.imaging.formats.reading import Volume, read_image
from autoseg.imaging.formats.volume import Template
from autoseg.inference.files.case_pipeline import CASE_ERRORS
from autoseg.inference.files.label_statistics import LabelStatistics, measure_labels
from autoseg.inference.files.outputs import OutputFile
from autoseg.inference.files.side_files import CaseOutcome, write_maps
from autoseg.inference.predictor.case_predictor import CasePredictor, PreparedCase
from autoseg.records.output_choices import OutputChoices
from autoseg.records.prediction import Prediction

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True)
class PreparedFile:
    """A file that was read and preprocessed."""

    case: PreparedCase
    template: Template
    volume: Volume | None
    """As read, where statistics ask for its intensities; else it is not kept."""
    notes: tuple[str, ...]
    """What the reader assumed, and how the image departs from the training images."""


@dataclass(frozen=True)
class PredictedFile:
    """A file with its label map, before anything is written but its probabilities."""

    prepared: PreparedFile
    prediction: Prediction


def prepare_file(predictor: CasePredictor, file: OutputFile, choices: OutputChoices) -> PreparedFile:
    """Read and preprocess one case."""
    start = time.perf_counter()
    volume = read_image(file.item.images)
    case = predictor.prepare(
        volume,
        case=file.item.case,
        overwrite=not choices.statistics,
        read_seconds=time.perf_counter() - start,
    )
    return PreparedFile(case, volume.template, volume if choices.statistics else None, (*volume.notes, *case.warnings))


def predict_file(
    predictor: CasePredictor, file: OutputFile, prepared: PreparedFile, choices: OutputChoices
) -> PredictedFile:
    """Run the networks; write probabilities as they come, before the label map, which says that all is done."""
    path = file.target.with_name(f"{file.item.case}_probabilities.b2nd")
    prediction = predictor.predict(prepared.case, choices, path)
    return PredictedFile(prepared, prediction)


def finish_file(
    predictor: CasePredictor, file: OutputFile, predicted: PredictedFile, choices: OutputChoices
) -> CaseOutcome:
    """Measure and write."""
    prepared, prediction = predicted.prepared, predicted.prediction
    rows: tuple[LabelStatistics, ...] = ()
    if prepared.volume is not None:
        rows = measure_labels(file.item.case, prediction.labels, prepared.volume, predictor.plan.labels)
    write_maps(prediction, prepared.template, file, predictor.plan.encoding, colors=choices.colors)
    steps = ", ".join(f"{step} {seconds:.3f} s" for step, seconds in prediction.seconds.items())
    logger.debug("%s: %s", file.item.case, steps)
    instances = None if prediction.instances is None else prediction.instances.table
    return CaseOutcome("", prepared.notes, rows, instances)


def process_file(predictor: CasePredictor, file: OutputFile, choices: OutputChoices) -> CaseOutcome:
    """All three steps; what goes wrong with the case is in the outcome."""
    try:
        predicted = predict_file(predictor, file, prepare_file(predictor, file, choices), choices)
        return finish_file(predictor, file, predicted, choices)
    except CASE_ERRORS as error:
        return CaseOutcome(str(error) or type(error).__name__)
