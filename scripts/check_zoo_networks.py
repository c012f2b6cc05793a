"""Build every network of the zoo, and hold it to what the zoo says of it: `python scripts/check_zoo_networks.py`.

Each computes a training step and a prediction on the smallest patch that it is said to take, and on a larger one, in a
batch of one. No connection to other machines is allowed. Takes some minutes; needs the extra `zoo`.
"""

import socket
import sys
from collections.abc import Iterator
from typing import NoReturn

import torch
from torch import Tensor

from autoseg.costs.external import describe_external, fit_edges, level_strides
from autoseg.networks.build import build_network
from autoseg.records.external import CostPoint, ExternalNetwork, NetworkCosts
from autoseg.records.network import NetworkSpec, Sizes
from autoseg.records.zoo import MONAI, MONAI_NETWORKS, SMP, SMP_DECODERS, SMP_ENCODERS, declare_of_zoo, zoo_names

CHANNELS, HEADS = 3, 4

NO_COSTS = NetworkCosts(
    parameters=0, operations=1, points=(CostPoint(voxels=1, macs=0, kept_elements=0, largest_elements=1),)
)

PLANNED_STRIDES = {2: ((1, 1), (1, 2), (2, 2), (2, 2)), 3: ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))}
"""Strides for networks that take those of the plan."""


def main() -> int:
    """Print a line for each network; the number of those that fail."""
    socket.socket.connect = refuse_connection  # type: ignore[method-assign]
    torch.set_num_threads(1)
    failed = 0
    for name, dimensions in list_networks():
        try:
            parameters = check_network(name, dimensions)
        except Exception as error:  # noqa: BLE001 a failure is what this looks for, whatever it is
            failed += 1
            print(f"FAILED  {name} {dimensions}D: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"ok      {name} {dimensions}D {parameters / 1e6:.2f} million", flush=True)
    return failed


def refuse_connection(*_arguments: object) -> NoReturn:
    """Stand in for every connection."""
    raise OSError("a network of the zoo wants to fetch something")


def list_networks() -> Iterator[tuple[str, int]]:
    """Every network of MONAI, and of the other library every decoder and every encoder once or more."""
    for name in MONAI_NETWORKS:
        yield from ((f"{MONAI}:{name}", dimensions) for dimensions in (2, 3))
    known = set(zoo_names())
    samples = ("resnet18", "mit_b0", "tu-hrnet_w18_small", "tu-mobilenetv3_small_100", "densenet121", "inceptionv4")
    for decoder in SMP_DECODERS:
        yield from ((name, 2) for name in (f"{SMP}:{decoder}/{encoder}" for encoder in samples) if name in known)
    yield from ((f"{SMP}:Unet/{encoder}", 2) for encoder in SMP_ENCODERS if encoder not in samples)
    dilated = (f"{SMP}:PAN/{encoder}" for encoder in SMP_ENCODERS if encoder not in samples)
    yield from ((name, 2) for name in dilated if name in known)


def check_network(name: str, dimensions: int) -> int:
    """Number of parameters.

    Raises:
        ValueError: If it gives something else than it is said to.
    """
    spec = describe(name, dimensions)
    declaration = declare_of_zoo(name)
    network = build_network(spec, deep_supervision=True)
    smallest = fit_edges(declaration, (1,) * dimensions)
    larger = tuple(3 * edge if axis == dimensions - 1 else edge for axis, edge in enumerate(smallest))
    for patch in (smallest, larger):
        image = torch.randn(1, CHANNELS, *patch)
        levels = network.train()(image)
        outputs: list[Tensor] = levels if isinstance(levels, list) else [levels]
        expected = len(spec.strides) - 1 if declaration.deep_supervision else 1
        check(len(outputs) == expected, f"{len(outputs)} levels, expected {expected}")
        sum(output.square().mean() for output in outputs).backward()  # type: ignore[union-attr]
        with torch.no_grad():
            logits = network.eval()(image)
        for output, shape in zip((logits, *outputs), (patch, *level_shapes(spec, patch)), strict=False):
            check(output.shape == (1, HEADS, *shape), f"{tuple(output.shape)}, expected {(1, HEADS, *shape)}")
    stored = [tensor.data_ptr() for tensor in network.state_dict().values()]
    check(len(set(stored)) == len(stored), "the same weights under several names")
    return sum(parameter.numel() for parameter in network.parameters())


def describe(name: str, dimensions: int) -> NetworkSpec:
    """The `NetworkSpec` that a planner would make."""
    declaration = declare_of_zoo(name)
    known = ExternalNetwork(
        name=name,
        package="autoseg-med",
        dimensions=2 if dimensions == 2 else 3,
        declaration=declaration,
        costs=NO_COSTS,
    )
    strides: tuple[Sizes, ...] = PLANNED_STRIDES[dimensions]
    if declaration.divisors is not None:
        strides = level_strides(declaration.divisors, dimensions)
    return describe_external(known, CHANNELS, HEADS, strides)


def level_shapes(spec: NetworkSpec, patch: Sizes) -> Iterator[Sizes]:
    """Shape of each level, full resolution first."""
    for strides in spec.strides:
        patch = tuple(edge // stride for edge, stride in zip(patch, strides, strict=True))
        yield patch


def check(holds: bool, otherwise: str) -> None:
    """Raise what is otherwise.

    Raises:
        ValueError: If something does not hold.
    """
    if not holds:
        raise ValueError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
