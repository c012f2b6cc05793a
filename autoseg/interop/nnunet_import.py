"""Import of a model of nnU-Net v2 into a folder that `Predictor` loads like a workspace.

    FOLDER or ZIP --find--> plans.json, dataset.json, fold_k/checkpoint_*.pth
        --translate--> plan.json, models/<configuration>/fold_<k>/checkpoint_*.{safetensors,json}, selection.json

The result has neither fingerprint.json nor dataset.json: nnU-Net's own do not tell which cases there were.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from autoseg.errors import DatasetError, InteropError
from autoseg.imaging.arrays.labels import make_encoding
from autoseg.interop.archives import errors_naming, extract_safely
from autoseg.interop.nnunet_checkpoint import NnunetCheckpoint, describe_trainer, read_checkpoint
from autoseg.interop.nnunet_configurations import choose_orientation_name, make_configuration, training_of
from autoseg.interop.nnunet_files import (
    DatasetFile,
    PlansFile,
    describe_faults,
    planned_configuration,
    read_nnunet_file,
)
from autoseg.interop.nnunet_folder import ModelFolder, find_model_folders, read_selection
from autoseg.interop.nnunet_network import rename_weights
from autoseg.networks.weight_files import write_weights
from autoseg.progress import Progress, no_progress
from autoseg.records.budget import Budget
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import staged_folder, write_record
from autoseg.records.names import is_file_name
from autoseg.records.plan import IMPORTED, Configuration, Decision, Plan, model_hash
from autoseg.records.temporaries import sweep_temporaries
from autoseg.records.workspace import Workspace

logger = logging.getLogger("autoseg.import")


@dataclass(frozen=True)
class _Model:
    """One configuration of the nnU-Net model."""

    folder: ModelFolder
    plans: PlansFile
    dataset: DatasetFile
    first: NnunetCheckpoint
    """Checkpoint of the first fold."""


def import_nnunet(
    source: Path, target: Path, *, trained_as: str | None = None, progress: Progress = no_progress
) -> Plan:
    """Import a trained model; the source is only read.

    Args:
        source: A model folder (`Trainer__Plans__configuration`), a folder above it with several configurations, or a
            zip file of either, such as the output of nnUNetv2_export_model_to_zip.
        target: Folder to create; an existing one has to be empty.
        trained_as: `<trainer>__<plans>` to import when the source has several.
        progress: Called after each checkpoint.

    Returns:
        The plan that was written.

    Raises:
        InteropError: If the source is not a model, a file of it is damaged or unsafe, or its predictions depend on
            something that autoseg does not have; names it. No file remains.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InteropError(f"{target}: already exists. Choose another folder with -o, or remove it first.")
    sweep_temporaries(target.parent)
    with _opened(source, target) as root, staged_folder(target) as staged:
        models = _read_models(find_model_folders(root, source, trained_as))
        plan = _make_plan(models, source)
        workspace = Workspace(staged)
        selection, reason = read_selection({name: model.folder for name, model in models.items()}, plan.encoding)
        plan = plan.model_copy(
            update={
                "decisions": (*plan.decisions, Decision(what="selection", value=selection is not None, reason=reason))
            }
        )
        write_record(plan, workspace.plan)
        if selection is not None:
            write_record(selection, workspace.selection)
        _write_weights(models, plan, workspace, source, progress)
        if target.exists():
            target.rmdir()  # Windows does not replace even an empty folder
        staged.rename(target)
    return plan


