"""Export as ONNX: networks for other programs, each with a JSON file that says how to use it."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from autoseg import DISTRIBUTION
from autoseg.errors import InteropError
from autoseg.imaging.arrays.intensities import MIN_DIVISOR
from autoseg.inference.models.loading import LoadedConfiguration
from autoseg.inference.windows.sliding_window import MIN_IMPORTANCE
from autoseg.interop.archives import refuse_output, staged_output
from autoseg.interop.models import open_model
from autoseg.interop.onnx_files import BATCH, INPUT, OUTPUT, check_packages, write_onnx
from autoseg.progress import Progress, no_progress
from autoseg.records.files import read_record, write_record
from autoseg.records.manifest import Manifest
from autoseg.records.onnx_network import OnnxNetwork, ParityCheck, SwappedOutputs, TensorFacts, WindowConstants
from autoseg.records.plan import Configuration, Plan
from autoseg.records.workspace import Workspace
from autoseg.stages.export import ExportOptions, ModelToExport, choose_model, without_correcting, write_manifest

OVERLAP: Final = 0.5
"""Default overlap fraction of `Predictor`."""

SIGMAS_PER_PATCH: Final = 8
"""Patch edge divided by sigma, as in `inference.windows.sliding_window.importance_map`."""

GAUSSIAN_TRUNCATION: Final = 4.0
"""Truncation in sigmas: the default of scipy, which `importance_map` uses."""


def export_onnx(
    model: Path, output: Path, options: ExportOptions | None = None, progress: Progress = no_progress
) -> Manifest:
    """Write `<configuration>_fold_<fold>.onnx` and `.json` for each network, and manifest.json.

    Patches have the planned size; the batch size is free. Each file is compared with its network before it is kept.

    Args:
        model: A workspace, or an exported model.
        output: A folder, or a zip file if it ends with .zip; written completely or not at all.
        options: Choice of configurations, folds, weights; None: all defaults.
        progress: Called after each network.

    Returns:
        The manifest, as written to manifest.json.

    Raises:
        UsageError: If a package of the extra `onnx` is not installed.
        PredictionError: If nothing is trained, or a weights file is damaged or belongs to another plan.
        InteropError: If the model cannot be opened, the output may not be replaced, or an ONNX file gives other logits
            than its network.
        RecordError: If one of the model's JSON files is damaged.
    """
    options = options or ExportOptions()
    refuse_output(output, model, overwrite=options.overwrite)
    with open_model(model) as workspace:
        _refuse_objects(workspace)
        check_packages()
        chosen = without_correcting(choose_model(workspace, options), "ONNX")
        networks = _list_networks(chosen)
        with staged_output(output) as folder:
            for done, ((name, fold), (stage, network)) in enumerate(networks.items(), start=1):
                path = folder / _file_name(name, fold)
                configuration = stage.configuration
                shape = configuration.network.input_channels, *configuration.patch_size
                opset, parity = write_onnx(network, shape, path, _metadata(chosen, name, fold))
                record = _describe(chosen, stage, fold, opset, parity)
                write_record(record, path.with_suffix(".json"))
                progress(done, len(networks))
            return write_manifest(chosen, folder, "onnx")


def _refuse_objects(workspace: Workspace) -> None:
    """Refuse networks that no package helps to write."""
    if not workspace.plan.is_file():  # said where the model is chosen
        return
    plan = read_record(Plan, workspace.plan)
    if plan.target == "mask_rcnn":
        raise InteropError(
            f"{plan.dataset_name}: its networks find objects one by one (--target mask-rcnn), and how many there are "
            "is not known when an ONNX file is written. Export the model without --format."
        )


def _list_networks(chosen: ModelToExport) -> dict[tuple[str, str], tuple[LoadedConfiguration, nn.Module]]:
    """Networks with their configurations, by configuration name and fold name."""
    return {
        (stage.name, fold): (stage, network)
        for stage in chosen.stages()
        for fold, network in zip(stage.folds, stage.networks, strict=True)
    }


def _file_name(name: str, fold: str) -> str:
    return f"{name}_fold_{fold}.onnx"


def _metadata(chosen: ModelToExport, name: str, fold: str) -> dict[str, str]:
    """Provenance of one network, which stays with its file wherever it is copied; without paths and cases."""
    return {
        "autoseg_version": version(DISTRIBUTION),
        "torch_version": torch.__version__,
        "plan_hash": chosen.plan_hash,
        "dataset_name": chosen.plan.dataset_name,
        "configuration": name,
        "fold": fold,
        "license": chosen.license,
    }


def _describe(
    chosen: ModelToExport, stage: LoadedConfiguration, fold: str, opset: int, parity: ParityCheck
) -> OnnxNetwork:
    plan, configuration = chosen.plan, stage.configuration
    network = configuration.network
    inputs, heads = network.input_channels, network.output_channels
    is_cascade = configuration.previous_configuration is not None
    previous = tuple(range(1, len(plan.encoding.values))) if is_cascade else ()
    swap = _describe_swap(stage, previous)
    return OnnxNetwork(
        schema_version=_choose_version(configuration, swap),
        guide=f"docs/onnx.md of {DISTRIBUTION} {version(DISTRIBUTION)}",
        file=_file_name(stage.name, fold),
        dataset_name=plan.dataset_name,
        license=chosen.license,
        configuration=stage.name,
        fold=fold,
        fold_files=tuple(_file_name(stage.name, other) for other in stage.folds),
        selected=chosen.selection.configurations,
        member_weights=chosen.selection.member_weights,
        opset=opset,
        input=TensorFacts(name=INPUT, shape=(BATCH, inputs, *configuration.patch_size)),
        output=TensorFacts(name=OUTPUT, shape=(BATCH, heads, *configuration.patch_size)),
        channel_names=plan.channel_names,
        previous_label_indices=previous,
        presence_planes=plan.channel_names if configuration.channel_presence else (),
        orientation=plan.orientation,
        transpose=plan.transpose,
        settings=configuration,
        smallest_divisor=MIN_DIVISOR,
        windows=WindowConstants(
            patch_size=configuration.patch_size,
            overlap=OVERLAP,
            gaussian_sigma=tuple(edge / SIGMAS_PER_PATCH for edge in configuration.patch_size),
            gaussian_truncation=GAUSSIAN_TRUNCATION,
            smallest_weight=MIN_IMPORTANCE,
            mirror_axes=stage.mirror_axes,
            swap=swap,
        ),
        labels=plan.labels,
        encoding=plan.encoding,
        region_thresholds=chosen.selection.region_thresholds,
        decision=chosen.selection.decision,
        postprocessing=chosen.selection.postprocessing,
        is_refined=chosen.selection.refinement is not None,
        parity=parity,
    )


def _choose_version(configuration: Configuration, swap: SwappedOutputs | None) -> Literal[2, 3, 4, 5]:
    """The oldest version whose readers know all that is to be heeded."""
    if configuration.channel_presence:
        return 5
    if configuration.neighbor_slices:
        return 4
    return 2 if swap is None else 3


def _describe_swap(stage: LoadedConfiguration, previous: Sequence[int]) -> SwappedOutputs | None:
    """What changes places where prediction mirrors from left to right; None where it does not, or nothing does."""
    swap = stage.swap
    if swap is None or swap.axis not in stage.mirror_axes:
        return None
    labels = tuple(swap.labels[index] for index in previous)
    return SwappedOutputs(axis=swap.axis, heads=swap.heads, previous_label_indices=labels)
