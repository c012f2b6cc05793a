"""What a network costs, counted while it computes: for networks of other packages, which no formula describes.

The network computes with tensors without values ("meta"), so that a large patch costs nothing. One that needs values
on its way is counted on the CPU, on the smaller patches alone.

Tested in tests/networks/test_counting.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.networks.build import build_network
from autoseg.records.external import CostPoint, NetworkCosts
from autoseg.records.network import NetworkSpec, Sizes

FLOPS_PER_MAC = 2

MAX_COMPUTED_VOXELS = 2**19
"""Largest patch that is computed with values; 80 x 80 x 80, or 720 x 720. The smallest is computed whatever it is."""

ELEMENT_BYTES = 4


def count_costs(spec: NetworkSpec, patch_sizes: Sequence[Sizes]) -> NetworkCosts:
    """Count parameters, multiply-accumulates and what is kept for the backward pass, batch 1 in training mode.

    Args:
        spec: Any network.
        patch_sizes: Patches that it takes, from small to large; voxels.

    Raises:
        UsageError: If it cannot be built, or fails on a patch.
    """
    network = build_network(spec, deep_supervision=True).train()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    try:
        counted = [_count(network.to("meta"), spec, patch, torch.device("meta")) for patch in patch_sizes]
    except (RuntimeError, NotImplementedError):  # it looks at values, which these tensors do not have
        counted = list(_count_with_values(spec, patch_sizes))
    points = tuple(point for point, _operations in counted)
    return NetworkCosts(parameters=parameters, operations=counted[0][1], points=points)


def _count_with_values(spec: NetworkSpec, patch_sizes: Sequence[Sizes]) -> Iterator[tuple[CostPoint, int]]:
    network = build_network(spec, deep_supervision=True).train()
    for index, patch in enumerate(patch_sizes):
        if index == 0 or math.prod(patch) <= MAX_COMPUTED_VOXELS:
            try:
                yield _count(network, spec, patch, torch.device("cpu"))
            except (RuntimeError, NotImplementedError) as error:
                raise UsageError(
                    f"The network {spec.network_name} fails on a patch of {' x '.join(map(str, patch))}: {error}. Its "
                    "package declares that it takes such patches; report this to its maintainers."
                ) from error


def _count(network: nn.Module, spec: NetworkSpec, patch: Sizes, device: torch.device) -> tuple[CostPoint, int]:
    own = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}  # held until the end, so that no storage is given out twice

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    watch = _OutputWatch()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with device, FlopCounterMode(display=False) as flops, watch, hooks:
        network(torch.zeros((1, spec.input_channels, *patch)))
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    point = CostPoint(
        voxels=math.prod(patch),
        macs=flops.get_total_flops() // FLOPS_PER_MAC,
        kept_elements=saved // ELEMENT_BYTES,
        largest_elements=watch.largest,
    )
    return point, watch.operations


def _storage(tensor: Tensor) -> int:
    """What tells storages apart; those without values have no address."""
    identity: int = tensor.untyped_storage()._cdata
    return identity


class _OutputWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the elements of the largest tensor that one of them gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.largest = 1

    @override
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return output
