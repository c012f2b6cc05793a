"""Suggest: which unlabelled images to label next, so that a model learns most from them.

    every image: predict -> uncertainty, disagreement, features --a small file per case; label map-->
    all cases: ranks and distances -> the n to label next -> suggestions.json, .csv

Cases that were measured with the same weights and images are not predicted again, so an interrupted run resumes. One
case is in memory at a time. The page is made by `report.page.suggestions`.
"""

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import UsageError, WriteError
from autoseg.inference.files.case_pipeline import CASE_ERRORS, describe_error, finish_case, prepare_case
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.inputs import choose_series, find_inputs
from autoseg.inference.files.outputs import OutputFile, assign_outputs, refuse_clashes
from autoseg.inference.files.run_provenance import hash_inputs
from autoseg.inference.predictor.images import refuse_constant
from autoseg.inference.predictor.instance_maps import finds_instances
from autoseg.inference.predictor.missing_channels import may_lack_channels
from autoseg.networks.devices import check_device_works
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record, real_path, replacing, write_record
from autoseg.records.plan import Plan, hash_of
from autoseg.records.prediction import OutputChoices
from autoseg.records.suggestions import CaseSigns, Suggestion, Suggestions
from autoseg.records.workspace import Workspace
from autoseg.selection.case_signs import measure_signs
from autoseg.selection.next_cases import choose_next
from autoseg.stages.predict import Predictor
from autoseg.text import format_cell

logger = logging.getLogger("autoseg.suggest")

SUGGESTIONS = "suggestions"
"""Name of the files, and of the folder in a workspace."""


@dataclass(frozen=True)
class SuggestedRun:
    """What was suggested, and what could not be predicted."""

    suggestions: Suggestions
    files: tuple[OutputFile, ...]
    """Image and predicted label map of each suggested case, in their order."""
    failures: tuple[str, ...]
    """A sentence for each case that could not be predicted."""


def suggest_cases(
    predictor: Predictor,
    unlabelled: Path,
    output: Path,
    count: int,
    *,
    known: Workspace | None = None,
    progress: Progress = no_progress,
) -> SuggestedRun:
    """Measure all unlabelled cases and choose those to label next.

    Args:
        predictor: The model.
        unlabelled: An image, a folder of images, or a list; see `inference.files.inputs`.
        output: Folder for suggestions.json, suggestions.csv, `labels/` with the predicted label maps, and `signs/`.
        count: Number of cases to choose, at least 1.
        known: Workspace whose own images are left out; None: nothing is.
        progress: Called after every case.

    Returns:
        The suggestions, their files, and what failed: a case that cannot be predicted does not stop the others.

    Raises:
        UsageError: If there is nothing to predict, all images belong to the dataset, the folder cannot be written, or
            the model has no probabilities of voxels.
        WriteError: If the disk is full.
    """
    if finds_instances(predictor.plan):
        raise UsageError(
            "autoseg suggest needs probabilities of voxels, but this model finds objects one by one (--target "
            "mask-rcnn). Give a model of another target."
        )
    files = _find_files(predictor.plan, unlabelled, known, output)
    measured: list[tuple[OutputFile, CaseSigns]] = []
    failures = []
    for number, (file, signs) in enumerate(_measure_all(predictor, files, output), start=1):
        if isinstance(signs, CaseSigns):
            measured.append((file, signs))
        else:
            failures.append(f"{file.item.case}: {signs}")
        progress(number, len(files))
    images = [tuple(str(path) for path in file.item.images) for file, _ in measured]
    suggested = choose_next([signs for _, signs in measured], images, count)
    if len(suggested) < count:
        logger.warning("%d cases are suggested instead of %d: there are no more", len(suggested), count)
    if all(signs.disagreement is None for _, signs in measured):
        logger.info(
            "without disagreement: the model is one network without mirroring (--mirror-axes all compares variants)"
        )
    found = Suggestions(num_cases=len(measured), suggestions=suggested, signs=tuple(signs for _, signs in measured))
    _write_table(suggested, output / f"{SUGGESTIONS}.csv")
    write_record(found, output / f"{SUGGESTIONS}.json")
    by_case = {file.item.case: file for file, _ in measured}
    return SuggestedRun(found, tuple(by_case[own.case] for own in suggested), tuple(failures))


