"""nnU-Net's trained models in a folder or zip file, and what it chose among them.

Dataset004_Hippocampus/                                  any of these levels may be given
    inference_information.json
    nnUNetTrainer__nnUNetPlans__3d_fullres/
        plans.json, dataset.json
        fold_0/checkpoint_final.pth, checkpoint_best.pth
        crossval_results_folds_0_1_2_3_4/postprocessing.json

Best configurations and post-processing become a selection.

References:
    nnU-Net v2 (Isensee et al. 2021), `find_best_configuration` and `determine_postprocessing`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import InteropError
from autoseg.interop.nnunet_files import InferenceFile, JsonObject, PostprocessingFile, read_nnunet_file
from autoseg.records.dataset import LabelEncoding
from autoseg.records.selection import KeepLargestComponent, Selection

CHECKPOINTS = ("final", "best")
MAX_DEPTH = 4
"""Levels below the given folder that are searched: results, dataset, ensembles, model."""

KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"
"""The only function of nnU-Net's post-processing."""


@dataclass(frozen=True)
class ModelFolder:
    """All folds of one configuration."""

    path: Path
    folds: Mapping[str, Mapping[str, Path]]
    """Paths of the checkpoints `final` and `best` that exist, by fold name."""

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
    folds = {folder.name.removeprefix("fold_"): dict(_checkpoints(folder)) for folder in _fold_folders(path)}
    trained = {fold: checkpoints for fold, checkpoints in folds.items() if "final" in checkpoints}
    if not trained:
        found = ", ".join(f"fold_{fold}: {', '.join(_weights_in(path, fold))}" for fold in folds)
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


def _weights_in(path: Path, fold_name: str) -> list[str]:
    return sorted(file.name for file in (path / f"fold_{fold_name}").glob("*.pth")) or ["nothing"]


def _explain_nothing_found(root: Path, source: Path) -> str:
    if (root / "plan.json").is_file():
        return f"{source}: is already a model of autoseg. Use it with `autoseg predict -m`."
    if not root.exists():
        return f"{source}: does not exist"
    return (
        f"{source}: no model of nnU-Net v2 here; expected a folder with plans.json, dataset.json and "
        "fold_0/checkpoint_final.pth, or one above it. Models of nnU-Net v1 (plans.pkl) cannot be imported."
    )


def read_selection(folders: Mapping[str, ModelFolder], encoding: LabelEncoding) -> tuple[Selection | None, str]:
    """The recipe of the imported model.

    inference_information.json decides when it names imported configurations. Without it, post-processing is imported
    only with a single configuration, because there was no choice among several.

    Args:
        folders: Model folders by the name of the imported configuration.
        encoding: Encoding of the labels.

    Returns:
        The selection, or None without a recipe; and one sentence about it.

    Raises:
        InteropError: If a post-processing function is not part of nnU-Net, or its labels are not the model's.
    """
    first = next(iter(folders.values()))
    path = first.path.parent / "inference_information.json"
    if first.trained_as and path.is_file():  # else the folder above is not nnU-Net's
        information = read_nnunet_file(path, InferenceFile)
        chosen = information.best_model_or_ensemble.selected_model_or_models
        missing = [
            f"{model.trainer}__{model.plans_identifier}__{model.configuration}"
            for model in chosen
            if folders.get(model.configuration, first).trained_as != f"{model.trainer}__{model.plans_identifier}"
            or model.configuration not in folders
        ]
        if not missing:
            return _from_information(information, folders, encoding)
        return None, f"inference_information.json chose {', '.join(missing)}, which was not imported."
    if len(folders) > 1:
        return None, "There is no inference_information.json, so nothing was chosen among the configurations."
    ((name, folder),) = folders.items()
    found = _postprocessing_files(folder.path)
    if not found:
        return None, "There is neither inference_information.json nor postprocessing.json."
    content = read_nnunet_file(found[0], PostprocessingFile)
    reason = f"Post-processing as in {found[0].parent.name}/{found[0].name} of nnU-Net's model."
    selection = Selection(
        configurations=(name,),
        folds=tuple(folder.folds),
        postprocessing=_steps(content, encoding, found[0]),
        mean_foreground_dice=content.postprocessed.foreground_mean.Dice,
        candidates=(),
        reasons=(reason,),
    )
    return selection, reason


