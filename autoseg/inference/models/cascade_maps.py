"""The label maps that one cascade step writes for the next one, and whether they can be used.

    3d_lowres fold k: logits of a held-out case --resize, decide--> next_stage/3d_cascade_fullres/<case>.b2nd

Each map comes from the fold that did not train on its case, so a cascade needs every fold of its previous step. A map
records which weights and which preprocessed case it was made from; if either has changed since, it is outdated.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from autoseg.errors import DatasetError, TrainingError
from autoseg.imaging.arrays.storage import (
    ARRAY_ENDING,
    RECORD_ENDING,
    is_label_map_damaged,
    label_map_origin,
    open_label_map,
    save_label_map,
)
from autoseg.imaging.arrays.stored_arrays import Opener, StoredArray, keep_open
from autoseg.inference.restoring.restore import LabelIndices
from autoseg.records.case import PreprocessedCase
from autoseg.records.checkpoint import Checkpoint, hash_of_cases, map_origin
from autoseg.records.files import read_record
from autoseg.records.plan import Plan, Split, Splits, is_model_of
from autoseg.records.workspace import Workspace
from autoseg.text import format_command

UNTRAINED = "is not trained completely"
OTHER_PLAN = "was trained for another plan"
UNWRITTEN = "has not written its label maps"
DAMAGED = "has label maps that are damaged (their checksum differs)"
OUTDATED = "or its preprocessed cases changed after its label maps were written"


@dataclass(frozen=True)
class NextStepMaps:
    """Label maps of one fold's validation cases, for the next step of a cascade."""

    workspace: Workspace
    plan: Plan
    fold: str
    """Fold name of the previous step."""
    cascade: str

    def write(self, grid: PreprocessedCase, labels: LabelIndices) -> None:
        """Write the label map (Z, Y, X) of one case on its grid, made from the fold's logits; see `grid`."""
        patch_size = self.plan.configurations[self.cascade].patch_size
        save_label_map(self._path(grid.case), labels.astype(np.int16), patch_size, self._origin(grid))

    def grid(self, case: str) -> PreprocessedCase:
        """The cascade's preprocessed grid of one case.

        Raises:
            RecordError: If the case is not preprocessed for the cascade.
        """
        folder = self.workspace.preprocessed(self.plan.configurations[self.cascade].preprocessed_as)
        return read_record(PreprocessedCase, folder / (case + RECORD_ENDING))

    def open(self, case: str, opener: Opener) -> StoredArray:
        """Label indices (Z, Y, X), int16, on disk, opened by the function given; see `find_fault`."""
        return open_label_map(self._path(case), opener)[0]

    def find_fault(self, case: str) -> str:
        """Reason why a case has no label map that can be used; empty if it has one."""
        if self._checkpoint is None:
            return UNTRAINED
        if not is_model_of(self.plan, self._previous, self._checkpoint.model_hash):
            return OTHER_PLAN
        grid = self.grid(case)
        try:
            array, origin = open_label_map(self._path(case))
            if is_label_map_damaged(self._path(case)):
                return DAMAGED
        except DatasetError:
            return UNWRITTEN
        up_to_date = origin == self._origin(grid) and array.shape == grid.shape
        return "" if up_to_date else OUTDATED

    @cached_property
    def _checkpoint(self) -> Checkpoint | None:
        """Record of the final weights; None if there are none yet."""
        path = self.workspace.fold(self._previous, self.fold) / "checkpoint_final.json"
        return read_record(Checkpoint, path) if path.exists() else None

    @property
    def _previous(self) -> str:
        return str(self.plan.configurations[self.cascade].previous_configuration)

    def _path(self, case: str) -> Path:
        return self.workspace.next_stage(self._previous, self.fold, self.cascade) / (case + ARRAY_ENDING)

    def _origin(self, grid: PreprocessedCase) -> str:
        return map_origin(self._checkpoint, grid.content_hash)


def next_step_maps(workspace: Workspace, plan: Plan, configuration: str, fold: str) -> tuple[NextStepMaps, ...]:
    """The label maps of one fold for each cascade that takes those of `configuration` as input."""
    return tuple(
        NextStepMaps(workspace, plan, fold, name)
        for name, value in plan.configurations.items()
        if value.previous_configuration == configuration
    )


def load_previous(workspace: Workspace, plan: Plan, name: str, cases: Sequence[str]) -> Mapping[str, StoredArray]:
    """Label maps of a cascade's previous step, each from the fold that its case was held out of.

    Args:
        workspace: Workspace with the splits and the cascade's preprocessed cases.
        plan: Plan with the cascade.
        name: Configuration name of the cascade.
        cases: Case ids.

    Returns:
        Label indices (Z, Y, X) of each case, int16, on the cascade's preprocessed grid, on disk: index them with
        slices.

    Raises:
        TrainingError: If a case is held out of no fold, or maps are missing or outdated; names the folds to train.
    """
    splits = read_record(Splits, workspace.splits)
    folds = {case: str(index) for index, split in enumerate(splits.folds) for case in split.validation}
    never = sorted(set(cases) - set(folds))
    if never:
        raise TrainingError(
            f"{workspace.splits}: {len(never)} cases, {never[0]} first, are in the validation part of no fold, and "
            f"{name} needs a label map of every case from a network that did not train on it. Plan with more folds."
        )
    maps = {fold: NextStepMaps(workspace, plan, fold, name) for fold in sorted({folds[case] for case in cases})}
    faults = Counter((folds[case], fault) for case in cases if (fault := maps[folds[case]].find_fault(case)))
    if faults:
        raise TrainingError(_describe_faults(workspace, plan, name, faults))
    opener = keep_open()
    return {case: maps[folds[case]].open(case, opener) for case in cases}


def is_trained_on_maps_of_today(
    workspace: Workspace, plan: Plan, name: str, split: Split, checkpoint: Checkpoint
) -> bool:
    """Whether a fold of a cascade was trained on the label maps that its previous step has now.

    True also where that is not known: the cases are not preprocessed any more, or the checkpoint has no hash.

    Args:
        workspace: Workspace with the splits, label maps and preprocessed cases.
        plan: Plan with the cascade.
        name: Configuration name of the cascade.
        split: Cases of the fold.
        checkpoint: Record of the fold's weights.
    """
    cases = sorted([*split.training, *split.validation])
    folder = workspace.preprocessed(plan.configurations[name].preprocessed_as)
    if not checkpoint.cases_hash or not all((folder / (case + RECORD_ENDING)).exists() for case in cases):
        return True
    try:
        maps = load_previous(workspace, plan, name, cases)
    except TrainingError:
        return False
    return checkpoint.cases_hash == hash_of_cases(split.training, [label_map_origin(maps[case]) for case in cases])


def _describe_faults(workspace: Workspace, plan: Plan, name: str, faults: Mapping[tuple[str, str], int]) -> str:
    previous = plan.configurations[name].previous_configuration
    found = [f"  fold {fold} {fault} ({number} cases)" for (fold, fault), number in sorted(faults.items())]
    train: list[str | Path] = ["autoseg-train", workspace.root, "-c", str(previous)]
    commands = [
        "  " + format_command(*train, "-f", fold, *(["--restart"] if fault == OTHER_PLAN else []))
        for fold, fault in sorted(faults)
    ]
    what = f"{name} takes the label maps of {previous} as input, and some are missing or outdated:"
    return "\n".join([what, *found, "Run first:", *dict.fromkeys(commands)])
