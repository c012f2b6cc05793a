"""Held-out cases predicted as new ones would be: with probabilities, at the image's own resolution, one at a time.

Every case is predicted by the networks of the fold that did not see it, and preprocessed again from its files, so that
only plan, weights and dataset are needed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import UsageError
from autoseg.imaging.arrays.cropping import cropped_view
from autoseg.imaging.arrays.labels import foreground_heads
from autoseg.imaging.arrays.preprocessing import normalized_crop
from autoseg.imaging.datasets.cases import CaseVolume, read_case
from autoseg.imaging.formats.volume import Volume, restore_array, voxel_mm3
from autoseg.inference.models.loading import load_with_previous, refuse_other_plans, with_precision
from autoseg.inference.predictor.case_predictor import CasePredictor
from autoseg.inference.refinement.patches import cut_patch, patch_box
from autoseg.inference.refinement.refine import CoarseCase, coarse_case, find_head_surface
from autoseg.inference.restoring.decisions import Thresholds
from autoseg.metrics.annotated import keep_annotated
from autoseg.metrics.case_scores import measure_case
from autoseg.records.case import Triple
from autoseg.records.dataset import CaseFiles, LabelEncoding, label_values
from autoseg.records.evaluation import CaseScores
from autoseg.records.partial_labels import is_looked_for
from autoseg.records.selection import PatchSettings
from autoseg.selection.validation_run import ValidationRun
from autoseg.training.refinement import UNKNOWN, Patches

MAX_GROUPS = 3
"""Groups of cases: each costs a training, and each refiner a pass at prediction."""


@dataclass(frozen=True, kw_only=True)
class HeldOutCases:
    """A model and the cases that its folds held out."""

    run: ValidationRun
    configurations: tuple[str, ...]
    """Names of the configurations whose probabilities are averaged."""
    folds: Mapping[str, Sequence[str]]
    """Cases that each fold held out, by fold."""
    thresholds: Thresholds = field(default_factory=dict)
    """Thresholds of regions; empty: one half for all."""

    def __len__(self) -> int:
        return sum(map(len, self.folds.values()))


@dataclass(frozen=True)
class HeldOutCase:
    """One predicted case; valid until the next one is asked for."""

    case: str
    coarse: CoarseCase
    reference: NDArray[np.int16]
    """Label indices of the reference where `coarse` is, (Z, Y, X)."""
    volume: CaseVolume
    """Image and reference in working orientation."""
    mirror_axes: tuple[int, ...]
    """Spatial axes that training mirrored; 0, 1, 2 are z, y, x."""
    annotated: tuple[str, ...] | None = None
    """Labels that were looked for; None: all."""

    def score(self, encoding: LabelEncoding, tolerance_mm: float) -> CaseScores:
        """Measure the label map as it is now, in the whole image; `tolerance_mm` is that of the surface Dice."""
        if self.volume.labels is None:
            raise ValueError(f"case {self.case} was read without its label map")
        grid = self.volume.grid
        scores = measure_case(
            self.case, self.coarse.volume, self.volume.labels, label_values(encoding), grid.spacing, tolerance_mm,
            voxel_mm3(grid),
        )  # fmt: skip
        return keep_annotated(scores, self.annotated)


def group_cases(folds: Mapping[str, Sequence[str]]) -> tuple[frozenset[str], ...]:
    """Divide held-out cases, so that a refiner can be tested on cases that it did not see.

    Several folds are distributed over at most three groups, so that cases which a split keeps together stay together; a
    single fold is cut into two halves by name, because cases of one patient often have adjacent names.

    Args:
        folds: Cases by fold.

    Returns:
        Disjoint groups that together hold all cases; fewer than two if there are not enough cases.
    """
    held_out = [sorted(cases) for _, cases in sorted(folds.items()) if cases]
    if len(held_out) == 1:
        half = len(held_out[0]) // 2
        held_out = [held_out[0][:half], held_out[0][half:]]
    owners: dict[str, int] = {}
    for number, cases in enumerate(held_out):  # a case that two folds validated belongs to the first one's group
        for case in cases:
            owners.setdefault(case, number % MAX_GROUPS)
    groups = (frozenset(case for case, owner in owners.items() if owner == group) for group in range(MAX_GROUPS))
    return tuple(group for group in groups if group)


def predict_held_out(cases: HeldOutCases) -> Iterator[HeldOutCase]:
    """Predict all cases, fold by fold; only the networks of one fold are in memory at a time.

    Raises:
        UsageError: If dataset.json has no label map of a case.
        PredictionError: If a fold's weights are missing or damaged.
        ImageFileError: If a file cannot be read.
    """
    files_by_case = {files.case: files for files in cases.run.dataset.cases}
    for fold, names in cases.folds.items():
        predictor = load_fold(cases, fold)
        first = predictor.members[0]
        offset = 3 - first.configuration.network.dimensions
        axes = tuple(offset + axis for axis in first.mirror_axes)
        for case in names:
            files = files_by_case.get(case)
            if files is None or not files.label:
                raise UsageError(
                    f"{cases.run.workspace.dataset}: has no label map of case {case}, which belongs to fold "
                    f"{fold}; plan the dataset again with its reference label maps"
                )
            yield from _predict_case(predictor, files, cases, axes)


def cut_patches(held_out: HeldOutCase, encoding: LabelEncoding, settings: PatchSettings, max_count: int) -> Patches:
    """Cut patches along the predicted surface of every label or region that was looked for.

    Args:
        held_out: The case.
        encoding: Labels and regions of the plan.
        settings: Size of patches, and the distance between their centres.
        max_count: Largest number of patches; if there would be more, those of each structure are thinned out evenly.
    """
    coarse, size = held_out.coarse, settings.size
    found = []
    for number, head in foreground_heads(encoding):
        if not is_looked_for(head.part_of or head.name, held_out.annotated):
            continue
        surface = find_head_surface(coarse.labels, head, size, settings.training_distance)
        if surface is not None:
            found.append((number, head, *surface))
    step = max(1, -(-sum(len(centres) for *_, centres in found) // max_count))
    count = sum(len(centres[::step]) for *_, centres in found)
    patches = Patches(
        np.empty((count, len(coarse.image), *size), dtype=np.float16),
        np.empty((count, *size), dtype=np.float16),
        np.empty((count, *size), dtype=np.uint8),
    )
    index, ignored = 0, len(encoding.values)
    for number, head, box, centres in found:
        image, probability = coarse.image[:, *box], coarse.probabilities[(number, *box)]
        reference = held_out.reference[box]
        known = np.where(reference == ignored, UNKNOWN, np.isin(reference, head.indices)).astype(np.uint8)
        for centre in centres[::step]:
            patches.images[index] = cut_patch(image, centre, size)
            patches.coarse[index] = cut_patch(probability, centre, size)
            patches.targets[index] = _cut_target(known, centre, size)
            index += 1
    return patches


def load_fold(cases: HeldOutCases, fold: str) -> CasePredictor:
    """Load the networks of a fold; thresholds, decision and post-processing are left out."""
    run = cases.run
    loaded = [
        load_with_previous(run.workspace, run.plan, name, [fold], "final", run.device) for name in cases.configurations
    ]
    refuse_other_plans(run.workspace, loaded)
    members = tuple(
        replace(
            with_precision(member, run.precision, run.device, run.plan.encoding),
            weight=run.member_weights.get(member.name),
        )
        for member in loaded
    )
    return CasePredictor(plan=run.plan, members=members, memory_log_level=logging.DEBUG)


def _predict_case(
    predictor: CasePredictor, files: CaseFiles, cases: HeldOutCases, axes: tuple[int, ...]
) -> Iterator[HeldOutCase]:
    run = cases.run
    encoding = run.plan.encoding
    volume = read_case(run.dataset_folder, files, encoding, run.plan.orientation)
    if volume.labels is None:
        raise ValueError(f"case {files.case} was read without its label map")
    stored = Volume(restore_array(volume.image, volume.orientation), volume.template.grid, volume.template)
    prepared = predictor.prepare(stored, case=files.case)
    member = predictor.members[0]
    record = prepared.records[member.name]
    image = normalized_crop(volume.image, record, member.configuration.normalization)
    reference = cropped_view(volume.labels, record)
    with (
        predictor.open_streams(prepared) as streams,
        coarse_case(streams, image, encoding, (), cases.thresholds) as coarse,
    ):
        yield HeldOutCase(files.case, coarse, reference, volume, axes, files.annotated)


def _cut_target(target: NDArray[np.uint8], centre: Triple, size: Triple) -> NDArray[np.uint8]:
    """Cut a patch; UNKNOWN beyond the border."""
    patch = np.full(size, UNKNOWN, dtype=np.uint8)
    inside, own = patch_box(centre, size, (target.shape[0], target.shape[1], target.shape[2]))
    patch[own] = target[inside]
    return patch