@contextmanager
def _opened(source: Path, target: Path) -> Iterator[Path]:
    """The source as a folder; a zip file is unpacked beside the target, on a disk with space for the model."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise InteropError(f"{source}: does not exist")
    with staged_folder(target) as folder, errors_naming(source, folder):
        extract_safely(source, folder)
        yield folder


def _read_models(folders: Sequence[ModelFolder]) -> dict[str, _Model]:
    """Models by the configuration name in their checkpoints."""
    models: dict[str, _Model] = {}
    for folder in folders:
        checkpoints = next(iter(folder.folds.values()))
        first = read_checkpoint(checkpoints["final"])
        if not is_file_name(first.configuration):
            raise InteropError(
                f"{checkpoints['final']}: its configuration is called {first.configuration!r}, which leads out of the "
                "output; expected a name such as 3d_fullres. Nothing was imported: ask its author for another model."
            )
        if first.configuration in models:
            raise InteropError(
                f"{folder.path}: {models[first.configuration].folder.path.name} has the same configuration "
                f"{first.configuration}. Give one of the two folders."
            )
        plans, dataset = read_nnunet_file(folder.plans, PlansFile), read_nnunet_file(folder.dataset, DatasetFile)
        models[first.configuration] = _Model(folder, plans, dataset, first)
    return models


def _make_plan(models: Mapping[str, _Model], source: Path) -> Plan:
    first = next(iter(models.values()))
    _check_same(models, first)
    encoding = _encoding(first)
    configurations = {name: _configuration(name, model, models, encoding) for name, model in models.items()}
    where = str(first.folder.plans)
    try:
        return Plan(
            dataset_name=first.plans.dataset_name,
            planner=IMPORTED,
            budget=Budget(),
            channel_names=first.dataset.channels,
            labels=first.dataset.labels,
            encoding=encoding,
            orientation=choose_orientation_name(first.plans, where),
            file_ending=first.dataset.file_ending,
            transpose=first.plans.transpose_forward,
            configurations=configurations,
            decisions=tuple(_decisions(models, source)),
        )
    except ValidationError as error:
        raise InteropError(f"{where}: cannot be converted to a plan: {describe_faults(error)}") from error


def _check_same(models: Mapping[str, _Model], first: _Model) -> None:
    """All configurations must agree on what a plan states only once."""
    for name, model in models.items():
        for what in ("dataset_name", "plans_name", "transpose_forward", "image_reader_writer"):
            mine, theirs = getattr(model.plans, what), getattr(first.plans, what)
            if mine != theirs:
                raise InteropError(
                    f"{model.folder.plans}: {what} of {name} is {mine}, of {first.first.configuration} {theirs}. "
                    "Import them one by one."
                )
        if model.dataset != first.dataset:
            raise InteropError(
                f"{model.folder.dataset}: differs from {first.folder.dataset} in channels or labels. Import them one "
                "by one."
            )


def _encoding(model: _Model) -> LabelEncoding:
    if model.plans.label_manager != "LabelManager":
        raise InteropError(
            f"{model.folder.plans}: labels are decided by {model.plans.label_manager}, which is not part of nnU-Net; "
            "autoseg imports LabelManager. Predict with the version of nnU-Net that has it."
        )
    try:
        return make_encoding(model.dataset.labels, model.dataset.regions_class_order)
    except DatasetError as error:
        raise InteropError(f"{model.folder.dataset}: {error}") from error


def _configuration(name: str, model: _Model, models: Mapping[str, _Model], encoding: LabelEncoding) -> Configuration:
    previous = planned_configuration(model.plans, name, model.folder.plans).previous_stage
    if previous is not None and previous not in models:
        raise InteropError(
            f"{model.folder.path}: {name} takes the label maps of {previous} as input, which is missing. Give the "
            "folder of the dataset, which has both, or a zip file with both."
        )
    return make_configuration(name, model.plans, model.dataset, encoding, model.first, model.folder.plans)


def _decisions(models: Mapping[str, _Model], source: Path) -> Iterator[Decision]:
    first = next(iter(models.values()))
    yield Decision(
        what="origin",
        value=f"{first.plans.dataset_name}, {first.plans.plans_name}",
        reason=f"Imported from nnU-Net ({source.name}), plans {first.plans.plans_name} made by "
        f"{first.plans.experiment_planner_used or 'an unnamed planner'}; autoseg decided nothing.",
    )
    for name, model in models.items():
        trainer = describe_trainer(model.first.trainer)
        if trainer.warning:
            logger.warning("%s: %s", name, trainer.warning)
        yield Decision(
            what=f"{name}.training",
            value=model.first.trainer,
            reason="Epochs and mirrored axes are those of nnU-Net's checkpoint; it records no other constants of the "
            f"training, so these are nnU-Net's defaults. {trainer.sentence}",
        )
        if planned_configuration(model.plans, name, model.folder.plans).previous_stage is not None:
            yield Decision(
                what=f"{name}.previous_labels",
                value="label_map",
                reason="nnU-Net resamples the previous configuration's label map from the image's grid to this one.",
            )


def _write_weights(
    models: Mapping[str, _Model], plan: Plan, workspace: Workspace, source: Path, progress: Progress
) -> None:
    jobs = [
        (name, model, fold, kind, path)
        for name, model in models.items()
        for fold, checkpoints in model.folder.folds.items()
        for kind, path in checkpoints.items()
    ]
    for done, (name, model, fold, kind, path) in enumerate(jobs, start=1):
        read = read_checkpoint(path)
        if (read.configuration, read.trainer) != (name, model.first.trainer):
            raise InteropError(
                f"{path}: has configuration {read.configuration} by {read.trainer}, the other folds have {name} by "
                f"{model.first.trainer}. Replace it by the checkpoint of this fold."
            )
        configuration = plan.configurations[name]
        weights = rename_weights(read.weights, configuration.network, f"{path}, {read.trainer}")
        try:
            record = Checkpoint(
                configuration=name,
                fold=fold,
                model_hash=model_hash(plan, name),
                cases_hash="",
                training=training_of(read, batch_dice=configuration.training.batch_dice),
                epoch=read.epochs,
                step=0,
                elapsed_seconds=read.seconds,
                best_pseudo_dice=read.best_dice,
                finished=kind == "final",
                imported_from=f"nnU-Net, {source.name}, {path.parent.name}/{path.name}",
            )
        except ValidationError as error:
            raise InteropError(
                f"{path}: what it says of its training cannot be meant: {describe_faults(error)}"
            ) from error
        folder = workspace.fold(name, fold)
        write_weights(weights, folder / f"checkpoint_{kind}.safetensors")
        write_record(record, folder / f"checkpoint_{kind}.json")
        progress(done, len(jobs))
