"""Train networks that predict the surroundings of surfaces again, and test by cross-validation whether they help.

    held-out cases --networks of the fold that did not see them--> probabilities --> patches --> one refiner per group
    held-out cases --the same--> probabilities --refiner that did not see their group--> label maps --> scores

Probabilities are computed twice instead of being stored.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.errors import RecordError
from autoseg.imaging.arrays.labels import decode_label_map
from autoseg.imaging.formats.geometry import restore_array
from autoseg.imaging.formats.writing import label_map_ending, write_label_map
from autoseg.inference.models.loading import stages_of
from autoseg.inference.refinement.loading import hash_file, load_refiner, refiner_path
from autoseg.inference.refinement.patches import plan_patches, plan_refiner
from autoseg.inference.refinement.refine import LoadedRefiners, refine_labels
from autoseg.inference.restoring.decisions import ONE_HALF, Thresholds
from autoseg.metrics.case_scores import measure_case
from autoseg.metrics.overlap import IGNORE
from autoseg.networks.devices import choose_device
from autoseg.records.case import Triple
from autoseg.records.dataset import DatasetDescription, LabelEncoding, LabelValues, indices_by_label
from autoseg.records.evaluation import CaseScores
from autoseg.records.files import Progress, read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.network import NetworkSpec
from autoseg.records.plan import Plan
from autoseg.records.refinement import PatchSettings, Refinement, Refiner
from autoseg.records.workspace import Workspace
from autoseg.selection.case_maps import CaseMapFiles, foreground_names
from autoseg.selection.held_out import HeldOutCase, HeldOutCases, cut_patches, group_cases, predict_held_out
from autoseg.selection.verdicts import RefinementVerdict, judge_refinement
from autoseg.training.refinement import MAX_STEPS, Patches, join_patches, save_refiner, train_refiner

PATCH_BYTES = 2**29
"""Largest memory of all patches together, unless MIN_PATCHES of each case need more."""
MIN_PATCHES = 4
SETTINGS_VERSION = 1
"""Part of the hash of a refiner's inputs; raise it when the same settings begin to give other weights."""


@dataclass(frozen=True, kw_only=True)
class RefinementOptions:
    """How refiners are trained."""

    seconds: float = 60.0
    """Wall-clock time of each refiner's training."""
    max_steps: int = MAX_STEPS
    """Training ends after this many steps if the time is not over before."""
    device: str = "auto"
    precision: str = "auto"
    """Precision of the predictions to be refined; the same rule as prediction."""