def _from_information(
    information: InferenceFile, folders: Mapping[str, ModelFolder], encoding: LabelEncoding
) -> tuple[Selection, str]:
    best = information.best_model_or_ensemble
    names = tuple(model.configuration for model in best.selected_model_or_models)
    imported = set.intersection(*(set(folders[name].folds) for name in names))
    asked = tuple(str(fold) for fold in information.folds)
    folds = tuple(fold for fold in asked if fold in imported) or tuple(sorted(imported))
    source = Path(best.postprocessing_file.replace("\\", "/")).parent.name
    candidates = [
        *(path for path in _postprocessing_files(folders[names[0]].path) if path.parent.name == source),
        folders[names[0]].path.parent / "ensembles" / source / "postprocessing.json",
    ]
    found = next((path for path in candidates if path.is_file()), None)
    steps = () if found is None else _steps(read_nnunet_file(found, PostprocessingFile), encoding, found)
    reason = f"inference_information.json of nnU-Net chose {' and '.join(names)}, folds {', '.join(asked)}."
    reasons = [reason]
    if folds != asked:
        reasons.append(f"Of these folds {', '.join(folds)} were imported.")
    if found is None:
        reasons.append(f"No post-processing: there is no postprocessing.json in {source or 'its folder'}.")
    reasons += [f"{name}: mean foreground Dice {score}" for name, score in information.all_results.items()]
    selection = Selection(
        configurations=names,
        folds=folds,
        postprocessing=steps,
        mean_foreground_dice=best.result_on_crossval_post_pp,
        candidates=(),
        reasons=tuple(reasons),
    )
    return selection, reason


def _postprocessing_files(folder: Path) -> Sequence[Path]:
    """Post-processing files of a model folder; the cross-validation over most folds first."""
    found = [*folder.glob("crossval_results_folds_*/postprocessing.json"), *folder.glob("postprocessing.json")]
    return sorted(found, key=lambda path: (-path.parent.name.count("_"), path))


def _steps(content: PostprocessingFile, encoding: LabelEncoding, path: Path) -> tuple[KeepLargestComponent, ...]:
    foreign = [name for name in content.postprocessing_fns if name != KEEP_LARGEST]
    if foreign:
        raise InteropError(
            f"{path}: post-processing by {', '.join(foreign)}, which is not part of nnU-Net; autoseg imports "
            f"{KEEP_LARGEST}. Import a copy without this file, and apply that function yourself."
        )
    return tuple(
        KeepLargestComponent(labels=_names_of(set(_values(arguments, path)), encoding, path))
        for arguments in content.postprocessing_kwargs
    )


def _values(arguments: JsonObject, path: Path) -> Iterator[int]:
    """Label values whose union is post-processed: of a label, a region, or a list of both."""
    entries = [arguments.get("labels_or_regions")]
    while entries:
        entry = entries.pop()
        if isinstance(entry, list):
            entries.extend(entry)
        elif isinstance(entry, int):
            yield entry
        else:
            raise InteropError(f"{path}: labels_or_regions is {arguments}, expected label values")
    if arguments.get("background_label", 0) != 0:
        raise InteropError(f"{path}: removed components become {arguments['background_label']}, expected background")


def _names_of(values: set[int], encoding: LabelEncoding, path: Path) -> tuple[str, ...]:
    """Heads whose labels together are the values; a single head where one suffices."""
    labels = {head.name: {encoding.values[index] for index in head.indices} for head in encoding.heads}
    alone = [name for name, own in labels.items() if own == values]
    names = alone[:1] or [name for name, own in labels.items() if own <= values]
    if set().union(*(labels[name] for name in names)) != values:
        raise InteropError(
            f"{path}: post-processing of the label values {sorted(values)}, which are not labels or regions of the "
            f"model ({', '.join(labels)})"
        )
    return tuple(names)
