"""From a workspace to networks ready to predict: which configurations and folds, their weights, and their logits."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from autoseg.errors import PredictionError
from autoseg.folds import find_retrained_folds
from autoseg.imaging.arrays.storage import StoredCase
from autoseg.imaging.formats.volume import AnyArray
from autoseg.inference.models.fold_mirroring import common_mirroring
from autoseg.inference.restoring.restore import LogitStream
from autoseg.inference.windows.channel_presence import list_presence
from autoseg.inference.windows.click_channels import no_clicks
from autoseg.inference.windows.logit_slab import SlabStorage
from autoseg.inference.windows.neighbor_slices import append_neighbors
from autoseg.inference.windows.network_pass import NetworkPass, NetworkPasses, choose_passes, mean_forward
from autoseg.inference.windows.sliding_window import WindowSettings, stream_logits
from autoseg.networks.build import build_network
from autoseg.networks.layout import place_network
from autoseg.networks.threads import choose_threads
from autoseg.networks.weight_files import is_same_training, read_inner_record, read_weights
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.dataset import LabelEncoding
from autoseg.records.files import read_record
from autoseg.records.plan import Configuration, Plan, is_model_of
from autoseg.records.selection import Selection
from autoseg.records.sides import SideSwap
from autoseg.records.workspace import Workspace
from autoseg.system import ThreadOption
from autoseg.text import format_command

logger = logging.getLogger("autoseg.predict")

PREFERENCE = ("3d_cascade_fullres", "3d_fullres", "3d_lowres", "2.5d", "2d")
"""Order of configurations without a selection: most detailed 3D first, with context before without."""
TIE_ORDER = ("2d", "2.5d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
"""Order of configurations with equal scores: cheaper ones first, as in nnU-Net."""
MAX_FLOAT16 = torch.finfo(torch.float16).max


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


def choose_recipe(
    workspace: Workspace, plan: Plan, configuration: str | None, folds: Sequence[str] | None, checkpoint: str
) -> Selection:
    """Recipe that the user asked for, else the one that `select` chose, else the preferred trained configuration.

    Args:
        workspace: Workspace with the weights and, maybe, selection.json.
        plan: Plan with the configurations.
        configuration: Name that the user asked for; None: none.
        folds: Folds that the user asked for; None: none.
        checkpoint: `final` or `best`.

    Returns:
        Configurations, folds (empty: all that are trained), thresholds, refinement and post-processing to follow.

    Raises:
        PredictionError: If the configuration is unknown, or nothing is trained.
    """
    asked = tuple(folds or ())
    if configuration is not None:
        if configuration not in plan.configurations:
            raise PredictionError(
                f"{workspace.plan}: no configuration {configuration!r}; it has {', '.join(plan.configurations)}"
            )
        return recipe_of(configuration, asked)
    if workspace.selection.is_file():
        selection = read_record(Selection, workspace.selection)
        if not asked:
            _warn_of_other_folds(workspace, selection, checkpoint)
        for sentence in find_retrained_folds(workspace, selection):
            logger.warning("%s", sentence)
        return selection.model_copy(update={"folds": asked or selection.folds})
    for name in order_configurations(plan.configurations, PREFERENCE):
        if all(workspace.trained_folds(step, checkpoint) for step in cascade_steps(plan, name)):
            return recipe_of(name, asked)
    raise PredictionError(
        f"{workspace.root}: no configuration has a checkpoint_{checkpoint}.safetensors; run autoseg-train first"
    )


def recipe_of(configuration: str, folds: Sequence[str]) -> Selection:
    """Recipe of one configuration as it is, without a score; no folds: all that are trained."""
    return Selection(
        configurations=(configuration,), folds=tuple(folds), mean_foreground_dice=None, candidates=(), reasons=()
    )


def order_configurations(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Names of configurations in a given order; names that are not in it follow in their own."""
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def cascade_steps(plan: Plan, name: str) -> tuple[str, ...]:
    """Names of a configuration and, before it, of all cascade steps that it follows."""
    steps = [name]
    while (previous := plan.configurations[steps[0]].previous_configuration) is not None:
        steps.insert(0, previous)
    return tuple(steps)


def _warn_of_other_folds(workspace: Workspace, selection: Selection, checkpoint: str) -> None:
    for name in selection.configurations:
        others = [
            fold for fold in workspace.trained_folds(name, checkpoint) if fold != "all" and fold not in selection.folds
        ]
        if others:
            logger.warning(
                "%s: chosen without fold(s) %s of %s, which are trained now and not used; run autoseg select again",
                workspace.selection, ", ".join(others), name,
            )  # fmt: skip


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
    records = [_read_checkpoint(workspace, name, fold, checkpoint) for fold in chosen]
    others = tuple(record.fold for record in records if not is_model_of(plan, name, record.model_hash))
    axes, swap = common_mirroring(name, records, plan.encoding)
    networks = tuple(_load_network(workspace, configuration, name, fold, checkpoint, device) for fold in chosen)
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
            f"network differ). Restore the plan that it was trained for. {_advise(workspace, name, fold)} To predict "
            "with it all the same: autoseg predict --accept-other-plan"
        )


