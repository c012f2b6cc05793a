"""The folds of a workspace: their cases, and whether trained ones still belong to its plan and its data.

Tested in tests/stages/test_split.py and tests/stages/test_select.py.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from autoseg.errors import UsageError
from autoseg.records.case import PreprocessedCase
from autoseg.records.checkpoint import Checkpoint, hash_of_cases, map_origin, training_hash
from autoseg.records.dataset import CaseFiles, DatasetDescription
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint, data_hash
from autoseg.records.plan import Plan, Split, Splits, hash_of_folds, is_model_of
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace

OTHER_PLAN = "was trained for another plan"
OTHER_DATA = "was trained and validated on other cases, images or label maps than those of today"


def check_planned(workspace: Workspace) -> None:
    """Refuse a folder that is no planned workspace.

    Raises:
        UsageError: If there is no such folder, or it has no plan.
    """
    if not workspace.root.is_dir():
        raise UsageError(f"{workspace.root}: there is no such folder; give the workspace that autoseg-plan wrote")
    if not workspace.plan.exists():
        raise UsageError(
            f"{workspace.root}: not a workspace, it has no plan.json; give the folder that autoseg-plan wrote"
        )


def listed_splits(cases: Sequence[CaseFiles]) -> Splits | None:
    """The folds that a dataset names itself; a case without one is in every training part.

    Args:
        cases: Files of all cases, with the fold whose validation set each belongs to.

    Returns:
        One fold for each number that is named, in their order; None where no case names any.
    """
    numbers = sorted({files.fold for files in cases if files.fold is not None})
    if not numbers:
        return None
    ids = sorted(files.case for files in cases)
    validation = [sorted(files.case for files in cases if files.fold == number) for number in numbers]
    folds = tuple(
        Split(training=tuple(case for case in ids if case not in part), validation=tuple(part)) for part in validation
    )
    always = sum(files.fold is None for files in cases)
    counted = "1 fold" if len(folds) == 1 else f"{len(folds)} folds"
    renumbered = "" if numbers == list(range(len(numbers))) else f" (there {', '.join(map(str, numbers))})"
    rest = f"; {always} cases without a fold are in every training part" if always else ""
    reason = f"{counted}{renumbered} as the dataset says{rest}."
    return Splits(folds=folds, reason=reason, folds_hash=hash_of_folds(folds))


def find_split(workspace: Workspace, dataset: DatasetDescription, fold_name: str) -> Split:
    """Cases of a fold.

    Args:
        workspace: Workspace with splits.json.
        dataset: Dataset whose cases are those of fold `all`.
        fold_name: Index in splits.json as text, or `all`: every case is for training, none for validation.

    Raises:
        UsageError: If the fold does not exist (lists the existing ones), or lists unknown or repeated cases.
    """
    if fold_name == "all":
        return _whole_dataset(dataset)
    splits = _numbered_splits(workspace)
    if fold_name not in splits:
        raise UsageError(f"fold {fold_name!r} does not exist; {workspace.splits} has {', '.join([*splits, 'all'])}")
    split = splits[fold_name]
    unknown = sorted({*split.training, *split.validation} - {files.case for files in dataset.cases})
    if unknown:
        raise UsageError(
            f"{workspace.splits}: fold {fold_name} lists {unknown[0]}, which is no case of {workspace.dataset}. List "
            "its cases only, or plan again with the same workspace"
        )
    for part in (split.training, split.validation):
        twice = [case for case, count in Counter(part).items() if count > 1]
        if twice:
            raise UsageError(
                f"{workspace.splits}: fold {fold_name} lists {twice[0]} more than once; list every case once"
            )
    return split


def find_outdated_results(workspace: Workspace, plan: Plan, configuration: str, fold: str) -> str:
    """Why the results of a trained fold do not belong to plan and data as they are now.

    Args:
        workspace: With the fold's final weights.
        plan: The workspace's plan.
        configuration: Name of the configuration.
        fold: Fold name.

    Returns:
        The rest of a sentence that begins with the fold; empty where they belong together. Cases and files are not
        compared where a file or record, of an earlier version or imported, does not tell them.

    Raises:
        RecordError: If a JSON file is damaged.
    """
    path = workspace.fold(configuration, fold) / "checkpoint_final.json"
    if not path.exists():
        return ""
    checkpoint = read_record(Checkpoint, path)
    if not is_model_of(plan, configuration, checkpoint.model_hash):
        return OTHER_PLAN
    if not checkpoint.data_hash or not workspace.fingerprint.exists():
        return ""
    split: Split | None
    if fold == "all":
        split = _whole_dataset(read_record(DatasetDescription, workspace.dataset))
    else:
        split = _numbered_splits(workspace).get(fold)
    fingerprint = read_record(Fingerprint, workspace.fingerprint)
    if split is None or data_hash(fingerprint, split) != checkpoint.data_hash:
        return OTHER_DATA
    return _find_other_maps(workspace, plan, configuration, split, checkpoint)


def _find_other_maps(workspace: Workspace, plan: Plan, configuration: str, split: Split, checkpoint: Checkpoint) -> str:
    """Why a fold of a cascade does not belong to its previous step, by records alone; empty also where not known."""
    previous = plan.configurations[configuration].previous_configuration
    if previous is None or not checkpoint.cases_hash:
        return ""
    held_out = {case: fold for fold, part in _numbered_splits(workspace).items() for case in part.validation}
    folder = workspace.preprocessed(plan.configurations[configuration].preprocessed_as)
    cases = sorted([*split.training, *split.validation])
    grids = [folder / f"{case}.json" for case in cases]
    trained = {fold: workspace.fold(previous, fold) / "checkpoint_final.json" for fold in set(held_out.values())}
    if not all(case in held_out for case in cases) or not all(path.exists() for path in (*grids, *trained.values())):
        return ""
    weights = {fold: read_record(Checkpoint, path) for fold, path in trained.items()}
    origins = [
        map_origin(weights[held_out[case]], read_record(PreprocessedCase, grid).content_hash)
        for case, grid in zip(cases, grids, strict=True)
    ]
    is_same = checkpoint.cases_hash == hash_of_cases(split.training, origins)
    return "" if is_same else f"was trained on label maps of an earlier training of {previous}"


def find_outdated_folds(workspace: Workspace, plan: Plan) -> dict[tuple[str, str], str]:
    """Trained folds, as (configuration, fold), whose results do not belong to plan and data; with the reason.

    Raises:
        RecordError: If a JSON file is damaged.
    """
    names = sorted(path.name for path in (workspace.root / "models").glob("*") if path.is_dir())
    faults = {
        (name, fold): find_outdated_results(workspace, plan, name, fold)
        for name in names
        for fold in workspace.trained_folds(name)
    }
    return {key: fault for key, fault in faults.items() if fault}


def hash_trainings(
    workspace: Workspace, configurations: Iterable[str], folds: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Hash of the training of each network, by configuration and fold; networks without a record are left out."""
    hashes = {name: _hash_folds(workspace, name, folds) for name in configurations}
    return {name: found for name, found in hashes.items() if found}


