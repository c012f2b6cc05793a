"""Checkpoints on disk: weights as safetensors, everything else as JSON; nothing is pickled.

`checkpoint_final` and `checkpoint_best` hold the network's weights alone. `checkpoint_last` holds what resuming
needs in one file, so that a kill between two writes cannot pair the weights of one moment with the optimiser of
another: names begin with `network.`, `optimizer.` or `average.`, and the record travels in the file's own metadata.
A JSON copy of the record lies beside each file for people.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from autoseg.errors import TrainingError
from autoseg.networks.weight_files import read_inner_record, read_weights, write_weights
from autoseg.records.checkpoint import Checkpoint
from autoseg.records.files import write_record

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class ResumePoint:
    """Everything that `checkpoint_last` gives back."""

    checkpoint: Checkpoint
    network: StateDict
    optimizer: StateDict
    average: StateDict


def save_weights(weights: StateDict, checkpoint: Checkpoint, path: Path) -> None:
    """Write `<path>.safetensors` and `<path>.json`, each atomically; `path` has no ending."""
    write_weights(weights, path.with_suffix(".safetensors"), checkpoint)
    write_record(checkpoint, path.with_suffix(".json"))


def save_resume_point(
    path: Path, checkpoint: Checkpoint, network: StateDict, optimizer: torch.optim.Optimizer, average: StateDict
) -> None:
    """Write weights, optimiser and weight average as one file, atomically; `path` has no ending."""
    save_weights(name_resume_tensors(network, optimizer, average), checkpoint, path)


def name_resume_tensors(network: StateDict, optimizer: torch.optim.Optimizer, average: StateDict) -> StateDict:
    """All tensors of a resume point under their names in the file; they share the memory of those given."""
    tensors = {f"network.{name}": tensor for name, tensor in network.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in flatten_optimizer(optimizer).items()}
    return tensors | {f"average.{name}": tensor for name, tensor in average.items()}


def load_resume_point(path: Path) -> ResumePoint | None:
    """Read what `save_resume_point` wrote; None when there is no such file.

    Raises:
        TrainingError: If the file is damaged.
    """
    file = path.with_suffix(".safetensors")
    if not file.exists():
        return None
    try:
        tensors, record = read_weights(file), read_inner_record(file)
        if record is None:
            raise SafetensorError("it has no record of its training")
    except (SafetensorError, ValueError, OSError) as error:
        raise TrainingError(
            f"{file}: this checkpoint is damaged ({error}). Delete it, or train with --restart to start over."
        ) from error
    return ResumePoint(
        checkpoint=record,
        network=_strip(tensors, "network."),
        optimizer=_strip(tensors, "optimizer."),
        average=_strip(tensors, "average."),
    )


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> StateDict:
    """Name every tensor of an optimiser's state `<parameter index>.<key>`, for example `3.exp_avg`."""
    return {
        f"{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: StateDict) -> None:
    """Put tensors named by `flatten_optimizer` back; learning rate and other settings stay as they are.

    Raises:
        ValueError: If they belong to other parameters, because others are frozen for example.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
        fits = int(index) < len(parameters) and tensor.shape in (torch.Size(), parameters[int(index)].shape)
        if not fits:
            raise ValueError(f"the optimiser's entry {name} is of another parameter; are others frozen now?")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # fused kernels walk memory, so moments must lie in it as their parameter does (channels last)
                entries[key] = torch.empty_like(parameter).copy_(value)


def float_weights(weights: StateDict) -> StateDict:
    """Weights as float32 tensors where they are, detached; those that are float32 share their memory."""
    return {name: tensor.detach().float() for name, tensor in weights.items()}


def cpu_weights(weights: StateDict) -> StateDict:
    """Weights as contiguous float32 tensors on the CPU, detached; those that are so already share their memory."""
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in weights.items()}


def _strip(tensors: StateDict, prefix: str) -> StateDict:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