def find_weights_of_other_plans(members: Iterable[LoadedConfiguration]) -> list[tuple[str, str]]:
    """Configuration and fold of all weights that were trained for another plan, of cascade steps too."""
    found = []
    for member in members:
        found += [(member.name, fold) for fold in member.folds if fold in member.other_plan_folds]
        found += [] if member.previous is None else find_weights_of_other_plans([member.previous])
    return found


def _read_checkpoint(workspace: Workspace, name: str, fold: str, checkpoint: str) -> Checkpoint:
    """The record of a fold's weights, which belong to this fold, its model, and the record inside the weights file."""
    path = workspace.fold(name, fold) / f"checkpoint_{checkpoint}.json"
    record, weights = read_record(Checkpoint, path), path.with_suffix(".safetensors")
    try:
        inner = read_inner_record(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise PredictionError(_describe_damage(weights, error, workspace, name, fold)) from error
    if (record.configuration, record.fold) != (name, fold):
        raise PredictionError(
            f"{path}: is the record of {record.configuration}, fold {record.fold}, expected {name}, fold {fold}. Put "
            f"the files of this fold back. {_advise(workspace, name, fold)}"
        )
    if inner is not None and not is_same_training(inner, record):
        raise PredictionError(
            f"{weights}: the weights do not fit {path.name} beside them: they are of {inner.configuration}, fold "
            f"{inner.fold}, and of another plan or other cases if that is the same. Put both files of one training "
            f"there. {_advise(workspace, name, fold)}"
        )
    return record


def _describe_damage(path: Path, error: Exception, workspace: Workspace, name: str, fold: str) -> str:
    return f"{path}: the weights cannot be read ({error}). {_advise(workspace, name, fold)}"


def _advise(workspace: Workspace, name: str, fold: str) -> str:
    """What to do about a fold's wrong files: exported and imported models have no dataset to train on."""
    if not workspace.dataset.is_file():
        return "Copy or download the model again, or export it again where it was trained."
    return (
        f"Train this fold again: {format_command('autoseg-train', workspace.root, '-c', name, '-f', fold, '--restart')}"
    )


def _load_network(
    workspace: Workspace, configuration: Configuration, name: str, fold: str, checkpoint: str, device: torch.device
) -> nn.Module:
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


def stream_case_logits(
    loaded: LoadedConfiguration,
    image: NDArray[np.float32],
    previous: AnyArray | None = None,
    settings: WindowSettings | None = None,
    absent_channels: Sequence[int] = (),
    clicks: Sequence[AnyArray] = (),
) -> Iterator[Tensor]:
    """Mean logits of one configuration's networks, slice by slice.

    Args:
        loaded: Networks, and the device and precision in which they compute.
        image: (C, Z, Y, X), preprocessed; neighbouring slices are appended where the configuration has some.
        previous: Label indices of a cascade's previous step on the same grid, (Z, Y, X); None without a cascade.
        settings: How windows cover the image; None: the defaults, with sums beside the networks.
        absent_channels: Numbers of the channels that the image lacks.
        clicks: Channels of clicks, (Z, Y, X), one for each label; where the configuration has them and none are given
            there is no click.

    Returns:
        Z times (K, Y, X), where the sums are kept, first to last, in the configuration's `logits_precision`. The
        networks run while these are asked for.

    References:
        nnU-Net v2 (Isensee et al. 2021) keeps logits in float16. Differs, where a plan asks for it: windows are summed
        in float32, and only the finished logits are rounded; those beyond float16's range become its largest.
    """
    settings = settings or WindowSettings(storage=SlabStorage("device"))
    storage = replace(settings.storage, device=loaded.passes.device)
    settings = replace(settings, storage=storage, swap=loaded.swap, has_label_map=previous is not None)
    configuration = loaded.configuration
    mirror_axes = loaded.mirror_axes if settings.mirroring else ()
    channels: list[AnyArray] = [*append_neighbors(list(image), configuration.neighbor_slices)]
    if previous is not None:
        channels += list(clicks) or no_clicks(configuration, len(channels), image.shape[1:])
        channels.append(previous)
    presence = list_presence(configuration, absent_channels)
    num_inputs = configuration.network.input_channels - len(presence)
    num_labels = 0 if previous is None else num_inputs - len(channels) + 1
    forward = NetworkPass(
        mean_forward(loaded.networks), loaded.passes,
        num_labels=num_labels, mirror_axes=mirror_axes, swap=loaded.swap, presence=presence,
    )  # fmt: skip
    slices = stream_logits(
        forward,
        channels,
        configuration.patch_size,
        configuration.network.output_channels,
        mirror_axes,
        settings,
    )
    if configuration.logits_precision == "float32":
        return slices
    return (logits.clamp_(-MAX_FLOAT16, MAX_FLOAT16).to(torch.float16) for logits in slices)


def stream_stored_case(
    loaded: LoadedConfiguration, stored: StoredCase, previous: AnyArray | None = None
) -> LogitStream:
    """Mean logits of a stored case, as one stream with what is needed to bring them to the image's own grid.

    Args:
        loaded: Networks, and the device and precision in which they compute.
        stored: Preprocessed case of the same configuration.
        previous: Label indices of a cascade's previous step on the same grid, (Z, Y, X); None without a cascade.
    """
    absent = stored.record.absent_channels
    slices = stream_case_logits(loaded, stored.read_image(), previous, absent_channels=absent)
    return LogitStream(slices, stored.record, loaded.configuration.resampling, loaded.weight)