@dataclass(frozen=True)
class RefinementOutcome:
    """Result of a refinement, with the reasons."""

    refinement: Refinement | None
    """Refiners that help; None: they do not, or could not be trained."""
    maps: tuple[CaseMapFiles, ...]
    """Refined label maps of all held-out cases; empty without refinement."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Task:
    cases: HeldOutCases
    groups: tuple[frozenset[str], ...]
    """Refiner i is trained on all cases but those of group i."""
    patches: PatchSettings
    network: NetworkSpec
    options: RefinementOptions
    tolerance_mm: float
    ending: str
    """Ending of label map files."""

    @property
    def encoding(self) -> LabelEncoding:
        return self.cases.plan.encoding


def refine_model(
    workspace: Workspace,
    dataset_folder: Path | None,
    configurations: tuple[str, ...],
    folds: Mapping[str, Sequence[str]],
    options: RefinementOptions,
    *,
    thresholds: Thresholds = ONE_HALF,
    progress: Progress | None = None,
) -> RefinementOutcome:
    """Train refiners on out-of-fold predictions, and test them on cases that they did not see.

    Refiners that an earlier call trained on the same inputs are not trained again. selection.json is not written.

    Args:
        workspace: Workspace with plan, dataset, fingerprint and the trained folds.
        dataset_folder: Folder of images and label maps; None: the one that dataset.json names.
        configurations: Names of the configurations whose probabilities are averaged.
        folds: Cases that each fold held out, by fold; the folds are trained in every configuration.
        options: Time and steps of the training, device and precision.
        thresholds: Thresholds of regions; empty: one half for all.
        progress: Called after each case, twice for all of them.

    Raises:
        PredictionError: If a fold's weights are missing or damaged.
        ImageFileError: If an image or a label map cannot be read.

    References:
        Tang et al. 2021, boundary patch refinement (BPR). Differs: refiners are trained on out-of-fold
        predictions, and accepted only by scores of cases that they were not trained on.
    """
    groups = group_cases(folds)
    if len(groups) < 2:
        return RefinementOutcome(
            None, (), ("Boundary refinement: not tried, at least two validated cases are needed.",)
        )
    task = _make_task(workspace, dataset_folder, configurations, folds, groups, options, thresholds)
    refiners = _train_refiners(task, progress)
    if not refiners:
        return RefinementOutcome(None, (), ("Boundary refinement: not tried, the held-out predictions are empty.",))
    maps, verdict = _judge_refiners(task, progress)
    reason = _describe_verdict(task, refiners, verdict)
    if not verdict.is_accepted:
        return RefinementOutcome(None, (), (reason,))
    refinement = Refinement(
        patches=task.patches,
        network=task.network,
        refiners=tuple(refiner.weights_hash for refiner in refiners),
        tolerance_mm=task.tolerance_mm,
        before=verdict.before,
        after=verdict.after,
    )
    return RefinementOutcome(refinement, maps, (reason,))


def _make_task(
    workspace: Workspace,
    dataset_folder: Path | None,
    configurations: tuple[str, ...],
    folds: Mapping[str, Sequence[str]],
    groups: tuple[frozenset[str], ...],
    options: RefinementOptions,
    thresholds: Thresholds,
) -> _Task:
    """Plan patches for the training images; the tolerance of the surface Dice is their median smallest spacing."""
    plan, description = read_record(Plan, workspace.plan), read_record(DatasetDescription, workspace.dataset)
    fingerprint = read_record(Fingerprint, workspace.fingerprint)
    patches = _plan_patches(fingerprint, plan.transpose)
    cases = HeldOutCases(
        workspace=workspace, plan=plan, configurations=configurations, folds=folds,
        dataset_folder=dataset_folder or workspace.dataset_folder(description.folder),
        files={files.case: files for files in description.cases}, device=choose_device(options.device),
        precision=options.precision, thresholds=thresholds,
    )  # fmt: skip
    return _Task(
        cases=cases, groups=groups, patches=patches, network=plan_refiner(patches, len(plan.channel_names)),
        options=options, ending=label_map_ending(description.file_ending),
        tolerance_mm=float(np.median([min(case.spacing) for case in fingerprint.cases])),
    )  # fmt: skip


def _plan_patches(fingerprint: Fingerprint, transpose: Triple) -> PatchSettings:
    z, y, x = transpose
    return plan_patches(
        [(case.shape[z], case.shape[y], case.shape[x]) for case in fingerprint.cases],
        [(case.spacing[z], case.spacing[y], case.spacing[x]) for case in fingerprint.cases],
    )


def _train_refiners(task: _Task, progress: Progress | None) -> list[Refiner]:
    """Train one refiner per group that has no stored one; empty when there is no predicted surface to learn from."""
    hashes = [_hash_inputs(task, index) for index in range(len(task.groups))]
    stored = [_read_refiner(task.cases.workspace, index, expected) for index, expected in enumerate(hashes)]
    known = [refiner for refiner in stored if refiner is not None]
    if len(known) == len(hashes):
        return known
    bytes_per_patch = int(np.prod(task.patches.size)) * (2 * task.network.input_channels + 1)
    max_count = max(MIN_PATCHES, PATCH_BYTES // (bytes_per_patch * len(task.cases)))
    by_case: dict[str, Patches] = {}
    axes: tuple[int, ...] = ()
    for held_out in predict_held_out(task.cases):
        by_case[held_out.case] = cut_patches(held_out, task.encoding, task.patches, max_count)
        axes = held_out.mirror_axes
        if progress is not None:
            progress(len(by_case), 2 * len(task.cases))
    learnt_from = [[by_case[case] for case in sorted(by_case.keys() - group)] for group in task.groups]
    if not all(sum(map(len, patches)) for patches in learnt_from):
        return []
    return [
        refiner or _train_refiner(task, index, hashes[index], patches, axes)
        for index, (refiner, patches) in enumerate(zip(stored, learnt_from, strict=True))
    ]


def _train_refiner(
    task: _Task, index: int, inputs_hash: str, by_case: Sequence[Patches], axes: tuple[int, ...]
) -> Refiner:
    patches, options = join_patches(by_case), task.options
    trained = train_refiner(
        patches, task.network, seconds=options.seconds, device=task.cases.device, seed=index,
        mirror_axes=axes, max_steps=options.max_steps,
    )  # fmt: skip
    path = refiner_path(task.cases.workspace, index)
    save_refiner(trained.network, path.with_suffix(".safetensors"))
    refiner = Refiner(
        inputs_hash=inputs_hash,
        weights_hash=hash_file(path.with_suffix(".safetensors")),
        num_cases=len(by_case),
        num_patches=len(patches),
        steps=trained.steps,
        seconds=trained.seconds,
        loss=trained.loss,
    )
    write_record(refiner, path.with_suffix(".json"))
    return refiner


def _hash_inputs(task: _Task, index: int) -> str:
    """SHA-256 of everything that decides about the weights of one refiner, except the machine's speed.

    `records.plan.hash_of` is not used, because `records.refinement.Refiner` promises the 64 digits of SHA-256, and so
    that stored refiners stay valid.
    """
    cases, workspace = task.cases, task.cases.workspace
    stages = [stage for name in cases.configurations for stage in stages_of(cases.plan, name)]
    checkpoints = [workspace.fold(name, fold) / "checkpoint_final.json" for name in stages for fold in cases.folds]
    deciding = {
        "version": SETTINGS_VERSION,
        "checkpoints": [hash_file(path) for path in checkpoints if path.is_file()],
        "configurations": cases.configurations,
        "cases": {fold: sorted(set(names) - task.groups[index]) for fold, names in cases.folds.items()},
        "patches": task.patches.model_dump(mode="json"),
        "network": task.network.model_dump(mode="json"),
        "seconds": task.options.seconds,
        "most_steps": task.options.max_steps,
        "seed": index,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _read_refiner(workspace: Workspace, index: int, inputs_hash: str) -> Refiner | None:
    """The refiner of an earlier call, if it is complete and was trained on the same inputs."""
    path = refiner_path(workspace, index)
    try:
        refiner = read_record(Refiner, path.with_suffix(".json"))
    except RecordError:
        return None
    weights = path.with_suffix(".safetensors")
    is_same = refiner.inputs_hash == inputs_hash and weights.is_file() and hash_file(weights) == refiner.weights_hash
    return refiner if is_same else None


def _judge_refiners(task: _Task, progress: Progress | None) -> tuple[tuple[CaseMapFiles, ...], RefinementVerdict]:
    """Refine every case with the refiner that did not see it; write its label map; score it before and after."""
    cases, folder = task.cases, task.cases.workspace.refinement / "validation"
    refiners = [
        load_refiner(refiner_path(cases.workspace, index).with_suffix(".safetensors"), task.network, cases.device)
        for index in range(len(task.groups))
    ]
    before: list[CaseScores] = []
    after: list[CaseScores] = []
    maps = []
    for held_out in predict_held_out(cases):
        group = next(index for index, names in enumerate(task.groups) if held_out.case in names)
        before.append(_score(held_out, task))
        loaded = LoadedRefiners(task.patches, (refiners[group],), cases.device)
        refine_labels(held_out.coarse, task.encoding, loaded, cases.thresholds)
        after.append(_score(held_out, task))
        path = folder / f"{held_out.case}{task.ending}"
        volume = held_out.volume
        values = decode_label_map(restore_array(held_out.coarse.volume, volume.orientation), task.encoding)
        write_label_map(values, volume.template, path)
        maps.append(CaseMapFiles(held_out.case, path, cases.dataset_folder / cases.files[held_out.case].label))
        if progress is not None:
            progress(len(cases) + len(maps), 2 * len(cases))
    return tuple(maps), judge_refinement(before, after, foreground_names(task.encoding), task.tolerance_mm)


def _score(held_out: HeldOutCase, task: _Task) -> CaseScores:
    """Measure the whole image, in working orientation."""
    volume, encoding = held_out.volume, task.encoding
    if volume.labels is None:
        raise ValueError(f"case {held_out.case} was read without its label map")
    labels: dict[str, LabelValues] = {**indices_by_label(encoding)}
    if encoding.ignore_value is not None:
        labels[IGNORE] = len(encoding.values)
    return measure_case(
        held_out.case, held_out.coarse.volume, volume.labels, labels, volume.grid.spacing, task.tolerance_mm
    )


def _describe_verdict(task: _Task, refiners: Sequence[Refiner], verdict: RefinementVerdict) -> str:
    seconds, steps = sum(refiner.seconds for refiner in refiners), sum(refiner.steps for refiner in refiners)
    return (
        f"Boundary refinement: {'yes' if verdict.is_accepted else 'no'}, {verdict.figures}; {len(refiners)} refiners, "
        f"each trained without the cases that it is tested on, {seconds:.0f} s and {steps} steps in all, "
        f"patches of {' x '.join(map(str, task.patches.size))} voxels."
    )
