"""The weights of one fold: their record, checked, and the network that has them.

Tested in tests/inference/models/test_loading.py.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from autoseg.errors import PredictionError
from autoseg.networks.build import build_network
from autoseg.networks.layout import place_network
from autoseg.networks.weight_files import is_same_training, read_inner_record, read_weights
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.records.plan import Configuration
from autoseg.records.workspace import Workspace
from autoseg.text import format_command


def read_fold_record(workspace: Workspace, name: str, fold: str, checkpoint: str) -> Checkpoint:
    """The record of a fold's weights, which belong to this fold, its model, and the record inside the weights file.

    Raises:
        PredictionError: If they do not, or the weights cannot be read.
    """
    path = workspace.fold(name, fold) / f"checkpoint_{checkpoint}.json"
    record, weights = read_record(Checkpoint, path), path.with_suffix(".safetensors")
    try:
        inner = read_inner_record(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise PredictionError(_describe_damage(weights, error, workspace, name, fold)) from error
    if (record.configuration, record.fold) != (name, fold):
        raise PredictionError(
            f"{path}: is the record of {record.configuration}, fold {record.fold}, expected {name}, fold {fold}. Put "
            f"the files of this fold back. {advise_on_fold(workspace, name, fold)}"
        )
    if inner is not None and not is_same_training(inner, record):
        raise PredictionError(
            f"{weights}: the weights do not fit {path.name} beside them: they are of {inner.configuration}, fold "
            f"{inner.fold}, and of another plan or other cases if that is the same. Put both files of one training "
            f"there. {advise_on_fold(workspace, name, fold)}"
        )
    return record


def _describe_damage(path: Path, error: Exception, workspace: Workspace, name: str, fold: str) -> str:
    return f"{path}: the weights cannot be read ({error}). {advise_on_fold(workspace, name, fold)}"


def advise_on_fold(workspace: Workspace, name: str, fold: str) -> str:
    """What to do about a fold's wrong files: exported and imported models have no dataset to train on."""
    if not workspace.dataset.is_file():
        return "Copy or download the model again, or export it again where it was trained."
    return (
        f"Train this fold again: {format_command('autoseg-train', workspace.root, '-c', name, '-f', fold, '--restart')}"
    )


def load_network(
    workspace: Workspace, configuration: Configuration, name: str, fold: str, checkpoint: str, device: torch.device
) -> nn.Module:
    """The network of a fold, in evaluation mode.

    Raises:
        PredictionError: If the weights are damaged or do not fit the network.
    """
    path = workspace.fold(name, fold) / f"checkpoint_{checkpoint}.safetensors"
    network = build_network(configuration.network, deep_supervision=False)
    try:
        network.load_state_dict(read_weights(path))
    except (SafetensorError, OSError) as error:
        raise PredictionError(_describe_damage(path, error, workspace, name, fold)) from error
    except RuntimeError as error:
        raise PredictionError(
            f"{path}: this fold was trained for another plan: the weights do not fit the network in {workspace.plan} "
            f"({error})"
        ) from error
    return place_network(network, configuration.network, device).eval()
