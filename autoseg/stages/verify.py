"""Verify: compare all files of a workspace or an exported model with their hashes and with each other.

    files of the dataset -- fingerprint -- preprocessed arrays -- plan -- weights -- evaluations -- selection

Nothing is written. Every file of the dataset, every array and all weights are read once.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from autoseg.errors import AutosegError, DatasetError, InteropError, PredictionError, RecordError, UsageError
from autoseg.folds import find_outdated_results, find_split, hash_trainings
from autoseg.imaging.arrays.damage import find_case_damage
from autoseg.imaging.arrays.storage import ARRAY_ENDING, RECORD_ENDING, is_label_map_damaged, stored_cases
from autoseg.imaging.datasets.cases import content_hash
from autoseg.inference.models.recipes import cascade_steps
from autoseg.inference.refinement.loading import load_refiners
from autoseg.interop.models import open_model, read_manifest
from autoseg.locks import find_locks
from autoseg.networks.weight_files import is_same_training, read_inner_record, read_weights, read_weights_hash
from autoseg.progress import ProgressBar, no_bar
from autoseg.records.case import PreprocessedCase
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import Record, read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.manifest import MANIFEST_NAME
from autoseg.records.plan import Plan, Splits, hash_of_folds, is_model_of
from autoseg.records.selection import Selection
from autoseg.records.unlabelled import SoftLabelsRecord, StudentRecord, UnlabelledImages
from autoseg.records.verification import Mismatch, Verification
from autoseg.records.workspace import Workspace
from autoseg.stages.plan_students import STUDENT_ENDING
from autoseg.text import format_command
from autoseg.training.folds.planned_data import planned_arrays
from autoseg.training.folds.soft_cases import RECORD_NAME

RecordType = TypeVar("RecordType", bound=Record)

Item = TypeVar("Item")

Result = TypeVar("Result")

MAX_SCORE_DIFFERENCE = 1e-9
"""Largest difference between one mean Dice in two files."""


@dataclass
class _Report:
    """What was found so far."""

    workspace: Workspace
    workers: int
    """Threads that read files; hashes are computed side by side in them."""
    bar: ProgressBar
    checked: dict[str, int] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path, what: str, command: str) -> None:
        """Note a mismatch."""
        self.mismatches.append(Mismatch(file=str(path), what=what, command=command))

    def count(self, kind: str, number: int = 1) -> None:
        """Note how much was compared."""
        self.checked[kind] = self.checked.get(kind, 0) + number

    def work(self, function: Callable[[Item], Result], items: Sequence[Item], title: str) -> Iterator[Result]:
        """Results of a function that reads files, in the order of the items."""
        with self.bar(title) as progress, ThreadPoolExecutor(self.workers) as pool:
            for number, result in enumerate(pool.map(function, items), start=1):
                yield result
                progress(number, len(items))

    def read(self, record_type: type[RecordType], path: Path, command: str) -> RecordType | None:
        """A record; None if it is missing, or damaged, which is noted."""
        if not path.exists():
            return None
        try:
            record = read_record(record_type, path)
        except RecordError as error:
            self.add(path, f"is damaged ({_first_lines(error, path)})", command)
            return None
        self.count("records")
        return record


def verify_model(model: Path, *, workers: int = 1, bar: ProgressBar = no_bar) -> Verification:
    """Compare everything in a workspace or an exported model that belongs together.

    Args:
        model: A workspace, or the folder or zip file of an exported model.
        workers: Threads that read files.
        bar: Progress display.

    Returns:
        What was compared, and every mismatch with the command that corrects it.

    Raises:
        UsageError: If there is no plan.json, so that it is neither.
    """
    if not model.is_file() and not any((model / name).exists() for name in (MANIFEST_NAME, Workspace(model).plan.name)):
        raise UsageError(f"{model}: neither a workspace nor an exported model; it has no plan.json")
    try:
        with open_model(model) as workspace:
            report = _Report(workspace, workers, bar)
            _verify(report)
            if (manifest := read_manifest(workspace.root)) is not None:
                report.count("files of the manifest", len(manifest.files))
    except (InteropError, RecordError) as error:
        report = _Report(Workspace(model), workers, bar)
        report.add(model, _first_lines(error, model), "copy or download it again, or export it again")
    return Verification(
        checked=report.checked, mismatches=tuple(report.mismatches), notes=tuple(dict.fromkeys(report.notes))
    )


def _verify(report: _Report) -> None:
    workspace = report.workspace
    plan_again = format_command("autoseg-plan", "DATASET", "-w", workspace.root)
    dataset = report.read(DatasetDescription, workspace.dataset, plan_again)
    if dataset is not None:
        plan_again = format_command("autoseg-plan", workspace.dataset_folder(dataset.folder), "-w", workspace.root)
    plan = report.read(Plan, workspace.plan, plan_again)
    fingerprint = report.read(Fingerprint, workspace.fingerprint, plan_again)
    splits = report.read(Splits, workspace.splits, plan_again)
    if dataset is not None and fingerprint is not None:
        _verify_dataset(report, dataset, fingerprint, plan_again)
    if dataset is not None and splits is not None:
        _verify_splits(report, dataset, splits, plan_again)
    if plan is None:
        return
    if dataset is not None:
        _verify_arrays(report, plan, dataset, fingerprint, plan_again)
    for name, fold in _find_folds(workspace):
        _verify_fold(report, plan, name, fold)
    _verify_unlabelled(report)
    _verify_selection(report, plan)
    for found in find_locks(workspace):
        gone = "the process does not run any more; the next command takes the lock over"
        busy = "files that it writes may not belong together yet"
        report.notes.append(f"{found.describe()}; {gone if found.is_stale else busy}.")


def _verify_dataset(report: _Report, dataset: DatasetDescription, fingerprint: Fingerprint, command: str) -> None:
    """Compare the files of each case with their hash in the fingerprint."""
    folder = report.workspace.dataset_folder(dataset.folder)
    if not folder.exists():
        report.notes.append(f"{folder}: the dataset is not there, so its files were not compared.")
        return
    planned = {case.case: case.content_hash for case in fingerprint.cases}
    cases = [files for files in dataset.cases if files.case in planned]
    for case in sorted(planned.keys() ^ {files.case for files in dataset.cases}):
        report.add(report.workspace.fingerprint, f"and dataset.json disagree about case {case}", command)
    for files, (found, fault) in zip(cases, report.work(partial(_hash_files, folder), cases, "dataset"), strict=True):
        if fault:
            report.add(folder, f"case {files.case}: {fault}", "put the file back, then verify again")
        elif found != planned[files.case]:
            what = f"has an image or a label map of case {files.case} that was changed after it was planned"
            report.add(folder, what, command)
    report.count("cases of the dataset", len(cases))


def _hash_files(folder: Path, files: CaseFiles) -> tuple[str, str]:
    """Hash of a case's files, and why it cannot be computed."""
    try:
        return content_hash(folder, files), ""
    except AutosegError as error:
        return "", str(error)


