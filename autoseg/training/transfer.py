"""Start a training from the weights of another one.

Tensors are matched by their names and shapes; the heads by the names of what they stand for, and the inputs of the
first convolution by the names of the channels. So a model is reused where the new task shares something with the old
one, whatever the order or the number of its labels and channels. Called once, before the first step.

References:
    nnU-Net v2 (Isensee et al. 2021) loads pretrained weights of the same topology without the heads. Differs: heads,
    inputs and parts that fit are taken over as well.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from autoseg.errors import UsageError
from autoseg.networks.weight_files import is_same_training, read_inner_record, read_weights
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import read_record
from autoseg.records.plan import Configuration, Plan, is_model_of
from autoseg.records.workspace import Workspace
from autoseg.training.adapted_tensors import adapt_heads, adapt_inputs, enlarge_kernels

logger = logging.getLogger("autoseg.train")

WEIGHTS = "checkpoint_final.safetensors"

MIN_KERNEL_AXES = 4
"""Axes of a convolution's weights in 2D."""

HEADS: Final[Mapping[str, bool]] = MappingProxyType(
    {"decoder.heads.": True, "points.head.": True, "boxes.score.": True, "boxes.move.": False, "masks.mask.": False}
)
"""How the names of the heads' tensors begin, and whether their rows begin with the background's."""

ENLARGED: Final = ".depthwise.weight"
"""How the names of kernels end that may become larger."""


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor of the network, by name."""

    source: Path
    """Folder of the fold that the weights come from, in what the user gave."""
    loaded: tuple[str, ...]
    """Taken over as they are."""
    adapted: tuple[str, ...]
    """Heads and first convolution, taken over in part or in another order, and kernels that became larger."""
    skipped: tuple[str, ...]
    """Not in the source, or of another shape; they keep their fresh start."""
    notes: tuple[str, ...] = ()
    """What may spoil the transfer, one sentence each."""

    def lines(self) -> tuple[str, ...]:
        """Counts and notes, for the log."""
        in_encoder = sum(name.startswith("encoder.") for name in self.skipped)
        where = f" ({in_encoder} of them in the encoder)" if in_encoder else ""
        counts = (
            f"pretrained weights of {self.source}: {len(self.loaded)} tensors loaded, {len(self.adapted)} adapted, "
            f"{len(self.skipped)} skipped{where}"
        )
        return (counts, *(f"note: {note}" for note in self.notes))


@dataclass(frozen=True)
class _Model:
    """A plan, and which of its configurations."""

    plan: Plan
    name: str

    @property
    def configuration(self) -> Configuration:
        return self.plan.configurations[self.name]

    def heads(self) -> list[str]:
        return [head.name.casefold() for head in self.plan.encoding.heads]

    def channels(self) -> list[str]:
        """Names of the channels; those of equal names are told apart by their order."""
        names = [name.casefold() for name in self.plan.channel_names]
        earlier = [names[:index].count(name) for index, name in enumerate(names)]
        return [f"{name} ({count + 1})" if count else name for name, count in zip(names, earlier, strict=True)]

    def further_inputs(self) -> list[str]:
        """What follows the image's channels: clicks, labels of the previous configuration, planes of presence."""
        planes = [f"presence of {name}" for name in self.channels()] if self.configuration.channel_presence else []
        return [*self._label_channels(), *planes]

    def _label_channels(self) -> list[str]:
        """Clicks, and labels of the previous configuration; a value without a name is named so."""
        if self.configuration.previous_configuration is None:
            return []
        names = {
            value if isinstance(value, int) else value[0]: name.casefold()
            for name, value in self.plan.labels.items()
            if isinstance(value, int) or len(value) == 1
        }
        parts = {head.painted_index: head.name.casefold() for head in self.plan.encoding.heads if head.part_of}
        values = enumerate(self.plan.encoding.values)
        found = [parts.get(index) or names.get(value, f"value {value}") for index, value in values]
        clicks = [] if self.configuration.clicks is None else [f"click on {name}" for name in found]
        return clicks + found[1:]


