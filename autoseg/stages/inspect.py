"""Inspect: what a model expects and predicts, from its records alone; torch is not needed.

plan.json, selection.json, evaluation.json, manifest.json --> ModelInfo
"""

from pathlib import Path

from autoseg.errors import PredictionError
from autoseg.interop.models import open_model, read_manifest
from autoseg.records.evaluation import Evaluation
from autoseg.records.files import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.manifest import Manifest
from autoseg.records.model_info import ConfigurationInfo, ModelInfo
from autoseg.records.plan import Configuration, Decision, Plan, hash_plan
from autoseg.records.provenance import Provenance
from autoseg.records.selection import Selection
from autoseg.records.workspace import Workspace
from autoseg.system import is_installed
from autoseg.text import format_value


def inspect_model(model: Path) -> ModelInfo:
    """Describe a model. Hashes of an exported model are compared with its manifest; networks are not loaded.

    Args:
        model: A workspace, or an exported model (folder or zip file).

    Raises:
        PredictionError: If the folder has no plan.json.
        InteropError: If a file is not an exported model, or was altered.
        RecordError: If one of its JSON files is damaged.
    """
    with open_model(model) as workspace:
        if not workspace.plan.is_file():
            lack = "has no plan.json" if model.exists() else "does not exist"
            raise PredictionError(f"{model}: not a model, it {lack}. Give a workspace or an exported model.")
        plan = read_record(Plan, workspace.plan)
        manifest = read_manifest(workspace.root)
        selection = read_record(Selection, workspace.selection) if workspace.selection.is_file() else None
        networks = [configuration.network for configuration in plan.configurations.values()]
        requires = tuple(dict.fromkeys(name for network in networks for name in network.network_package.split()))
        return ModelInfo(
            model=str(model),
            kind="workspace" if manifest is None else "exported",
            requires=requires,
            missing=tuple(name for name in requires if not is_installed(name)),
            dataset_name=plan.dataset_name,
            channel_names=plan.channel_names,
            labels=plan.labels,
            file_ending=plan.file_ending,
            trials=next((_describe_trials(decision) for decision in plan.decisions if decision.what == "trials"), ""),
            selected=() if selection is None else selection.configurations,
            postprocessing=() if selection is None else tuple(step.operation for step in selection.postprocessing),
            configurations={
                name: _describe_configuration(workspace, name, configuration)
                for name, configuration in plan.configurations.items()
            },
            mean_foreground_dice=None if selection is None else selection.mean_foreground_dice,
            label_dice=_read_label_dice(workspace, manifest),
            num_cases=_count_cases(workspace),
            weights_bytes=sum(path.stat().st_size for path in (workspace.root / "models").rglob("*.safetensors")),
            license="" if manifest is None else manifest.license,
            created="" if manifest is None else manifest.created,
            autoseg_version=_read_version(workspace, manifest),
            plan_hash=hash_plan(plan) if manifest is None else manifest.plan_hash,
        )


def _describe_trials(decision: Decision) -> str:
    return f"{format_value(decision.value)}. {decision.reason}"


def _describe_configuration(workspace: Workspace, name: str, configuration: Configuration) -> ConfigurationInfo:
    return ConfigurationInfo(
        folds=workspace.trained_folds(name),
        architecture=configuration.network.architecture,
        network_name=configuration.network.network_name,
        spacing=configuration.spacing,
        patch_size=configuration.patch_size,
        parameters=configuration.estimates.parameters,
        previous_configuration=configuration.previous_configuration,
    )


def _read_label_dice(workspace: Workspace, manifest: Manifest | None) -> dict[str, float | None]:
    if manifest is not None:
        return manifest.label_dice
    if not workspace.evaluation.is_file():
        return {}
    evaluation = read_record(Evaluation, workspace.evaluation)
    return {name: summary.dice for name, summary in evaluation.labels.items()}


def _count_cases(workspace: Workspace) -> int | None:
    if not workspace.fingerprint.is_file():
        return None
    return len(read_record(Fingerprint, workspace.fingerprint).cases)


def _read_version(workspace: Workspace, manifest: Manifest | None) -> str:
    if manifest is not None:
        return manifest.autoseg_version
    path = workspace.provenance("plan")
    return read_record(Provenance, path).autoseg_version if path.is_file() else ""