def _find_files(plan: Plan, unlabelled: Path, known: Workspace | None, output: Path) -> tuple[OutputFile, ...]:
    """The unlabelled cases, with the label map of each."""
    may_lack = may_lack_channels(plan)
    cases = find_inputs(unlabelled, plan.channel_names, None, plan.labels, may_lack_channels=may_lack)
    cases = _leave_out_known(choose_series(cases, None, resample_gaps=False), known, unlabelled)
    return refuse_clashes(assign_outputs(cases, output / "labels"), OutputChoices())


def _leave_out_known(cases: Sequence[InputCase], known: Workspace | None, unlabelled: Path) -> tuple[InputCase, ...]:
    """Cases whose images do not belong to the dataset of the workspace."""
    if known is None or not known.dataset.exists():
        return tuple(cases)
    description = read_record(DatasetDescription, known.dataset)
    folder = known.dataset_folder(description.folder)
    labelled = {real_path(folder / name) for files in description.cases if files.label for name in files.images}
    new = tuple(item for item in cases if not {real_path(path) for path in item.images} & labelled)
    if not new:
        raise UsageError(
            f"{unlabelled}: all {len(cases)} images belong to the labelled dataset of {known.root}; give a folder with "
            "other images"
        )
    if len(new) < len(cases):
        logger.warning("%d images are left out: the dataset has their label maps", len(cases) - len(new))
    return new


def _measure_all(
    predictor: Predictor, files: Sequence[OutputFile], output: Path
) -> Iterator[tuple[OutputFile, CaseSigns | str]]:
    """Signs of every case, or why there are none."""
    settings = _describe_settings(predictor)
    for file in files:
        if file.fault:
            yield file, file.fault
            continue
        try:
            yield file, _measure_case(predictor, file, output, settings)
        except WriteError:
            raise
        except CASE_ERRORS as error:
            check_device_works(predictor.case_predictor.device)
            yield file, describe_error(error)


def _describe_settings(predictor: Predictor) -> list[object]:
    """What a case's signs depend on besides its images."""
    case_predictor = predictor.case_predictor
    axes = [(member.name, list(member.folds), list(member.mirror_axes)) for member in case_predictor.members]
    recipe = [step.model_dump(mode="json") for step in case_predictor.postprocessing]
    return [case_predictor.weights_hash, axes, recipe, case_predictor.windows.overlap, case_predictor.windows.mirroring]


def _measure_case(predictor: Predictor, file: OutputFile, output: Path, settings: Sequence[object]) -> CaseSigns:
    """Signs of one case from its file, or from a prediction that is written."""
    path = output / "signs" / f"{file.item.case}.json"
    origin = hash_of([*settings, [image.sha256 for image in hash_inputs(file)]])
    if path.exists() and file.target.exists():
        found = read_record(CaseSigns, path)
        if found.origin == origin:
            return found
    case_predictor = predictor.case_predictor
    prepared = prepare_case(case_predictor, file, OutputChoices(uncertainty=True))
    for image in prepared.images.values():
        refuse_constant(image)
    signs, prediction = measure_signs(case_predictor, prepared, file.item.case, origin)
    prediction = replace(prediction, uncertainty=None, disagreement=None)  # only the label map is written
    outcome = finish_case(case_predictor, file, prepared, prediction, OutputChoices())
    if outcome.error:
        raise ValueError(outcome.error)
    write_record(signs, path)
    return signs


def _write_table(suggested: Sequence[Suggestion], path: Path) -> None:
    """Write a row per suggested case; see `text.format_cell`."""
    fields = [name for name in Suggestion.model_fields if name != "images"]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*fields, "images"))
        for own in suggested:
            cells = [_format_value(getattr(own, name)) for name in fields]
            writer.writerow((*cells, format_cell(" ".join(own.images))))


def _format_value(value: str | float | None) -> str:
    if value is None:
        return ""
    return format_cell(value) if isinstance(value, str) else f"{value:.4g}"
