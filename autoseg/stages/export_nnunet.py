"""Export in nnU-Net's format: a results folder that nnU-Net v2 and programs that read its models predict with."""

import json
import logging
from pathlib import Path

from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.interop.archives import refuse_output, staged_output
from autoseg.interop.models import open_model
from autoseg.interop.nnunet_description import (
    PLANS,
    TRAINER,
    dataset_folder,
    describe_dataset,
    describe_differences,
    describe_fingerprint,
    describe_plans,
    refuse_inexpressible,
)
from autoseg.interop.nnunet_files import JsonObject
from autoseg.interop.nnunet_weights import name_as_nnunet, write_checkpoint
from autoseg.networks.weight_files import read_weights
from autoseg.progress import Progress, no_progress
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record, write_text
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.manifest import Manifest
from autoseg.stages.export import FINAL, ExportOptions, ModelToExport, choose_model, without_correcting, write_manifest

logger = logging.getLogger("autoseg.export")

SWAP_NOTE = (
    "nnU-Net does not mirror it from left to right, because it cannot let the labels of the two sides change places; "
    "label maps differ slightly."
)


def export_nnunet(
    model: Path, output: Path, options: ExportOptions | None = None, progress: Progress = no_progress
) -> Manifest:
    """Write `DatasetNNN_NAME/nnUNetTrainer__nnUNetPlans__CONFIGURATION` for each configuration, and manifest.json.

    Each such folder has plans.json, dataset.json, `fold_K/checkpoint_final.pth` and, of models that were trained here,
    dataset_fingerprint.json. What nnU-Net has no place for, such as post-processing, is left out; warnings and the
    description in dataset.json say so.

    Args:
        model: A workspace, or an exported model.
        output: A folder, or a zip file if it ends with .zip; written completely or not at all.
        options: Choice of configurations, folds, weights; None: all defaults.
        progress: Called after each network.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        PredictionError: If nothing is trained, or a weights file is damaged or belongs to another plan.
        InteropError: If the model cannot be opened, nnU-Net cannot express it, or the output may not be replaced.
        RecordError: If one of the model's JSON files is damaged.
    """
    options = options or ExportOptions()
    refuse_output(output, model, overwrite=options.overwrite)
    with open_model(model) as workspace:
        chosen = without_correcting(choose_model(workspace, options), "nnU-Net's")
        stages = {stage.name: stage for stage in chosen.stages()}
        refuse_inexpressible(chosen.plan, stages)
        notes = [*describe_differences(chosen.plan, chosen.selection, stages)]
        notes += [f"{name}: {SWAP_NOTE}" for name, stage in stages.items() if _swapped_axes(stage)]
        for note in notes:
            logger.warning("%s", note)
        with staged_output(output) as folder:
            _write_models(chosen, stages, notes, folder / dataset_folder(chosen.plan), progress)
            return write_manifest(chosen, folder, "nnunet")


def _write_models(
    chosen: ModelToExport, stages: dict[str, LoadedConfiguration], notes: list[str], root: Path, progress: Progress
) -> None:
    path = chosen.workspace.fingerprint
    fingerprint = read_record(Fingerprint, path) if path.is_file() else None
    cases = 0 if fingerprint is None else len(fingerprint.cases)
    dataset = describe_dataset(chosen.plan, cases, chosen.license, notes)
    folds = chosen.folds()
    done, count = 0, sum(map(len, folds.values()))
    for name, stage in stages.items():
        folder = root / f"{TRAINER}__{PLANS}__{name}"
        plans = describe_plans(chosen.plan, stages, name, fingerprint)
        _write_json(plans, folder / "plans.json")
        _write_json(dataset, folder / "dataset.json")
        if fingerprint is not None:
            _write_json(describe_fingerprint(fingerprint), folder / "dataset_fingerprint.json")
        for fold in folds[name]:
            _write_fold(chosen, stage, fold, folder, {"plans": plans, "dataset_json": dataset})
            done += 1
            progress(done, count)


def _write_json(content: JsonObject, path: Path) -> None:
    write_text(json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n", path)


def _write_fold(
    chosen: ModelToExport, stage: LoadedConfiguration, fold: str, folder: Path, described: JsonObject
) -> None:
    source = chosen.workspace.fold(stage.name, fold) / f"checkpoint_{chosen.options.checkpoint}"
    record = read_record(Checkpoint, source.with_suffix(".json"))
    weights = name_as_nnunet(read_weights(source.with_suffix(".safetensors")), stage.configuration.network)
    path = folder / f"fold_{fold}" / f"{FINAL}.pth"
    axes = tuple(axis for axis in stage.mirror_axes if axis not in _swapped_axes(stage))
    write_checkpoint(path, weights, record, TRAINER, axes, described)


def _swapped_axes(stage: LoadedConfiguration) -> tuple[int, ...]:
    """The axis from left to right where labels change places along it; nnU-Net must not mirror it."""
    return () if stage.swap is None else tuple(axis for axis in stage.mirror_axes if axis == stage.swap.axis)