def _verify_splits(report: _Report, dataset: DatasetDescription, splits: Splits, command: str) -> None:
    known = {files.case for files in dataset.cases}
    for index, fold in enumerate(splits.folds):
        if missing := sorted({*fold.training, *fold.validation} - known):
            what = f"fold {index} has case {missing[0]}, which the dataset does not have"
            report.add(report.workspace.splits, what, f"correct the folds, or delete the file and give: {command}")
    if splits.folds_hash and splits.folds_hash != hash_of_folds(splits.folds):
        report.notes.append(f"{report.workspace.splits}: the folds were edited by hand.")


def _verify_arrays(
    report: _Report,
    plan: Plan,
    dataset: DatasetDescription,
    fingerprint: Fingerprint | None,
    command: str,
) -> None:
    """Compare every preprocessed case with its checksum, and with plan and fingerprint."""
    repair = format_command("autoseg", "doctor", report.workspace.root, "--repair")
    for name, configuration in plan.configurations.items():
        folder = report.workspace.preprocessed(name)
        if configuration.preprocessed_as != name:
            continue
        if not folder.exists():
            report.notes.append(f"{name}: not preprocessed.")
            continue
        planned = planned_arrays(plan, name, fingerprint)
        cases = [files.case for files in dataset.cases]
        found = report.work(partial(find_case_damage, folder), cases, f"arrays of {name}")
        for case, damage in zip(cases, found, strict=True):
            if damage:
                report.add(folder, f"case {case} {damage}", repair)
            elif case in planned and _stored_hash(folder, case) not in planned[case]:
                report.add(folder, f"case {case} was preprocessed for another plan or from other files", command)
        report.count("arrays", len(cases))
        if others := sorted(set(stored_cases(folder)) - set(cases)):
            report.add(folder, f"has case {others[0]}, which the dataset does not have", command)


