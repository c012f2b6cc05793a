"""Label maps of files that are corrected by clicks, case by case; the clicks come from a JSON file.

    read, preprocess -> label map to correct: of a file, or predicted -> clicks -> written as any prediction

Tested in tests/stages/test_correct.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoseg.errors import PredictionError, UsageError, WriteError
from autoseg.imaging.formats.reading import read_label_map
from autoseg.imaging.formats.volume import AnyArray, grid_difference
from autoseg.inference.files.case_pipeline import CASE_ERRORS, describe_error, finish_case, prepare_case
from autoseg.inference.files.outputs import CaseOutcome, OutputFile
from autoseg.inference.predictor.case_predictor import LABEL_MAP_ONLY, CasePredictor
from autoseg.inference.predictor.correction import correct_prepared, correcting_alone
from autoseg.inference.predictor.prepared_case import PreparedCase
from autoseg.networks.devices import check_device_works
from autoseg.records.clicks import CaseClicks, Click
from autoseg.records.files import read_record
from autoseg.records.prediction import OutputChoices, Prediction

Clicks = Mapping[str, Sequence[Click]]
"""Clicks by case id."""


def read_clicks(path: Path, cases: Sequence[str]) -> Clicks:
    """Clicks of a JSON file, by case id.

    Args:
        path: File with a `CaseClicks`.
        cases: Ids of the cases of the run.

    Raises:
        RecordError: If the file is missing or damaged.
        UsageError: If it names a case that the run does not have.
    """
    clicks = read_record(CaseClicks, path).cases
    if unknown := [case for case in clicks if case not in cases]:
        listed = ", ".join(sorted(cases)[:5]) + (" ..." if len(cases) > 5 else "")
        raise UsageError(f"{path}: has clicks for {unknown[0]}, but the images are of {listed}; correct the case id")
    return clicks


def correct_cases(
    predictor: CasePredictor,
    files: Sequence[OutputFile],
    clicks: Clicks,
    first_labels: Path | None,
    choices: OutputChoices,
) -> Iterator[CaseOutcome]:
    """Correct one case after the other.

    Args:
        predictor: The model.
        files: Cases with clicks, and the files of their corrected label maps.
        clicks: Clicks by case id.
        first_labels: Folder with the label maps to correct, named as those that are written; None: they are predicted.
        choices: Outputs besides label maps.

    Yields:
        The outcome of every case, in order; one of CASE_ERRORS fails the case, any other error is raised.

    Raises:
        PredictionError: If the model has no networks for corrections.
        WriteError: If the disk is full.
    """
    alone = correcting_alone(predictor)
    for file in files:
        try:
            prepared = prepare_case(alone, file, choices)
            labels = _predict(predictor, file) if first_labels is None else _read(first_labels, file, prepared)
            prediction = correct_prepared(alone, prepared, labels, clicks[file.item.case])
        except WriteError:
            raise
        except CASE_ERRORS as error:
            check_device_works(predictor.device)
            yield CaseOutcome(describe_error(error))
        else:
            yield finish_case(predictor, file, prepared, prediction, choices)


def _predict(predictor: CasePredictor, file: OutputFile) -> AnyArray:
    prediction: Prediction = predictor.predict(prepare_case(predictor, file, LABEL_MAP_ONLY))
    return prediction.labels


def _read(folder: Path, file: OutputFile, prepared: PreparedCase) -> AnyArray:
    path = folder / file.target.name
    if not path.is_file():
        raise PredictionError(f"{path}: there is no label map to correct; add it, or leave out --first-labels")
    volume = read_label_map(path)
    if difference := grid_difference(volume.grid, prepared.grid):
        raise PredictionError(f"{path}: is not on the grid of the image: {difference}")
    values: AnyArray = volume.array[0]
    return values
