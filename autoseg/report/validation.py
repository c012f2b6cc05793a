"""What the folds of a workspace left behind: curves, scores, and label maps to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from autoseg.errors import ImageFileError, RecordError
from autoseg.imaging.geometry import canonical_orientation, grid_difference, orient_array, orient_grid
from autoseg.imaging.labels import encode_label_map
from autoseg.imaging.reading import read_image, read_label_map, split_ending
from autoseg.metrics.summary import case_dice, summarize
from autoseg.records.checkpoint import EpochHistory
from autoseg.records.dataset import CaseFiles, DatasetDescription, LabelEncoding
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import read_record
from autoseg.records.workspace import Workspace
from autoseg.report.figures import CasePicture, picture_case

MOST_LABELS_IN_TITLE = 4


@dataclass(frozen=True)
class CrossValidation:
    """All validated folds of one configuration as one evaluation, before any post-processing."""

    configuration: str
    folds: tuple[str, ...]
    evaluation: Evaluation
    folders: dict[str, Path]
    """Case -> folder of its predicted label map."""


def read_cross_validations(workspace: Workspace) -> list[CrossValidation]:
    """Merge the validated folds of each configuration, by name.

    Raises:
        RecordError: If an evaluation is damaged.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted((workspace.root / "models").glob("*/fold_*/validation/evaluation.json")):
        found.setdefault(path.parents[2].name, []).append(path)
    return [_merge(configuration, paths) for configuration, paths in found.items()]


def _merge(configuration: str, paths: Sequence[Path]) -> CrossValidation:
    evaluations = [read_record(Evaluation, path) for path in paths]
    return CrossValidation(
        configuration=configuration,
        folds=tuple(path.parents[1].name.removeprefix("fold_") for path in paths),
        evaluation=summarize(
            [case for evaluation in evaluations for case in evaluation.cases],
            list(evaluations[0].labels),
            [case for evaluation in evaluations for case in evaluation.missing_predictions],
        ),
        folders={
            case.case: path.parent for path, of_fold in zip(paths, evaluations, strict=True) for case in of_fold.cases
        },
    )


def read_histories(workspace: Workspace) -> dict[str, dict[str, list[EpochHistory]]]:
    """Training histories by configuration and fold, of finished and of running folds.

    Raises:
        RecordError: If a line is damaged.
    """
    histories: dict[str, dict[str, list[EpochHistory]]] = {}
    for path in sorted((workspace.root / "models").glob("*/fold_*/history.jsonl")):
        fold = path.parent.name.removeprefix("fold_")
        histories.setdefault(path.parents[1].name, {})[fold] = _read_history(path)
    return histories


def _read_history(path: Path) -> list[EpochHistory]:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [EpochHistory.model_validate_json(line) for line in lines if line]
    except ValidationError as error:
        raise RecordError(f"{path}: not a valid training history: {error}") from error


def choose_cases(evaluation: Evaluation) -> list[tuple[str, CaseScores]]:
    """The three worst cases, the median and the best by mean Dice, each once and with its word; unscored ones never."""
    scored = [(dice, case) for case in evaluation.cases if (dice := case_dice(case)) is not None]
    ranked = [case for _, case in sorted(scored, key=lambda pair: (pair[0], pair[1].case))]
    last = len(ranked) - 1
    words = {2: "third worst", 1: "second worst", len(ranked) // 2: "median", last: "best", 0: "worst"}
    return [(words[rank], ranked[rank]) for rank in sorted(words) if 0 <= rank <= last]


def picture_validation(
    validation: CrossValidation, description: DatasetDescription, folder: Path
) -> tuple[list[CasePicture], list[str]]:
    """Pictures of the chosen cases, and a sentence for each that could not be shown.

    Args:
        validation: Of the configuration to show.
        description: Knows the cases' files.
        folder: The dataset's.
    """
    files = {one.case: one for one in description.cases}
    pictures, notes = [], []
    for word, scores in choose_cases(validation.evaluation):
        prediction = _find_label_map(validation.folders[scores.case], scores.case)
        if prediction is None or scores.case not in files:
            notes.append(f"{scores.case} cannot be shown: its predicted label map or its image is not there.")
            continue
        try:
            picture = _picture(_title(word, scores), folder, files[scores.case], prediction, description.encoding)
        except (ImageFileError, ValueError) as error:
            notes.append(f"{scores.case} cannot be shown: {error}")
        else:
            pictures.append(picture)
    return pictures, notes


def _picture(title: str, folder: Path, files: CaseFiles, prediction: Path, encoding: LabelEncoding) -> CasePicture:
    image = read_image([folder / name for name in files.images])
    maps = [read_label_map(path) for path in (folder / files.label, prediction)]
    for label_map in maps:
        difference = grid_difference(label_map.grid, image.grid)
        if difference is not None:
            raise ImageFileError(f"{label_map.path}: not on the grid of the image: {difference}")
    orientation = canonical_orientation(image.grid)
    reference, predicted = (encode_label_map(orient_array(one.array, orientation)[0], encoding) for one in maps)
    reference[reference == len(encoding.values)] = 0  # ignored voxels have no contour
    spacing = orient_grid(image.grid, orientation).spacing
    return picture_case(title, orient_array(image.array, orientation), reference, predicted, spacing)


def _find_label_map(folder: Path, case: str) -> Path | None:
    candidates = (path for path in sorted(folder.glob("*")) if path.suffix != ".json")
    return next((path for path in candidates if split_ending(path.name)[0] == case), None)


def _title(word: str, scores: CaseScores) -> str:
    title = f"{word}: {scores.case}\nDice {case_dice(scores):.3f}"
    if 1 < len(scores.labels) <= MOST_LABELS_IN_TITLE:
        parts = (f"{name} {'–' if one.dice is None else f'{one.dice:.3f}'}" for name, one in scores.labels.items())
        title += f"   ({', '.join(parts)})"
    return title
