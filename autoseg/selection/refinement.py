"""Train networks that predict the surroundings of surfaces again, and test by cross-validation whether they help.

    held-out cases --networks of the fold that did not see them--> probabilities --> patches --> one refiner per group
    held-out cases --the same--> probabilities --refiner that did not see their group--> label maps --> scores

Probabilities are computed twice instead of being stored.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.errors import RecordError
from autoseg.imaging.formats.volume import length_unit
from autoseg.imaging.formats.writing import label_map_ending
from autoseg.inference.models.recipes import cascade_steps
from autoseg.inference.refinement.loading import load_refiner, refiner_path
from autoseg.inference.refinement.patches import plan_patches, plan_refiner
from autoseg.inference.refinement.refine import LoadedRefiners, refine_labels
from autoseg.inference.restoring.decisions import DEFAULT_THRESHOLDS, Thresholds
from autoseg.progress import Progress, no_progress
from autoseg.records.case import Triple
from autoseg.records.dataset import foreground_names
from autoseg.records.evaluation import CaseScores
from autoseg.records.files import hash_file, read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.selection import PatchSettings, Refinement, Refiner
from autoseg.records.workspace import Workspace
from autoseg.selection.case_maps import CaseMapFiles
from autoseg.selection.held_out import HeldOutCases, cut_patches, group_cases, predict_held_out
from autoseg.selection.validation_run import ValidationRun
from autoseg.selection.verdicts import RefinementVerdict, judge_refinement
from autoseg.training.refinement import Patches, RefinementOptions, join_patches, save_refiner, train_refiner

PATCH_BYTES = 2**29
"""Largest memory of all patches together, unless MIN_PATCHES of each case need more."""
MIN_PATCHES = 4
SETTINGS_VERSION = 1
"""Part of the hash of a refiner's inputs; raise it when the same settings begin to give other weights."""


@dataclass(frozen=True)
class RefinementOutcome:
    """Result of a refinement, with the reasons."""

    refinement: Refinement | None
    """Refiners that help; None: they do not, or could not be trained."""
    maps: tuple[CaseMapFiles, ...]
    """Refined label maps of all held-out cases; empty without refinement."""
    reasons: tuple[str, ...]


