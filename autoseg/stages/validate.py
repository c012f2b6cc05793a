"""Predict a trained fold's validation cases as whole volumes, on their own grids, and score them.

Called at the end of a fold's training: these are the figures that `select` and the report rest on. In a cascade the
first stage's folds also leave label maps for the second stage, see `inference.models.cascade_maps`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.costs.windows import count_windows
from autoseg.imaging.arrays.labels import decode_label_map, encode_label_map
from autoseg.imaging.arrays.storage import StoredCase, open_case
from autoseg.imaging.datasets.case_reading import choose_orientation, read_case
from autoseg.imaging.formats.geometry import orient_array, restore_array
from autoseg.imaging.formats.reading import read_label_map
from autoseg.imaging.formats.writing import label_map_ending, write_label_map
from autoseg.inference.models.cascade_maps import NextStage, load_previous, next_stages
from autoseg.inference.models.loading import LoadedConfiguration, load_configuration, with_precision
from autoseg.inference.models.stream import stream_case_logits
from autoseg.inference.restoring.restore import CaseLogits, LabelIndices, ProbabilitySink, restore_with_grids
from autoseg.inference.sinks.calibration import CalibrationCounter
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.summary import summarize
from autoseg.networks.build import build_network
from autoseg.records.dataset import CaseFiles, DatasetDescription, indices_by_label
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import Progress, write_record
from autoseg.records.plan import Configuration, Plan
from autoseg.records.workspace import Workspace

CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A fold's validation cases and what predicts them."""

    workspace: Workspace
    dataset: DatasetDescription
    plan: Plan
    configuration: str
    fold: str
    cases: tuple[str, ...]
    device: torch.device
    precision: str
    """auto, fp32, bf16 or fp16; the same rule as prediction, see `inference.models.loading.with_precision`."""

    @property
    def _configuration(self) -> Configuration:
        return self.plan.configurations[self.configuration]

    @property
    def _next_stages(self) -> tuple[NextStage, ...]:
        return next_stages(self.workspace, self.plan, self.configuration, self.fold)

    def _open(self, case: str) -> StoredCase:
        return open_case(self.workspace.preprocessed(self._configuration.preprocessed_as), case)


def validate_fold(validation: Validation, progress: Progress | None = None) -> Evaluation:
    """Predict every validation case with the final weights, write the label maps, score them on their own grid.

    Writes `validation/<case><ending>`, `validation/calibration.json` and, last, `validation/evaluation.json` in the
    fold's folder; for each cascade that builds on this configuration also `next_stage/<cascade>/<case>.b2nd`.

    Args:
        validation: At least one case; the fold has final weights.
        progress: Called after every case.

    Raises:
        TrainingError: If this is a cascade and label maps of its previous stage are missing or outdated.
    """
    workspace, plan, name = validation.workspace, validation.plan, validation.configuration
    loaded = load_configuration(workspace, plan, name, [validation.fold], "final", validation.device)
    loaded = with_precision(loaded, validation.precision, validation.device, plan.encoding)
    is_cascade = loaded.configuration.previous_configuration is not None
    previous = load_previous(workspace, plan, name, validation.cases) if is_cascade else {}
    folder = workspace.fold(name, validation.fold) / "validation"
    by_case = {files.case: files for files in validation.dataset.cases}
    scores, counter = [], CalibrationCounter(plan.encoding)
    for number, case in enumerate(validation.cases, start=1):
        labels = previous[case][:] if is_cascade else None
        scores.append(_validate_case(validation, loaded, by_case[case], labels, folder, counter))
        if progress is not None:
            progress(number, len(validation.cases))
    evaluation = summarize(
        scores, [name for name, indices in indices_by_label(plan.encoding).items() if indices != (0,)]
    )
    write_record(counter.counts(), folder / CALIBRATION_FILE)
    write_record(evaluation, folder / "evaluation.json")
    return evaluation


def lacks_next_stage(validation: Validation) -> bool:
    """Whether a cascade needs label maps of this fold that are missing or outdated; `validate_fold` writes them."""
    return any(stage.find_fault(case) for stage in validation._next_stages for case in validation.cases)


def estimate_validation_seconds(validation: Validation, mirror_axes: tuple[int, ...] | None = None) -> float:
    """Seconds of `validate_fold`: one case with an untrained network, times windows of all by windows of it.

    Args:
        validation: The fold needs no weights yet, and a cascade no label maps.
        mirror_axes: Of the training to come; None: as planned.
    """
    if not validation.cases:
        return 0.0
    name, configuration = validation.configuration, validation._configuration
    axes = configuration.training.mirror_axes if mirror_axes is None else mirror_axes
    network = build_network(configuration.network, deep_supervision=False).to(validation.device).eval()
    untrained = LoadedConfiguration(name, configuration, (), (network,), axes)
    untrained = with_precision(untrained, validation.precision, validation.device, validation.plan.encoding)
    shapes = [validation._open(case).record.shape for case in validation.cases]
    windows = [count_windows(shape, configuration.patch_size) for shape in shapes]
    previous = None if configuration.previous_configuration is None else np.zeros(shapes[0], dtype=np.int16)
    seconds = 0.0
    for _ in range(2):  # the first call also pays for kernels being set up
        began = time.monotonic()
        _label_maps(validation, untrained, validation.cases[0], previous)
        seconds = time.monotonic() - began
    return seconds * sum(windows) / windows[0]


def _validate_case(
    validation: Validation,
    loaded: LoadedConfiguration,
    files: CaseFiles,
    previous: NDArray[np.int16] | None,
    folder: Path,
    counter: CalibrationCounter,
) -> CaseScores:
    dataset, plan = validation.workspace.dataset_folder(validation.dataset.folder), validation.plan
    reference = read_label_map(dataset / files.label)
    orientation = choose_orientation(reference.grid, plan.orientation)
    truth = orient_array(encode_label_map(reference.array[0], plan.encoding), orientation)
    own, next_maps = _label_maps(validation, loaded, files.case, previous, [partial(counter.add, truth)])
    del truth
    for stage, labels in zip(validation._next_stages, next_maps, strict=True):
        stage.write(stage.grid(files.case), labels)
    original = read_case(dataset, files, plan.encoding, plan.orientation)
    values = decode_label_map(restore_array(own, original.orientation), plan.encoding)
    path = folder / f"{files.case}{label_map_ending(validation.dataset.file_ending)}"
    write_label_map(values, original.template, path)
    return measure_case(files.case, values, reference.array[0], plan.labels, original.template.grid.spacing)


def _label_maps(
    validation: Validation,
    loaded: LoadedConfiguration,
    case: str,
    previous: NDArray[np.int16] | None,
    sinks: Sequence[ProbabilitySink] = (),
) -> tuple[LabelIndices, tuple[LabelIndices, ...]]:
    """Label indices of one case, in working orientation, and on the grid of every cascade that builds on it.

    Both come from one pass of the network; a cascade's own second stage gets its previous stage's label indices.
    """
    stored = validation._open(case)
    image = stored.array[: len(validation.plan.channel_names)]
    slices = stream_case_logits(loaded, image, previous)
    answer = CaseLogits(slices, stored.record, loaded.configuration.resampling)
    grids = [stage.grid(case) for stage in validation._next_stages]
    return restore_with_grids(answer, grids, validation.plan.encoding, sinks)
