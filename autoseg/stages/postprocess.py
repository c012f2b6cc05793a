"""Post-process: apply the recipe of a model, or a recipe file, to label maps in files.

read -> label indices -> steps -> values of the file -> write on the same grid
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from autoseg.errors import ImageFileError, UsageError
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map, make_encoding
from autoseg.imaging.datasets.cases import map_in_processes
from autoseg.imaging.datasets.effort import label_map_memory_bytes
from autoseg.imaging.formats.label_values import VALUE_NOTES
from autoseg.imaging.formats.reading import describe_notes, read_label_map, split_ending
from autoseg.imaging.formats.segmentations import is_dicom_file
from autoseg.imaging.formats.volume import measurable_spacing
from autoseg.imaging.formats.writing import write_label_map
from autoseg.inference.files.case_pipeline import CASE_ERRORS
from autoseg.inference.files.input_cases import InputCase
from autoseg.inference.files.label_maps import find_label_maps
from autoseg.inference.files.outputs import OutputFile, assign_outputs
from autoseg.inference.files.run_lists import PredictionFailure, write_failures
from autoseg.postprocessing import apply_postprocessing, check_labels_are_known
from autoseg.processes import WorkerDeath
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.selection import PostprocessingRecipe, PostprocessingStep, Selection
from autoseg.records.workspace import Workspace
from autoseg.worker_memory import limit_workers

logger = logging.getLogger("autoseg.postprocess")


@dataclass(frozen=True)
class _Outcome:
    """What became of one label map."""

    error: str
    """Empty when it was written."""
    notes: tuple[str, ...] = ()


def recipe_of_model(workspace: Workspace) -> PostprocessingRecipe:
    """Post-processing steps of a model's selection.json with its labels, so that they can be used without the model.

    Raises:
        UsageError: If the model has no selection.json.
        RecordError: If a JSON file is missing or damaged.
    """
    if not workspace.selection.is_file():
        raise UsageError(
            f"{workspace.root}: has no selection.json, so there is no recipe; run autoseg select first, or give a "
            "recipe with --recipe"
        )
    plan = read_record(Plan, workspace.plan)
    encoding = plan.encoding
    has_regions = encoding.activation == "sigmoid"
    written = tuple(encoding.values[head.painted_index] for head in encoding.heads)
    return PostprocessingRecipe(
        labels=plan.labels,
        regions_class_order=written if has_regions else None,
        steps=read_record(Selection, workspace.selection).postprocessing,
    )


def postprocess_files(
    recipe: PostprocessingRecipe,
    inputs: Path,
    output: Path,
    *,
    workers: int = 1,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> list[PredictionFailure]:
    """Apply a recipe to label maps; a label map that fails does not stop the others.

    Args:
        recipe: Steps, and values of the labels in the files.
        inputs: A label map, or a folder of them; maps of uncertainty beside them are left alone.
        output: Folder for files of the same names and formats (2D images: PNG); for a single label map also a file
            name. Headers stay as they are.
        workers: Label maps processed at the same time, in processes.
        max_memory: Memory in bytes that the processes may take together; None: what is free. Fewer are started then.
        progress: Called after every label map.

    Returns:
        The label maps that failed; also written to `failures.json` in the output folder.

    Raises:
        UsageError: If `inputs` holds no label map, `output` cannot be written to or would replace an input, or
            worker processes cannot start.
        DatasetError: If the labels of the recipe contradict each other.
        RecordError: If a step names a label that the recipe does not have.
    """
    encoding = make_encoding(recipe.labels, recipe.regions_class_order)
    check_labels_are_known(recipe.steps, encoding)
    cases = [InputCase(case, (path,)) for case, path in _find_maps(inputs).items()]
    files = assign_outputs(cases, output)
    faults = [file.fault for file in files if file.fault]
    if faults:
        raise UsageError("\n".join(faults))
    if workers > 1:
        needed = label_map_memory_bytes(path for file in files for path in file.item.images)
        workers = limit_workers(workers, needed, max_memory, "post-processing")
    work = partial(_attempt, steps=recipe.steps, encoding=encoding)
    outcomes = [
        _Outcome(error=outcome.describe()) if isinstance(outcome, WorkerDeath) else outcome
        for outcome in map_in_processes(work, files, task="post-processing", workers=workers, progress=progress)
    ]
    for note in describe_notes({file.item.case: outcome.notes for file, outcome in zip(files, outcomes, strict=True)}):
        logger.warning("%s: %s", inputs, note)
    failures = [
        PredictionFailure(file.item.case, tuple(map(str, file.item.images)), outcome.error)
        for file, outcome in zip(files, outcomes, strict=True)
        if outcome.error
    ]
    write_failures(failures, cases, files[0].target.parent / "failures.json")
    return failures


def _find_maps(inputs: Path) -> dict[str, Path]:
    """Label maps by case."""
    if inputs.is_file():
        return {split_ending(inputs.name)[0]: inputs}
    found = find_label_maps(inputs)
    if not found:
        raise UsageError(f"{inputs}: contains no label maps; give a folder of them, or one file")
    return found


def _attempt(file: OutputFile, steps: Sequence[PostprocessingStep], encoding: LabelEncoding) -> _Outcome:
    try:
        return _Outcome(error="", notes=_postprocess_file(file, steps, encoding))
    except CASE_ERRORS as error:
        return _Outcome(error=str(error) or type(error).__name__)


def _postprocess_file(
    file: OutputFile, steps: Sequence[PostprocessingStep], encoding: LabelEncoding
) -> tuple[str, ...]:
    """Write one label map; returns the notes about its values."""
    (path,) = file.item.images
    if is_dicom_file(path.name):
        raise ImageFileError(
            f"{path}: is a DICOM segmentation, which can be read, but not changed. Predict label maps of another "
            "format: autoseg predict -o FILE.nii.gz"
        )
    volume = read_label_map(path)
    try:
        labels = encode_label_map(volume.array[0], encoding)
    except ValueError as error:
        raise ImageFileError(f"{path}: {error}. Give label maps with the values of the recipe's labels.") from error
    kept = apply_postprocessing(labels, steps, encoding, measurable_spacing(volume.grid))
    write_label_map(decode_label_map(kept, encoding), volume.template, file.target)
    return tuple(note for note in volume.notes if note in VALUE_NOTES)