def find_retrained_folds(workspace: Workspace, selection: Selection) -> list[str]:
    """A sentence for each configuration with folds that were trained again since they were selected.

    Raises:
        RecordError: If a JSON file is damaged.
    """
    sentences = []
    for name, scored in selection.weights.items():
        found = _hash_folds(workspace, name, [*scored])
        others = [fold for fold, training in found.items() if training != scored[fold]]
        if others:
            sentences.append(
                f"{workspace.selection}: fold(s) {', '.join(others)} of {name} were trained again since; score, "
                "thresholds and post-processing are those of the earlier weights. Run autoseg select again"
            )
    return sentences


def _hash_folds(workspace: Workspace, name: str, folds: Sequence[str]) -> dict[str, str]:
    """Hash of the training of each fold that has a record of its final weights."""
    records = {fold: workspace.fold(name, fold) / "checkpoint_final.json" for fold in folds}
    return {fold: training_hash(read_record(Checkpoint, path)) for fold, path in records.items() if path.exists()}


def _whole_dataset(dataset: DatasetDescription) -> Split:
    return Split(training=tuple(files.case for files in dataset.cases), validation=())


def _numbered_splits(workspace: Workspace) -> dict[str, Split]:
    """Cases of every fold but `all`, by name."""
    return {str(index): split for index, split in enumerate(read_record(Splits, workspace.splits).folds)}