def load_pretrained(
    network: nn.Module, plan: Plan, configuration_name: str, source: Path, given: Path | None = None
) -> TransferReport:
    """Put a trained model's weights into a fresh network, as far as they fit; level DEBUG logs the names.

    A head that the source does not have keeps its fresh row. A channel that it does not have gets the mean of its
    channels, and then all kernels are scaled by the old number of channels over the new one, so that the response keeps
    its size. A label channel of a cascade, or a plane of a channel's presence, that it does not have gets zeros.
    Depthwise kernels may be smaller than the network's; see `_enlarge`.

    Args:
        network: Built from the plan; changed in place.
        plan: Plan of the training that begins.
        configuration_name: Name in the plan.
        source: A workspace, of which the fold with the most steps is taken: of the configuration of the same name if
            one is trained, else of those with as many dimensions. Or a fold's folder, models/<configuration>/fold_<k>
            in a workspace.
        given: What messages call `source`, where that is a file that was unpacked; None: the same.

    Raises:
        UsageError: If there are no trained weights or their plan has changed since, or no layer below the heads fits.
    """
    new = _Model(plan, configuration_name)
    given = given or source
    folder = source if (source / WEIGHTS).is_file() else _choose_fold(source, new, given)
    shown = given / folder.relative_to(source)
    old = _read_model(folder, shown)
    taken, adapted = _match(_read_tensors(folder / WEIGHTS), network.state_dict(), old, new)
    if not any(tensor.ndim > 1 and not name.startswith(tuple(HEADS)) for name, tensor in taken.items()):
        raise UsageError(f"--pretrained {shown}: no layer fits. {_list_differences(old, new)}")
    skipped = tuple(name for name in network.state_dict() if name not in taken)
    network.load_state_dict(taken, strict=False)
    report = TransferReport(
        source=shown,
        loaded=tuple(name for name in taken if name not in adapted),
        adapted=adapted,
        skipped=skipped,
        notes=tuple(_find_notes(old, new)),
    )
    for what in ("loaded", "adapted", "skipped"):
        logger.debug("%s: %s", what, ", ".join(getattr(report, what)) or "none")
    return report


def load_encoder(
    network: nn.Module, tensors: Mapping[str, Tensor], source: Path, num_planes: int = 0
) -> TransferReport:
    """Put another project's encoder into a fresh network, as far as it fits; level DEBUG logs the names.

    The first convolution takes the mean of its kernels for each channel, times the old number of channels over the
    new one. Where the network does not look along an axis that the source looks along, kernels are summed over it,
    which gives the same response to images that do not change along that axis.

    Args:
        network: Changed in place.
        tensors: Tensors of the encoder by the network's names.
        source: File, for messages.
        num_planes: Last inputs of the network that say which channels an image has; their kernels become zeros.

    Raises:
        UsageError: If no convolution fits.
    """
    fresh = {name: start for name, start in network.state_dict().items() if name.startswith("encoder.")}
    first = _find_first_kernel(fresh)
    fitted = {
        name: _fit(tensors[name], start, is_first=name == first, num_planes=num_planes)
        for name, start in fresh.items()
        if name in tensors
    }
    taken = {name: tensor for name, tensor in fitted.items() if tensor.shape == fresh[name].shape}
    if not any(tensor.ndim > 1 for tensor in taken.values()):
        raise UsageError(
            f"--pretrained {source}: no layer fits; its encoder has other feature maps. Take another file."
        )
    network.load_state_dict(taken, strict=False)
    adapted = tuple(name for name in taken if tensors[name].shape != fresh[name].shape)
    report = TransferReport(
        source=source,
        loaded=tuple(name for name in taken if name not in adapted),
        adapted=adapted,
        skipped=tuple(name for name in network.state_dict() if name not in taken),
    )
    for what in ("loaded", "adapted", "skipped"):
        logger.debug("%s: %s", what, ", ".join(getattr(report, what)) or "none")
    return report


def _fit(source: Tensor, start: Tensor, *, is_first: bool, num_planes: int) -> Tensor:
    """A tensor for the shape of `start`, as far as rules can make it fit."""
    if source.ndim != start.ndim or source.ndim < MIN_KERNEL_AXES:
        return source
    for axis in range(2, source.ndim):
        if start.shape[axis] == 1:
            source = source.sum(dim=axis, keepdim=True)
    channels, wanted = source.shape[1], start.shape[1] - num_planes
    if is_first and channels != wanted:
        source = source.mean(dim=1, keepdim=True).expand(-1, wanted, *source.shape[2:]) * (channels / wanted)
    if is_first:
        source = torch.cat([source, source.new_zeros((len(source), num_planes, *source.shape[2:]))], dim=1)
    return source


def freeze_encoder(network: nn.Module) -> None:
    """Keep the encoder's weights as they are: no gradients, no optimiser steps.

    Raises:
        UsageError: If the network does not say which part of it is the encoder.
    """
    if "encoder" not in dict(network.named_children()):
        raise UsageError(
            "--freeze-encoder: networks of other packages do not say which part is the encoder. Leave the option out."
        )
    network.get_submodule("encoder").requires_grad_(requires_grad=False)


def _choose_fold(source: Path, new: _Model, given: Path) -> Path:
    workspace = Workspace(source)
    if not workspace.plan.is_file():
        raise UsageError(
            f"--pretrained {given}: neither a workspace nor a fold's folder with final weights; name a folder with "
            f"plan.json, or one such as models/{new.name}/fold_0 with {WEIGHTS}"
        )
    plan = read_record(Plan, workspace.plan)
    dimensions = new.configuration.network.dimensions
    alike = [name for name, value in plan.configurations.items() if value.network.dimensions == dimensions]
    for names in ([new.name] if new.name in alike else [], alike):
        folders = [workspace.fold(name, fold) for name in names for fold in workspace.trained_folds(name)]
        if folders:
            return max(folders, key=lambda folder: _read_checkpoint(folder).step)
    trained = ", ".join(name for name in plan.configurations if workspace.trained_folds(name)) or "none"
    raise UsageError(
        f"--pretrained {given}: no fold of a {dimensions}D configuration has final weights, which {new.name} needs; "
        f"trained configurations: {trained}"
    )