def refine_model(
    run: ValidationRun,
    configurations: tuple[str, ...],
    folds: Mapping[str, Sequence[str]],
    options: RefinementOptions,
    *,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    progress: Progress = no_progress,
) -> RefinementOutcome:
    """Train refiners on out-of-fold predictions, and test them on cases that they did not see.

    Refiners that an earlier call trained on the same inputs are not trained again. selection.json is not written.

    Args:
        run: Context of the run; its workspace has the fingerprint and the trained folds.
        configurations: Names of the configurations whose probabilities are averaged.
        folds: Cases that each fold held out, by fold; the folds are trained in every configuration.
        options: Time and steps of the training.
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
    cases = HeldOutCases(run=run, configurations=configurations, folds=folds, thresholds=thresholds)
    trial = _Trial(cases, groups, options)
    refiners = trial.train(progress)
    if not refiners:
        return RefinementOutcome(None, (), ("Boundary refinement: not tried, the held-out predictions are empty.",))
    maps, verdict = trial.judge(progress)
    reason = trial.describe(refiners, verdict)
    if not verdict.is_accepted:
        return RefinementOutcome(None, (), (reason,))
    refinement = Refinement(
        patches=trial.patches,
        network=trial.network,
        refiners=tuple(refiner.weights_hash for refiner in refiners),
        tolerance_mm=trial.tolerance_mm,
        before=verdict.before,
        after=verdict.after,
    )
    return RefinementOutcome(refinement, maps, (reason,))


class _Trial:
    """Refiners of one model, one per group of held-out cases, trained and tested by cross-validation."""

    def __init__(self, cases: HeldOutCases, groups: Sequence[frozenset[str]], options: RefinementOptions) -> None:
        """Plan patches for the training images; the tolerance of the surface Dice is their median smallest spacing.

        Args:
            cases: Held-out cases of the model.
            groups: Groups of these cases; refiner i is trained on all cases but those of group i.
            options: Time and steps of the training.
        """
        plan, fingerprint = cases.run.plan, read_record(Fingerprint, cases.run.workspace.fingerprint)
        self.cases, self.groups, self.options = cases, groups, options
        self.encoding = plan.encoding
        self.patches = _plan_patches(fingerprint, plan.transpose)
        self.network = plan_refiner(self.patches, len(plan.channel_names))
        self.tolerance_mm = float(np.median([min(case.spacing) for case in fingerprint.cases]))

    def train(self, progress: Progress) -> list[Refiner]:
        """Train a refiner for each group that has no stored one; none of them when there is no predicted surface."""
        hashes = [self._hash_inputs(index) for index in range(len(self.groups))]
        stored = [_read_refiner(self.cases.run.workspace, index, expected) for index, expected in enumerate(hashes)]
        known = [refiner for refiner in stored if refiner is not None]
        if len(known) == len(hashes):
            return known
        bytes_per_patch = int(np.prod(self.patches.size)) * (2 * self.network.input_channels + 1)
        max_count = max(MIN_PATCHES, PATCH_BYTES // (bytes_per_patch * len(self.cases)))
        by_case: dict[str, Patches] = {}
        axes: tuple[int, ...] = ()
        for held_out in predict_held_out(self.cases):
            by_case[held_out.case] = cut_patches(held_out, self.encoding, self.patches, max_count)
            axes = held_out.mirror_axes
            progress(len(by_case), 2 * len(self.cases))
        learnt_from = [[by_case[case] for case in sorted(by_case.keys() - group)] for group in self.groups]
        if not all(sum(map(len, patches)) for patches in learnt_from):
            return []
        return [
            refiner or self._train_refiner(index, hashes[index], patches, axes)
            for index, (refiner, patches) in enumerate(zip(stored, learnt_from, strict=True))
        ]

    def judge(self, progress: Progress) -> tuple[tuple[CaseMapFiles, ...], RefinementVerdict]:
        """Refine every case with the refiner that did not see it; write its label map; score it before and after."""
        cases, folder = self.cases, self.cases.run.workspace.refinement / "validation"
        paths = [refiner_path(cases.run.workspace, index) for index in range(len(self.groups))]
        refiners = [load_refiner(path.with_suffix(".safetensors"), self.network, cases.run.device) for path in paths]
        before: list[CaseScores] = []
        after: list[CaseScores] = []
        maps = []
        for held_out in predict_held_out(cases):
            group = next(index for index, names in enumerate(self.groups) if held_out.case in names)
            before.append(held_out.score(self.encoding, self.tolerance_mm))
            loaded = LoadedRefiners(self.patches, (refiners[group],), cases.run.device)
            refine_labels(held_out.coarse, self.encoding, loaded, cases.thresholds)
            after.append(held_out.score(self.encoding, self.tolerance_mm))
            path = folder / f"{held_out.case}{label_map_ending(cases.run.dataset.file_ending)}"
            held_out.volume.write_labels(held_out.coarse.volume, self.encoding, path)
            maps.append(CaseMapFiles(path, cases.run.dataset_folder, cases.run.files(held_out.case)))
            progress(len(cases) + len(maps), 2 * len(cases))
        return tuple(maps), judge_refinement(before, after, foreground_names(self.encoding))

    def describe(self, refiners: Sequence[Refiner], verdict: RefinementVerdict) -> str:
        """Sentence about the verdict, with the time and steps of the training."""
        seconds, steps = sum(refiner.seconds for refiner in refiners), sum(refiner.steps for refiner in refiners)
        answer = "yes" if verdict.is_accepted else "no"
        figures = verdict.describe(self.tolerance_mm, length_unit(self.cases.run.dataset.file_ending))
        return (
            f"Boundary refinement: {answer}, {figures}; {len(refiners)} refiners, "
            f"each trained without the cases that it is tested on, {seconds:.0f} s and {steps} steps in all, "
            f"patches of {' x '.join(map(str, self.patches.size))} voxels."
        )

    def _train_refiner(
        self, index: int, inputs_hash: str, by_case: Sequence[Patches], axes: tuple[int, ...]
    ) -> Refiner:
        patches = join_patches(by_case)
        trained = train_refiner(
            patches, self.network, self.options, device=self.cases.run.device, seed=index, mirror_axes=axes,
        )  # fmt: skip
        path = refiner_path(self.cases.run.workspace, index)
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

    def _hash_inputs(self, index: int) -> str:
        """SHA-256 of everything that decides about the weights of one refiner, except the machine's speed.

        `records.plan.hash_of` is not used, because `records.selection.Refiner` promises the 64 digits of SHA-256, and
        so that stored refiners stay valid.
        """
        cases, workspace = self.cases, self.cases.run.workspace
        stages = [stage for name in cases.configurations for stage in cascade_steps(cases.run.plan, name)]
        checkpoints = [workspace.fold(name, fold) / "checkpoint_final.json" for name in stages for fold in cases.folds]
        deciding = {
            "version": SETTINGS_VERSION,
            "checkpoints": [hash_file(path) for path in checkpoints if path.is_file()],
            "configurations": cases.configurations,
            "cases": {fold: sorted(set(names) - self.groups[index]) for fold, names in cases.folds.items()},
            "patches": self.patches.model_dump(mode="json"),
            "network": self.network.model_dump(mode="json"),
            "seconds": self.options.seconds,
            "most_steps": self.options.max_steps,
            "seed": index,
        }
        if cases.run.member_weights:
            deciding["member_weights"] = dict(cases.run.member_weights)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _plan_patches(fingerprint: Fingerprint, transpose: Triple) -> PatchSettings:
    z, y, x = transpose
    return plan_patches(
        [(case.shape[z], case.shape[y], case.shape[x]) for case in fingerprint.cases],
        [(case.spacing[z], case.spacing[y], case.spacing[x]) for case in fingerprint.cases],
    )


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
