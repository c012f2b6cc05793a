"""Repair: damaged preprocessed cases are made again; locks and temporary files of processes that are gone removed."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from autoseg.errors import LockedError
from autoseg.imaging.arrays.damage import find_case_damage
from autoseg.locks import find_locks, lock, refuse_trainings
from autoseg.progress import ProgressBar, no_bar
from autoseg.records.dataset import DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.plan import Plan
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.workspace import Workspace
from autoseg.stages.preprocess import store_cases
from autoseg.training.folds.planned_data import check_planned_files, read_fingerprint

Damage = Mapping[str, Mapping[str, str]]
"""What is wrong with preprocessed cases, by configuration and case."""


def find_damage(workspace: Workspace, *, workers: int = 1, bar: ProgressBar = no_bar) -> Damage:
    """Damaged and missing cases of every configuration that is preprocessed.

    Args:
        workspace: A planned workspace.
        workers: Threads that read the arrays.
        bar: Progress display.

    Raises:
        RecordError: If plan.json or dataset.json are missing or damaged.
    """
    plan, dataset = read_record(Plan, workspace.plan), read_record(DatasetDescription, workspace.dataset)
    cases = [files.case for files in dataset.cases]
    found: dict[str, dict[str, str]] = {}
    for name in plan.configurations:
        folder = workspace.preprocessed(name)
        if not folder.is_dir():
            continue
        with bar(f"arrays of {name}") as progress, ThreadPoolExecutor(workers) as pool:
            damages = pool.map(partial(find_case_damage, folder), cases)
            for number, (case, damage) in enumerate(zip(cases, damages, strict=True), start=1):
                if damage:
                    found.setdefault(name, {})[case] = damage
                progress(number, len(cases))
    return found


def store_damaged_again(workspace: Workspace, damage: Damage, *, workers: int = 1, bar: ProgressBar = no_bar) -> None:
    """Preprocess damaged cases again, and no others.

    Args:
        workspace: A planned workspace, with its dataset.
        damage: Result of `find_damage`.
        workers: Processes; each holds one case in memory.
        bar: Progress display.

    Raises:
        UsageError: If the files of a damaged case were changed after planning.
        ImageFileError: If one is missing.
        DatasetError: If cases could not be preprocessed; lists them all.
        LockedError: If another process plans the workspace or trains.
    """
    plan, dataset = read_record(Plan, workspace.plan), read_record(DatasetDescription, workspace.dataset)
    damaged = {case for cases in damage.values() for case in cases}
    files = tuple(files for files in dataset.cases if files.case in damaged)
    check_planned_files(workspace.dataset_folder(dataset.folder), files, read_fingerprint(workspace))
    with lock(workspace.planning_lock, "repaired"):
        refuse_trainings(workspace, "Arrays are not written while they may be read.")
        with bar("preprocessing") as progress:
            chosen = dataset.model_copy(update={"cases": files})
            store_cases(chosen, plan, workspace, tuple(damage), workers, progress)


def remove_leftovers(workspace: Workspace) -> list[str]:
    """Remove locks and temporary files of processes that do not run any more; returns the paths of the locks."""
    sweep_temporaries(workspace.root, recursive=True)
    stale = [found.path for found in find_locks(workspace) if found.is_stale]
    for path in stale:
        with suppress(LockedError), lock(path, "repaired"):  # somebody was faster
            pass
    return [str(path) for path in stale]
