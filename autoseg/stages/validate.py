"""Predict a trained fold's validation cases as whole volumes, on their own grids, and score them.

Called at the end of a fold's training: these are the figures that `select` and the report rest on.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoseg.imaging.case_reading import read_case
from autoseg.imaging.geometry import restore_array
from autoseg.imaging.labels import decode_label_map
from autoseg.imaging.reading import read_label_map
from autoseg.imaging.storage import open_case
from autoseg.imaging.writing import label_map_ending, write_label_map
from autoseg.inference.case import predict_preprocessed
from autoseg.inference.model_loading import load_configuration
from autoseg.inference.sliding_window import count_windows
from autoseg.metrics.overlap import score_case
from autoseg.metrics.summary import summarize
from autoseg.networks.build import build_network
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.evaluation import CaseScores, Evaluation
from autoseg.records.files import Progress, write_record
from autoseg.records.plan import Configuration, Plan
from autoseg.records.workspace import Workspace


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
    dtype: torch.dtype
    """Of autocast; float32: none."""

    @property
    def _configuration(self) -> Configuration:
        return self.plan.configurations[self.configuration]

    @property
    def _preprocessed(self) -> Path:
        return self.workspace.preprocessed(self._configuration.preprocessed_as)


def validate_fold(validation: Validation, progress: Progress | None = None) -> Evaluation:
    """Predict every validation case with the final weights, write the label maps, score them on their own grid.

    Writes `validation/<case><ending>` and `validation/evaluation.json` in the fold's folder.

    Args:
        validation: At least one case; the fold has final weights.
        progress: Called after every case.
    """
    loaded = load_configuration(
        validation.workspace, validation.plan, validation.configuration, [validation.fold], "final", validation.device
    )
    folder = validation.workspace.fold(validation.configuration, validation.fold) / "validation"
    by_case = {files.case: files for files in validation.dataset.cases}
    scores = []
    for number, case in enumerate(validation.cases, start=1):
        scores.append(_validate_case(validation, loaded.networks[0], by_case[case], folder))
        if progress is not None:
            progress(number, len(validation.cases))
    names = [head.name for head in validation.plan.encoding.heads if head.indices != (0,)]
    evaluation = summarize(scores, names)
    write_record(evaluation, folder / "evaluation.json")
    return evaluation


def estimate_validation_seconds(validation: Validation) -> float:
    """Seconds of `validate_fold`: one case with an untrained network, times windows of all by windows of it."""
    if not validation.cases:
        return 0.0
    configuration = validation._configuration
    network = build_network(configuration.network, deep_supervision=False).to(validation.device).eval()
    shapes = [open_case(validation._preprocessed, case).record.shape for case in validation.cases]
    windows = [count_windows(shape, configuration.patch_size) for shape in shapes]
    seconds = 0.0
    for _ in range(2):  # the first call also pays for kernels being set up
        began = time.monotonic()
        _predict(validation, network, validation.cases[0])
        seconds = time.monotonic() - began
    return seconds * sum(windows) / windows[0]


def _validate_case(validation: Validation, network: nn.Module, files: CaseFiles, folder: Path) -> CaseScores:
    dataset = validation.workspace.dataset_folder(validation.dataset.folder)
    plan = validation.plan
    original = read_case(dataset, files, plan.encoding, plan.orientation)
    indices = restore_array(_predict(validation, network, files.case), original.orientation)
    labels = decode_label_map(indices, plan.encoding)
    path = folder / f"{files.case}{label_map_ending(validation.dataset.file_ending)}"
    write_label_map(labels, original.template, path)
    reference = read_label_map(dataset / files.label).array[0]
    return score_case(files.case, labels, reference, plan.labels)


def _predict(validation: Validation, network: nn.Module, case: str) -> NDArray[np.int16]:
    stored = open_case(validation._preprocessed, case)
    image = stored.array[: len(validation.plan.channel_names)]
    return predict_preprocessed(
        [network], image, stored.record, validation.plan, validation.configuration,
        device=validation.device, dtype=validation.dtype,
    )  # fmt: skip
