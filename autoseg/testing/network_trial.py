"""The promises of a network of another package: each one is one check, and each broken one is one sentence.

Tested in tests/test_testing_networks.py.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from autoseg.costs.external import describe_external, fit_edges
from autoseg.errors import UsageError
from autoseg.networks.build import build_network
from autoseg.networks.counting import count_costs
from autoseg.networks.providers import declare_network
from autoseg.records.external import CostPoint, ExternalNetwork, NetworkCosts, NetworkDeclaration
from autoseg.records.network import NetworkSpec, Sizes

UNKNOWN_SETTING = {"a-setting-that-nobody-has": "1"}

CHANNELS_AND_HEADS = ((1, 2), (3, 5))

NO_COSTS = NetworkCosts(
    parameters=0, operations=1, points=(CostPoint(voxels=1, macs=0, kept_elements=0, largest_elements=1),)
)

DECLARE_WITHOUT_TORCH = (
    "import sys\nfrom autoseg.networks.providers import declare_network\n"
    "declare_network(sys.argv[1], dict(pair.split('=', 1) for pair in sys.argv[2:]))\n"
    "sys.exit('torch' in sys.modules)"
)


def list_violations(name: str, options: dict[str, str]) -> list[str]:
    """Try an installed network on small images; see `autoseg.testing.network_violations`."""
    try:
        package, declaration = declare_network(name, options)
    except UsageError as error:
        return [str(error)]
    found = [*_check_options(name, options), *_check_lightness(name, options)]
    for dimensions, (channels, heads) in itertools.product(declaration.dimensions, CHANNELS_AND_HEADS):
        network = ExternalNetwork(
            name=name, package=package, options=options, dimensions=dimensions, declaration=declaration, costs=NO_COSTS
        )
        spec = describe_external(network, channels, heads)
        where = f"{dimensions}D, {channels} channels, {heads} heads"
        try:
            found += [f"{where}: {sentence}" for sentence in _check_network(spec, declaration)]
        except (UsageError, RuntimeError, ValueError, TypeError) as error:
            found.append(f"{where}: {type(error).__name__}: {error}")
    return found


def _check_options(name: str, options: Mapping[str, str]) -> Iterator[str]:
    try:
        declare_network(name, {**options, **UNKNOWN_SETTING})
    except UsageError:
        return
    yield "`declare` accepts a setting that does not exist; raise a ValueError that names those that do"


def _check_lightness(name: str, options: Mapping[str, str]) -> Iterator[str]:
    pairs = [f"{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-c", DECLARE_WITHOUT_TORCH, name, *pairs]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        yield "its module loads torch before `build` is called; import it inside `build`"


def _check_network(spec: NetworkSpec, declaration: NetworkDeclaration) -> Iterator[str]:
    torch.manual_seed(0)
    network = build_network(spec, deep_supervision=True)
    torch.manual_seed(0)
    twin = build_network(spec, deep_supervision=True)
    weights, others = network.state_dict(), twin.state_dict()
    if weights.keys() != others.keys() or any(not torch.equal(weights[key], others[key]) for key in weights):
        yield "its start values do not follow torch's seed"
    smallest = fit_edges(declaration, (1,) * spec.dimensions)
    larger = fit_edges(declaration, (*smallest[:-1], smallest[-1] + 1))
    for patch in (smallest, larger):
        yield from _check_training(network, spec, patch)
    network.eval()
    twin.load_state_dict(network.state_dict())
    image = torch.randn((2, spec.input_channels, *larger))
    with torch.inference_mode():
        logits = network(image)
        if not torch.equal(logits, network(image)):
            yield "it gives other logits for the same image at prediction"
        if not torch.allclose(logits, twin.eval()(image), atol=1e-5):
            yield "it gives other logits with the weights of another one that was built alike"
    count_costs(spec, (smallest,))


def _check_training(network: torch.nn.Module, spec: NetworkSpec, patch: Sizes) -> Iterator[str]:
    """Forward and backward pass of a batch of one; shapes are checked by `ExternalModule`."""
    network.train()
    network.zero_grad()
    outputs = network(torch.randn((1, spec.input_channels, *patch)))
    levels: list[Tensor] = [outputs] if isinstance(outputs, Tensor) else outputs
    expected = len(spec.features) - 1 if spec.deep_supervision else 1
    if len(levels) != expected:
        yield f"patch {patch}: it gives {len(levels)} levels in training, declared are {expected}"
    torch.stack([level.square().mean() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    if not gradients:
        yield f"patch {patch}: none of its parameters gets a gradient"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        yield f"patch {patch}: gradients are not finite"
