"""From a workspace to networks ready to predict: configurations, cascade steps before them, precision."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import nn

from autoseg.errors import PredictionError
from autoseg.inference.models.fold_mirroring import common_mirroring
from autoseg.inference.models.fold_weights import advise_on_fold, load_network, read_fold_record
from autoseg.inference.windows.network_pass import NetworkPasses, choose_passes
from autoseg.networks.threads import choose_threads
from autoseg.records.dataset import LabelEncoding
from autoseg.records.plan import Configuration, Plan, is_model_of
from autoseg.records.sides import SideSwap
from autoseg.records.workspace import Workspace
from autoseg.system import ThreadOption
from autoseg.text import format_command

logger = logging.getLogger("autoseg.predict")


@dataclass(frozen=True)
class LoadedConfiguration:
    """One configuration with the networks of its folds, on their device and in evaluation mode."""

    name: str
    configuration: Configuration
    folds: tuple[str, ...]
    networks: tuple[nn.Module, ...]
    mirror_axes: tuple[int, ...]
    """Spatial axes of the patch that the training of every fold mirrored."""
    swap: SideSwap | None = None
    """Labels that change places where the axis from left to right is mirrored; None: none do."""
    other_plan_folds: tuple[str, ...] = ()
    """Folds whose weights were trained for another plan than that of the workspace."""
    previous: Self | None = None
    """Previous step of a cascade, which makes the label maps that these networks take as input; None without a
    cascade, or where the label maps come from elsewhere."""
    weight: float | None = None
    """Part of the mean of probabilities that it has in an ensemble; None: as large as that of the others."""
    passes: NetworkPasses = field(default_factory=NetworkPasses, compare=False)
    """Device, precision and batches of its networks."""


def load_with_previous(
    workspace: Workspace, plan: Plan, name: str, folds: Sequence[str], checkpoint: str, device: torch.device
) -> LoadedConfiguration:
    """Load a configuration and, of a cascade, the steps before it; arguments as for `load_configuration`.

    The previous step predicts with the same folds, so that a case which these held out is new to both steps; if none
    of them is trained, with all that are.

    Raises:
        PredictionError: If a configuration cannot be loaded, or the previous step has no trained fold.
    """
    loaded = load_configuration(workspace, plan, name, folds, checkpoint, device)
    previous = loaded.configuration.previous_configuration
    if previous is None:
        return loaded
    trained = workspace.trained_folds(previous, checkpoint)
    if not trained:
        raise PredictionError(
            f"{workspace.root}: {name} takes the label maps of {previous} as input, which has no trained fold "
            f"(checkpoint_{checkpoint}). Run "
            f"{format_command('autoseg-train', workspace.root, '-c', previous, '-f', 'FOLD')}, or predict with another "
            "configuration."
        )
    same = [fold for fold in loaded.folds if fold in trained]
    return replace(loaded, previous=load_with_previous(workspace, plan, previous, same, checkpoint, device))


def load_coarse_configuration(
    workspace: Workspace, plan: Plan, members: Sequence[LoadedConfiguration], checkpoint: str, device: torch.device
) -> LoadedConfiguration | None:
    """One network of 3d_lowres for a coarse pass, if that is trained and no member is coarse already."""
    is_coarse = any(member.name == "3d_lowres" or member.previous is not None for member in members)
    trained = workspace.trained_folds("3d_lowres", checkpoint)
    if is_coarse or "3d_lowres" not in plan.configurations or not trained:
        return None
    return load_configuration(workspace, plan, "3d_lowres", trained[:1], checkpoint, device)


def with_first_folds(loaded: LoadedConfiguration, max_folds: int | None) -> LoadedConfiguration:
    """The same configuration with at most `max_folds` folds, in earlier cascade steps as well; None: all."""
    previous = None if loaded.previous is None else with_first_folds(loaded.previous, max_folds)
    return replace(loaded, folds=loaded.folds[:max_folds], networks=loaded.networks[:max_folds], previous=previous)


def with_precision(
    loaded: LoadedConfiguration,
    precision: str,
    device: torch.device,
    encoding: LabelEncoding,
    threads: ThreadOption = "auto",
) -> LoadedConfiguration:
    """Set the precision and the threads of a configuration and of the cascade steps before it.

    This is the one rule for validation, ensembles, thresholds, refinement and prediction: what is scored is computed
    as what is predicted.

    Args:
        loaded: Networks on `device`.
        precision: auto, fp32, tf32, bf16 or fp16. `auto` lets the first windows decide
            (`inference.windows.network_pass`) where the device computes in 16 bits, and is fp32 elsewhere.
        device: Device of the networks.
        encoding: Tells whether the largest head decides, or every region for itself.
        threads: Threads on a CPU.

    Raises:
        UsageError: If the precision is unknown, or not available on the device.
    """
    normalization, is_softmax = loaded.configuration.network.normalization, encoding.activation == "softmax"
    passes = choose_passes(precision, device, normalization, is_softmax=is_softmax)
    passes = replace(passes, threads=choose_threads(threads, device))
    before = loaded.previous
    previous = None if before is None else with_precision(before, precision, device, encoding, threads)
    return replace(loaded, passes=passes, previous=previous)


def load_configuration(
    workspace: Workspace, plan: Plan, name: str, folds: Sequence[str], checkpoint: str, device: torch.device
) -> LoadedConfiguration:
    """Build the networks of a configuration's folds and load their weights; of a cascade, those of this step alone.

    Weights of another plan are loaded if they fit: whoever uses them calls `refuse_other_plans`, or says that they are.

    Args:
        workspace: Workspace with the weights.
        plan: Plan with the configuration.
        name: Configuration name.
        folds: Fold names; empty: all trained folds except `all`, which is used if there is no other.
        checkpoint: `final` or `best`.
        device: Device of the networks.

    Raises:
        PredictionError: If a fold is not trained, or a weights file is damaged or belongs to another network.
    """
    if name not in plan.configurations:
        raise PredictionError(f"{workspace.selection}: chooses {name!r}, which is not in {workspace.plan}")
    configuration = plan.configurations[name]
    trained = workspace.trained_folds(name, checkpoint)
    chosen = tuple(folds) or tuple(fold for fold in trained if fold != "all") or trained
    missing = [fold for fold in chosen if fold not in trained]
    if missing or not chosen:
        raise PredictionError(
            f"{workspace.root}: configuration {name!r} has no checkpoint_{checkpoint} for fold(s) "
            f"{', '.join(missing) or 'any'}; trained folds: {', '.join(trained) or 'none'}"
        )
    records = [read_fold_record(workspace, name, fold, checkpoint) for fold in chosen]
    others = tuple(record.fold for record in records if not is_model_of(plan, name, record.model_hash))
    axes, swap = common_mirroring(name, records, plan.encoding)
    networks = tuple(load_network(workspace, configuration, name, fold, checkpoint, device) for fold in chosen)
    passes = NetworkPasses(device, configuration.network.normalization)
    return LoadedConfiguration(name, configuration, chosen, networks, axes, swap, others, passes=passes)


def refuse_other_plans(workspace: Workspace, members: Iterable[LoadedConfiguration]) -> None:
    """Refuse weights that were trained for another plan than that of the workspace.

    Raises:
        PredictionError: If there are any; it names the first.
    """
    for name, fold in find_weights_of_other_plans(members):
        raise PredictionError(
            f"{workspace.fold(name, fold)}: this fold was trained for another plan (spacing, normalisation, labels or "
            f"network differ). Restore the plan that it was trained for. {advise_on_fold(workspace, name, fold)} To "
            "predict with it all the same: autoseg predict --accept-other-plan"
        )


def find_weights_of_other_plans(members: Iterable[LoadedConfiguration]) -> list[tuple[str, str]]:
    """Configuration and fold of all weights that were trained for another plan, of cascade steps too."""
    found = []
    for member in members:
        found += [(member.name, fold) for fold in member.folds if fold in member.other_plan_folds]
        found += [] if member.previous is None else find_weights_of_other_plans([member.previous])
    return found