def _read_checkpoint(folder: Path) -> Checkpoint:
    return read_record(Checkpoint, (folder / WEIGHTS).with_suffix(".json"))


def _read_model(folder: Path, shown: Path) -> _Model:
    checkpoint = _read_checkpoint(folder)
    path = Workspace(folder.resolve().parents[2]).plan
    plan = read_record(Plan, path)
    name = checkpoint.configuration
    if not is_model_of(plan, name, checkpoint.model_hash):
        raise UsageError(
            f"--pretrained {shown}: {path.name} was planned again since, so it is not known what the weights mean. "
            "Bring the plan back that they were trained for."
        )
    weights = folder / WEIGHTS
    inner = _read_inner_record(weights)
    if inner is not None and not is_same_training(inner, checkpoint):
        raise UsageError(
            f"--pretrained {folder}: the weights in {WEIGHTS} were trained for another plan or on other cases than the "
            "record beside them says. Put both files of one training there, or train that fold again with --restart."
        )
    return _Model(plan, name)


def _read_inner_record(path: Path) -> Checkpoint | None:
    try:
        return read_inner_record(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"--pretrained: {path} cannot be read ({error}); train that fold again with --restart")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_weights(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _match(
    found: Mapping[str, Tensor], fresh: Mapping[str, Tensor], old: _Model, new: _Model
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors for the network by name, and which of them are not as they were found."""
    first = _find_first_kernel(fresh)
    same_heads = old.heads() == new.heads()
    same_inputs = (old.channels(), old.further_inputs()) == (new.channels(), new.further_inputs())
    taken, adapted = {}, []
    for name, start in fresh.items():
        source = found.get(name)
        if source is None or source.ndim != start.ndim:
            continue
        if name.startswith(tuple(HEADS)) and not same_heads:
            first_row = 0 if next(rows for begin, rows in HEADS.items() if name.startswith(begin)) else 1
            tensor = adapt_heads(source, start.to(source.device), old.heads()[first_row:], new.heads()[first_row:])
            adapted.append(name)
        elif name == first and not same_inputs:
            tensor = adapt_inputs(
                source, (old.channels(), old.further_inputs()), (new.channels(), new.further_inputs())
            )
            adapted.append(name)
        elif name.endswith(ENLARGED) and source.shape != start.shape:
            tensor = enlarge_kernels(source, start.shape[2:])
            adapted.append(name)
        else:
            tensor = source
        if tensor is not None and tensor.shape == start.shape:
            taken[name] = tensor
    return taken, tuple(name for name in adapted if name in taken)


def _find_first_kernel(tensors: Mapping[str, Tensor]) -> str:
    """Name of the weights of the first convolution, which works on the image."""
    return next(name for name, tensor in tensors.items() if tensor.ndim >= MIN_KERNEL_AXES)


def _list_differences(old: _Model, new: _Model) -> str:
    there, here = old.configuration.network, new.configuration.network
    fields = [name for name in type(here).model_fields if getattr(here, name) != getattr(there, name)]
    differences = "; ".join(f"{name} is {getattr(there, name)} there, {getattr(here, name)} here" for name in fields)
    return (
        f"Its network differs: {differences or 'in nothing that the plan says'}. Plan with --like to build the same "
        "network, or name another model."
    )


def _find_notes(old: _Model, new: _Model) -> Iterator[str]:
    """What the plans say otherwise about the images that the networks see."""
    there, here = old.configuration, new.configuration
    differing = []
    if there.spacing != here.spacing:
        differing.append(f"spacing ({_millimetres(there.spacing)} there, {_millimetres(here.spacing)} here)")
    schemes = dict(zip(old.channels(), there.normalization, strict=True))
    own = zip(new.channels(), here.normalization, strict=True)
    others = [name for name, scheme in own if schemes.get(name, scheme) != scheme]
    if others:
        differing.append(f"normalization of {', '.join(others)}")
    differing += [name for name in ("orientation", "transpose") if getattr(old.plan, name) != getattr(new.plan, name)]
    if differing:
        yield f"the model was trained with another {', '.join(differing)}; a plan made with --like keeps the model's"
    if old.plan.dataset_name == new.plan.dataset_name:
        yield (
            f"the model was trained on {old.plan.dataset_name}, too; if it saw validation cases of this fold, their "
            "scores will be too good"
        )


def _millimetres(spacing: Sequence[float]) -> str:
    return " x ".join(f"{edge:.4g}" for edge in spacing) + " mm"
