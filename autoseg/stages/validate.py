"""Predict a trained fold's validation cases as whole volumes, on their own grids, and score them.

Called at the end of a fold's training: these are the figures that `select` and the report rest on. In a cascade the
first stage's folds also leave label maps for the second stage, see `inference.models.cascade_maps`.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.costs.windows import count_windows
from autoseg.errors import DatasetError
from autoseg.imaging.arrays.labels import encode_label_map
from autoseg.imaging.datasets.cases import choose_orientation, read_case
from autoseg.imaging.datasets.labels.label_parts import read_reference
from autoseg.imaging.formats.volume import orient_array, voxel_mm3
from autoseg.imaging.formats.writing import label_map_ending
from autoseg.inference.models.cascade_maps import NextStepMaps, load_previous, next_step_maps
from autoseg.inference.models.case_logits import stream_stored_case
from autoseg.inference.models.loading import LoadedConfiguration, load_configuration, refuse_other_plans, with_precision
from autoseg.inference.predictor.instance_maps import finds_instances
from autoseg.inference.restoring.restore import LabelIndices, ProbabilitySink, restore_with_grids
from autoseg.inference.sinks.calibration import CalibrationCounter
from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.summary import summarize
from autoseg.networks.build import build_network
from autoseg.networks.layout import place_network
from autoseg.networks.weight_files import read_weights_hash
from autoseg.progress import Progress, no_progress
from autoseg.records.dataset import CaseFiles, foreground_names
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import hash_file, read_record, write_record
from autoseg.records.validated_case import ValidatedCase
from autoseg.records.workspace import CALIBRATION_NAME, EVALUATION_NAME
from autoseg.stages.validate_instances import evaluate_fold_instances, find_case_instances, write_case_instances
from autoseg.training.folds.fold import Fold
from autoseg.training.transfer import WEIGHTS


def validate_fold(fold: Fold, progress: Progress = no_progress) -> Evaluation:
    """Predict every validation case with the final weights, write the label maps, score them on their own grid.

    Writes `validation/<case><ending>`, `validation/calibration.json` and, last, `validation/evaluation.json` in the
    fold's folder; where networks find instances one by one, also their maps, `instances.csv` and
    `instance_evaluation.json`; for each cascade that builds on this configuration also
    `next_stage/<cascade>/<case>.b2nd`. Cases that an interrupted validation with the same weights has finished are not
    predicted again.

    Args:
        fold: With at least one validation case and final weights.
        progress: Called after every case.

    Raises:
        TrainingError: If this is a cascade and label maps of its previous stage are missing or outdated.
    """
    workspace, plan, name, cases = fold.workspace, fold.plan, fold.configuration_name, fold.split.validation
    loaded = load_configuration(workspace, plan, name, [fold.fold_name], "final", fold.device)
    refuse_other_plans(workspace, [loaded])
    threads = fold.options.threads or "auto"
    loaded = with_precision(loaded, fold.options.precision, fold.device, plan.encoding, threads)
    is_cascade = loaded.configuration.previous_configuration is not None
    previous = load_previous(workspace, plan, name, cases) if is_cascade else {}
    by_case = {files.case: files for files in fold.dataset.cases}
    weights_hash = read_weights_hash(fold.folder / WEIGHTS)
    origin = f"{weights_hash or hash_file(fold.folder / WEIGHTS)} {fold.options.precision}"
    scores, counter = [], CalibrationCounter(plan.encoding)
    for number, case in enumerate(cases, start=1):
        validated = _find_validated(fold, case, origin)
        if validated is None:
            labels = previous[case][:] if is_cascade else None
            validated = _validate_case(fold, loaded, by_case[case], labels, origin)
            write_record(validated, _finished_path(fold, case))
        scores.append(validated.scores)
        counter.add_counts(validated.calibration)
        progress(number, len(cases))
    summary = summarize(scores, foreground_names(plan.encoding))
    evaluation = summary.model_copy(update={"weights_hash": weights_hash})
    if finds_instances(plan):
        evaluate_fold_instances(fold)
    write_record(counter.counts(), fold.validation_folder / CALIBRATION_NAME)
    write_record(evaluation, fold.validation_folder / EVALUATION_NAME)
    for case in cases:
        _finished_path(fold, case).unlink(missing_ok=True)
    return evaluation


def _finished_path(fold: Fold, case: str) -> Path:
    """Hidden file about a finished case, beside its label map; it is there until all cases are finished."""
    return fold.validation_folder / f".{case}.json"


def _map_path(fold: Fold, case: str) -> Path:
    return fold.validation_folder / f"{case}{label_map_ending(fold.dataset.file_ending)}"


def _find_validated(fold: Fold, case: str, origin: str) -> ValidatedCase | None:
    """What an interrupted validation with these weights has found about a case; None if it is to be predicted."""
    path = _finished_path(fold, case)
    if not path.exists() or not _map_path(fold, case).exists():
        return None
    found = read_record(ValidatedCase, path)
    is_usable = found.origin == origin and not any(stage.find_fault(case) for stage in _next_step_maps(fold))
    return found if is_usable else None


def is_validated(fold: Fold) -> bool:
    """Whether all validation cases of a fold are scored; a fold without any has nothing to score."""
    return not fold.split.validation or (fold.validation_folder / EVALUATION_NAME).exists()


def lacks_next_step_maps(fold: Fold) -> bool:
    """Whether a cascade needs label maps of this fold that are missing or outdated; `validate_fold` writes them."""
    return any(stage.find_fault(case) for stage in _next_step_maps(fold) for case in fold.split.validation)


def _next_step_maps(fold: Fold) -> tuple[NextStepMaps, ...]:
    return next_step_maps(fold.workspace, fold.plan, fold.configuration_name, fold.fold_name)


def estimate_validation_seconds(fold: Fold) -> float:
    """Seconds of `validate_fold`: one case with an untrained network, times windows of all by windows of it.

    Args:
        fold: Needs no weights yet, and a cascade no label maps; mirrored as its schedule says.
    """
    if not fold.split.validation:
        return 0.0
    configuration = fold.configuration
    network = build_network(configuration.network, deep_supervision=False)
    network = place_network(network, configuration.network, fold.device).eval()
    axes = configuration.training.mirror_axes
    untrained = LoadedConfiguration(fold.configuration_name, configuration, (), (network,), axes)
    threads = fold.options.threads or "auto"
    untrained = with_precision(untrained, fold.options.precision, fold.device, fold.plan.encoding, threads)
    shapes = [fold.open_case(case).record.shape for case in fold.split.validation]
    windows = [count_windows(shape, configuration.patch_size) for shape in shapes]
    previous = None if configuration.previous_configuration is None else np.zeros(shapes[0], dtype=np.int16)
    seconds = 0.0
    for _ in range(2):  # the first call also pays for kernels being set up
        began = time.monotonic()
        if finds_instances(fold.plan):
            find_case_instances(fold, untrained, fold.split.validation[0])
        else:
            _label_maps(fold, untrained, fold.split.validation[0], previous)
        seconds = time.monotonic() - began
    return seconds * sum(windows) / windows[0]


def _validate_case(
    fold: Fold,
    loaded: LoadedConfiguration,
    files: CaseFiles,
    previous: NDArray[np.int16] | None,
    origin: str,
) -> ValidatedCase:
    dataset, plan = fold.workspace.dataset_folder(fold.dataset.folder), fold.plan
    reference = read_reference(dataset, files, plan.encoding)
    orientation = choose_orientation(reference.grid, plan.orientation)
    indices = orient_array(encode_label_map(reference.array[0], plan.encoding), orientation)
    _check_shape(fold, files, indices.shape)
    counter = CalibrationCounter(plan.encoding)
    if finds_instances(plan):
        found = find_case_instances(fold, loaded, files.case)
        original = read_case(dataset, files, plan.encoding, plan.orientation)
        own = write_case_instances(fold, found, original, files.case)
    else:
        own, next_maps = _label_maps(fold, loaded, files.case, previous, [counter.case_sink(indices, files.annotated)])
        for stage, labels in zip(_next_step_maps(fold), next_maps, strict=True):
            stage.write(stage.grid(files.case), labels)
        original = read_case(dataset, files, plan.encoding, plan.orientation)
    values = original.write_labels(own, plan.encoding, _map_path(fold, files.case))
    grid = original.template.grid
    scores = measure_case(files.case, values, reference.array[0], plan.labels, grid.spacing, voxel_mm3=voxel_mm3(grid))
    scores = keep_annotated(scores, files.annotated)
    return ValidatedCase(origin=origin, scores=scores, calibration=counter.counts())


def _check_shape(fold: Fold, files: CaseFiles, shape: tuple[int, ...]) -> None:
    """Refuse a label map, of this shape in working orientation, that is not that of the preprocessed image."""
    found = tuple(shape[axis] for axis in fold.plan.transpose)
    expected = fold.open_case(files.case).record.original_shape
    if found != expected:
        raise DatasetError(
            f"{fold.workspace.dataset_folder(fold.dataset.folder) / files.label}: has {found} voxels, and the image of "
            f"case {files.case} had {expected} when it was preprocessed. Put the earlier files back, or run "
            "autoseg-plan again with the same workspace, and then this command."
        )


def _label_maps(
    fold: Fold,
    loaded: LoadedConfiguration,
    case_id: str,
    previous: NDArray[np.int16] | None,
    sinks: Sequence[ProbabilitySink] = (),
) -> tuple[LabelIndices, tuple[LabelIndices, ...]]:
    """Label indices of one case, in working orientation, and on the grid of every cascade that builds on it.

    Both come from one pass of the network; a cascade's own second stage gets its previous stage's label indices.
    """
    stored = fold.open_case(case_id)
    logits = stream_stored_case(loaded, stored, previous)
    grids = [stage.grid(case_id) for stage in _next_step_maps(fold)]
    return restore_with_grids(logits, grids, fold.plan.encoding, sinks)
