"""Search for nnU-Net's trained models in a folder or zip file.

Dataset004_Hippocampus/                                  any of these levels may be given
    inference_information.json
    nnUNetTrainer__nnUNetPlans__3d_fullres/
        plans.json, dataset.json
        fold_0/checkpoint_final.pth, checkpoint_best.pth
        crossval_results_folds_0_1_2_3_4/postprocessing.json

Tested in tests/interop/test_nnunet_import.py and tests/interop/test_nnunet_selection.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import InteropError

CHECKPOINTS = ("final", "best")
MAX_DEPTH = 4
"""Levels below the given folder that are searched: results, dataset, ensembles, model."""


@dataclass(frozen=True)
class FoldFolder:
    """One fold."""

    fold: str
    """Fold index, or `all`."""
    checkpoints: dict[str, Path]
    """Paths of the checkpoints `final` and `best` that exist."""


@dataclass(frozen=True)
class ModelFolder:
    """All folds of one configuration."""

    path: Path
    folds: tuple[FoldFolder, ...]

    @property
    def plans(self) -> Path:
        """The plans.json."""
        return self.path / "plans.json"

    @property
    def dataset(self) -> Path:
        """The dataset.json."""
        return self.path / "dataset.json"

    @property
    def trained_as(self) -> str:
        """`<trainer>__<plans>`, from the folder's name; empty when it has another kind of name."""
        parts = self.path.name.split("__")
        return "__".join(parts[:2]) if len(parts) == 3 else ""


def find_model_folders(root: Path, source: Path, trained_as: str | None) -> tuple[ModelFolder, ...]:
    """All model folders of one dataset, one trainer and one set of plans.

    Args:
        root: A model folder, or a folder that contains model folders.
        source: Path that the user gave, for messages.
        trained_as: `<trainer>__<plans>` to choose; None: there must be only one.

    Raises:
        InteropError: If there is no model, or more than one dataset, trainer or plans, or a model folder is
            incomplete.
    """
    found = sorted(_with_folds(root, MAX_DEPTH)) or [root] * (root / "plans.json").is_file()
    folders = [_read_model_folder(path, source, root) for path in found]
    if not folders:
        raise InteropError(_explain_nothing_found(root, source))
    if trained_as is not None:
        folders = [folder for folder in folders if folder.trained_as == trained_as]
    datasets = sorted({folder.path.parent.name for folder in folders})
    if len(datasets) > 1:
        raise InteropError(
            f"{source}: has models of several datasets ({', '.join(datasets)}). Give one of their folders."
        )
    kinds = sorted({folder.trained_as for folder in folders})
    if len(kinds) != 1:
        names = sorted({folder.trained_as or folder.path.name for folder in folders}) or ["no such model"]
        raise InteropError(
            f"{source}: has {', '.join(names)}; a model has one trainer and one set of plans. Choose one with "
            "--trained-as TRAINER__PLANS."
        )
    return tuple(folders)


def _with_folds(root: Path, levels: int) -> Iterator[Path]:
    """Folders with folds; other folders with a plans.json have predictions or ensembles."""
    if any(_fold_folders(root)):
        yield root
    elif levels and root.is_dir():
        for child in root.iterdir():
            yield from _with_folds(child, levels - 1)


def _fold_folders(path: Path) -> Sequence[Path]:
    return [folder for folder in sorted(path.glob("fold_*")) if folder.is_dir()]


def _read_model_folder(path: Path, source: Path, root: Path) -> ModelFolder:
    inside = source if path == root else source / path.relative_to(root)
    missing = [name for name in ("plans.json", "dataset.json") if not (path / name).is_file()]
    if missing:
        raise InteropError(
            f"{inside}: no {' and no '.join(missing)} beside the folds. Copy both from the folder that nnU-Net wrote "
            "fold_0 to."
        )
    folds = tuple(
        FoldFolder(folder.name.removeprefix("fold_"), dict(_checkpoints(folder))) for folder in _fold_folders(path)
    )
    trained = tuple(fold for fold in folds if "final" in fold.checkpoints)
    if not trained:
        found = ", ".join(f"fold_{fold.fold}: {', '.join(_weights_in(path, fold.fold))}" for fold in folds)
        raise InteropError(
            f"{inside}: no fold has a checkpoint_final.pth ({found or 'there is no folder fold_0, fold_1, ... or '}"
            f"{'' if found else 'fold_all'}). If training was interrupted, copy checkpoint_best.pth or "
            "checkpoint_latest.pth to checkpoint_final.pth."
        )
    return ModelFolder(path, trained)


def _checkpoints(folder: Path) -> Iterator[tuple[str, Path]]:
    for name in CHECKPOINTS:
        path = folder / f"checkpoint_{name}.pth"
        if path.is_file():
            yield name, path


def _weights_in(path: Path, fold: str) -> list[str]:
    return sorted(file.name for file in (path / f"fold_{fold}").glob("*.pth")) or ["nothing"]


def _explain_nothing_found(root: Path, source: Path) -> str:
    if (root / "plan.json").is_file():
        return f"{source}: is already a model of autoseg. Use it with `autoseg predict -m`."
    if not root.exists():
        return f"{source}: does not exist"
    return (
        f"{source}: no model of nnU-Net v2 here; expected a folder with plans.json, dataset.json and "
        "fold_0/checkpoint_final.pth, or one above it. Models of nnU-Net v1 (plans.pkl) cannot be imported."
    )