def _stored_hash(folder: Path, case: str) -> str:
    return read_record(PreprocessedCase, folder / (case + RECORD_ENDING)).content_hash


def _find_folds(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Configuration and fold name of every folder with a checkpoint."""
    folders = sorted((workspace.root / "models").glob("*/fold_*"))
    for folder in folders:
        if any(folder.glob("checkpoint_*")):
            yield folder.parent.name, folder.name.removeprefix("fold_")


def _verify_fold(report: _Report, plan: Plan, name: str, fold: str) -> None:
    """Compare weights with their checksum, their record and the plan, and the evaluation with weights and folds."""
    folder = report.workspace.fold(name, fold)
    restart = format_command("autoseg-train", report.workspace.root, "-c", name, "-f", fold, "--restart")
    again = format_command("autoseg-train", report.workspace.root, "-c", name, "-f", fold)
    for path in sorted(folder.glob("checkpoint_*.safetensors")):
        record = report.read(Checkpoint, path.with_suffix(".json"), restart)
        fault = _find_weights_fault(path, record)
        if fault:
            report.add(path, fault, again if path.stem == "checkpoint_final" else restart)
        elif record is not None and not is_model_of(plan, name, record.model_hash):
            report.add(path, "was trained for another plan", f"restore that plan, or give: {restart}")
        elif record is None and not path.with_suffix(".json").exists():
            report.add(path, f"has no {path.stem}.json beside it", again)
        report.count("weights")
    try:
        outdated = find_outdated_results(report.workspace, plan, name, fold)
    except AutosegError:  # a record that is damaged, and noted already
        return
    if outdated and outdated != "was trained for another plan":
        report.add(folder, outdated, restart)
    _verify_next_step_maps(report, name, fold, again)
    _verify_evaluation(report, name, fold, again)


def _verify_next_step_maps(report: _Report, name: str, fold: str, command: str) -> None:
    """Compare the label maps that a fold wrote for the next step of a cascade with their checksums."""
    for path in sorted((report.workspace.fold(name, fold) / "next_stage").glob(f"*/*{ARRAY_ENDING}")):
        try:
            if is_label_map_damaged(path):
                report.add(path, "has another label map than was written (its checksum differs)", command)
        except DatasetError as error:
            report.add(path, _first_lines(error, path), command)
        report.count("label maps of cascade steps")


def _verify_unlabelled(report: _Report) -> None:
    """Compare the arrays of unlabelled images, and the labels that teachers gave them, with their checksums."""
    workspace = report.workspace
    learn = format_command("autoseg", "learn", workspace.root)
    images = report.read(UnlabelledImages, workspace.unlabelled, learn)
    cases = [] if images is None else [image.case for image in images.cases]
    for folder in sorted((workspace.unlabelled.parent / "images").glob("*")):
        _verify_stored(report, folder, cases, "arrays of unlabelled images", learn)
    for path in sorted((workspace.unlabelled.parent / "labels").glob(f"*/fold_*/{RECORD_NAME}")):
        labels = report.read(SoftLabelsRecord, path, learn)
        _verify_stored(report, path.parent, labels.cases if labels else (), "labels of unlabelled images", learn)
    for path in sorted(workspace.unlabelled.parent.glob(f"*{STUDENT_ENDING}.json")):
        report.read(StudentRecord, path, learn)


def _verify_stored(report: _Report, folder: Path, cases: Sequence[str], kind: str, command: str) -> None:
    if not cases:
        return
    found = report.work(partial(find_case_damage, folder), cases, kind)
    for case, damage in zip(cases, found, strict=True):
        if damage:
            report.add(folder, f"case {case} {damage}", command)
    report.count(kind, len(cases))


def _find_weights_fault(path: Path, record: Checkpoint | None) -> str:
    try:
        read_weights(path)
        inner = read_inner_record(path)
    except (SafetensorError, OSError, ValueError) as error:
        return f"is damaged ({error})"
    if record is not None and inner is not None and not is_same_training(inner, record):
        return f"has the weights of another training than {path.stem}.json beside it says"
    return ""


def _verify_evaluation(report: _Report, name: str, fold: str, command: str) -> None:
    workspace = report.workspace
    path = workspace.validation_evaluation((name,), fold)
    evaluation = report.read(Evaluation, path, f"delete it, then give: {command}")
    weights = workspace.fold(name, fold) / "checkpoint_final.safetensors"
    if evaluation is None or not weights.exists():
        return
    try:
        weights_hash = read_weights_hash(weights)
    except (SafetensorError, OSError):  # noted already
        return
    if evaluation.weights_hash and weights_hash and evaluation.weights_hash != weights_hash:
        report.add(path, f"has the scores of other weights than {weights.name}", f"delete it, then give: {command}")
    if not workspace.dataset.exists() or not workspace.splits.exists():
        return
    try:
        split = find_split(workspace, read_record(DatasetDescription, workspace.dataset), fold)
    except AutosegError:  # a fold that is not planned any more: noted as outdated
        return
    if {scores.case for scores in evaluation.cases} != set(split.validation):
        report.add(path, "has other cases than the fold's validation cases", f"delete it, then give: {command}")


def _verify_selection(report: _Report, plan: Plan) -> None:
    workspace = report.workspace
    command = format_command("autoseg", "select", workspace.root)
    selection = report.read(Selection, workspace.selection, command)
    evaluation = report.read(Evaluation, workspace.evaluation, command)
    if selection is None:
        return
    for fault in _find_selection_faults(workspace, plan, selection):
        report.add(workspace.selection, fault, command)
    if evaluation is not None and not _is_same_score(evaluation, selection):
        what = f"has another mean Dice than {workspace.selection.name}"
        report.add(workspace.evaluation, what, command)
    if selection.refinement is not None:
        try:
            load_refiners(workspace, selection.refinement, torch.device("cpu"))
        except PredictionError as error:
            report.add(workspace.refinement, _first_lines(error, workspace.refinement), f"{command} --refine boundary")


def _find_selection_faults(workspace: Workspace, plan: Plan, selection: Selection) -> Iterator[str]:
    unknown = [name for name in selection.configurations if name not in plan.configurations]
    if unknown:
        yield f"chooses {unknown[0]}, which is not in the plan"
        return
    needed = dict.fromkeys(step for name in selection.configurations for step in cascade_steps(plan, name))
    for name in needed:
        if not workspace.trained_folds(name):
            yield f"needs {name}, which has no trained fold"
    for name in selection.configurations:
        for fold in selection.folds:
            if fold not in workspace.trained_folds(name):
                yield f"chooses fold {fold} of {name}, which is not trained"
    for name, scored in selection.weights.items():
        found = hash_trainings(workspace, [name], [*scored]).get(name, {})
        for fold, training in found.items():
            if training != scored[fold]:
                yield f"was chosen with an earlier training of {name}, fold {fold}"


def _is_same_score(evaluation: Evaluation, selection: Selection) -> bool:
    first, second = evaluation.mean_foreground_dice, selection.mean_foreground_dice
    if first is None or second is None:
        return first is second
    return abs(first - second) <= MAX_SCORE_DIFFERENCE


def _first_lines(error: Exception, path: Path) -> str:
    """An error's message on one line, without the path that it begins with and the full stop at its end."""
    lines: Sequence[str] = str(error).removeprefix(f"{path}: ").splitlines()
    return " ".join(line.strip() for line in lines).removesuffix(".")
