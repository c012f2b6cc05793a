"""The memory layout in which a network and its images lie on a device; asked by training, loading and prediction."""

from typing import Literal, TypeVar

import torch
from torch import nn

from autoseg.networks.device_types import device_type
from autoseg.networks.external import ExternalModule
from autoseg.records.network import NetworkSpec

Network = TypeVar("Network", bound=nn.Module)

Normalization = Literal["instance", "batch"]


def channels_last(dimensions: int) -> torch.memory_format:
    """The layout in which all channels of a voxel lie side by side.

    Args:
        dimensions: Spatial axes of the network, 2 or 3; a batch of images has two axes more.
    """
    return torch.channels_last if dimensions == 2 else torch.channels_last_3d


def choose_layout(dimensions: int, normalization: Normalization, device: torch.device) -> torch.memory_format:
    """The layout in which a network computes: channels last, which convolutions are fastest in, with one exception.

    On a GPU, torch's instance normalisation copies its features into the ordinary layout, and the next convolution
    copies them back, in every block. Networks with it stay in the ordinary layout there. On a CPU this project's
    instance normalisation keeps channels last (`blocks.InstanceNormalization`).

    Args:
        dimensions: Spatial axes of the network, 2 or 3.
        normalization: What its convolutions are normalised over.
        device: Where it computes.

    References:
        github.com/pytorch/pytorch, issue 59168: with channels last, nnU-Net's residual encoder U-Net took 24 % longer
        for forward and backward pass; pull request 194616 explains it by these copies. Not measured by this project.
    """
    if normalization == "instance" and device_type(device).is_gpu:
        return torch.contiguous_format
    return channels_last(dimensions)


def place_network(network: Network, spec: NetworkSpec, device: torch.device) -> Network:
    """Bring a network to a device, in its layout there; it is changed in place, and returned.

    Networks of other packages stay in the ordinary layout, which their code may count on.
    """
    layout = choose_layout(spec.dimensions, spec.normalization, device)
    if isinstance(network, ExternalModule):
        layout = torch.contiguous_format
    # the overloads of Module.to do not know layouts without a positional dtype
    placed: Network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return placed
