"""Held-out cases as the model predicts new ones: with probabilities, at the image's own resolution, one at a time.

Every case is predicted by the networks of the fold that did not see it, and preprocessed anew from its files, so that
nothing but plan, weights and dataset is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.imaging.case_reading import CaseVolume, read_case
from autoseg.imaging.cropping import box_slices
from autoseg.imaging.geometry import restore_array
from autoseg.imaging.volume import Volume
from autoseg.inference.boundary_refinement import CoarseCase, coarse_case
from autoseg.inference.model_loading import load_with_previous
from autoseg.records.dataset import CaseFiles
from autoseg.records.plan import Plan
from autoseg.records.workspace import Workspace
from autoseg.stages.predict_case import CasePredictor
from autoseg.stages.preprocess import normalized_crop


@dataclass(frozen=True, kw_only=True)
class HeldOutCases:
    """What predicts, and the cases."""

    workspace: Workspace
    plan: Plan
    configurations: tuple[str, ...]
    """Whose probabilities are averaged."""
    folds: Mapping[str, Sequence[str]]
    """Fold -> cases that it held out."""
    files: Mapping[str, CaseFiles]
    """By case."""
    dataset_folder: Path
    device: torch.device

    def __len__(self) -> int:
        return sum(map(len, self.folds.values()))


@dataclass(frozen=True)
class HeldOutCase:
    """One case; it lasts until the next one."""

    case: str
    coarse: CoarseCase
    truth: NDArray[np.int16]
    """(Z, Y, X), label indices where `coarse` is."""
    volume: CaseVolume
    """Image and truth, working orientation."""
    mirror_axes: tuple[int, ...]
    """Spatial axes (z, y, x) that training mirrored."""


def predict_held_out(cases: HeldOutCases) -> Iterator[HeldOutCase]:
    """Predict all cases, fold by fold; networks of one fold are in memory at a time.

    Raises:
        UsageError: If dataset.json has no label map of a case.
        PredictionError: If a fold's weights are missing or damaged.
        ImageFileError: If a file cannot be read.
    """
    for fold, names in cases.folds.items():
        predictor = _load_fold(cases, fold)
        first = predictor.members[0]
        offset = 3 - first.configuration.network.dimensions
        axes = tuple(offset + axis for axis in first.mirror_axes)
        for case in names:
            files = cases.files.get(case)
            if files is None or not files.label:
                raise UsageError(f"{cases.workspace.dataset}: has no label map of case {case}, which fold {fold} has")
            yield from _predict_case(predictor, files, cases, axes)


def _load_fold(cases: HeldOutCases, fold: str) -> CasePredictor:
    members = tuple(
        load_with_previous(cases.workspace, cases.plan, name, [fold], "final", cases.device)
        for name in cases.configurations
    )
    return CasePredictor(
        plan=cases.plan, members=members, postprocessing=(), device=cases.device, dtype=torch.float32,
        mirroring=True, overlap=0.5, max_memory=None,
    )  # fmt: skip


def _predict_case(
    predictor: CasePredictor, files: CaseFiles, cases: HeldOutCases, axes: tuple[int, ...]
) -> Iterator[HeldOutCase]:
    encoding = cases.plan.encoding
    volume = read_case(cases.dataset_folder, files, encoding, cases.plan.orientation)
    if volume.labels is None:
        raise ValueError(f"case {files.case} was read without its label map")
    stored = Volume(restore_array(volume.image, volume.orientation), volume.template.grid, volume.template)
    prepared = predictor.prepare(stored, case=files.case, overwrite=False, read_seconds=0.0)
    member = predictor.members[0]
    record = prepared.inputs[member.name][1]
    image = normalized_crop(volume.image, record, member.configuration.normalization)
    truth = volume.labels.transpose(record.transpose)[box_slices((record.crop_start, record.crop_stop))]
    with coarse_case(predictor.answers(prepared), image, encoding) as coarse:
        yield HeldOutCase(files.case, coarse, truth, volume, axes)
