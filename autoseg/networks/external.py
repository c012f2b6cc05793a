"""A network of another package in the outer form that all networks have here.

Tested in tests/networks/test_external.py.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.errors import UsageError
from autoseg.networks.providers import find_network
from autoseg.records.network import NetworkSpec


class ExternalModule(nn.Module):
    """Switches deep supervision, checks shapes, and names the network where it does not keep its contract.

    Parameter names: `network.<name in the package>`.

    Attributes:
        deep_supervision: Whether training also sees the logits of lower levels, where the network gives them.
        total_stride: What edges of patches are multiples of.
    """

    def __init__(self, spec: NetworkSpec, network: nn.Module, *, deep_supervision: bool) -> None:
        """Wrap a module, whose own start values stay.

        Args:
            spec: What it was built from.
            network: (B, C, *S) -> logits (B, K, *S).
            deep_supervision: Start value of the attribute.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.total_stride = tuple(prod(strides) for strides in zip(*spec.strides, strict=True))
        self.network = network
        self._name = spec.network_name
        self._outputs = spec.output_channels
        self._num_levels = len(spec.features) - 1 if spec.deep_supervision else 1

    @override
    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            image: (B, C, *S), every spatial size a multiple of `total_stride`.

        Returns:
            As `UNet.forward`.

        Raises:
            UsageError: If the network gives something else.
        """
        found = self.network(image.contiguous())
        levels: list[Tensor] = [found] if isinstance(found, Tensor) else list(found)
        expected = self._num_levels if self.training else 1
        if len(levels) not in (1, expected) or not _are_logits(levels[0], image, self._outputs):
            shapes = ", ".join(str(tuple(level.shape)) for level in levels)
            raise UsageError(
                f"The network '{self._name}' gives {shapes} for an image of {tuple(image.shape)}, expected logits of "
                f"{self._outputs} channels and the shape of the image. Report this to its maintainers."
            )
        if self.deep_supervision and self.training and self._num_levels > 1:
            return levels
        return levels[0]


def build_external(spec: NetworkSpec, *, deep_supervision: bool) -> ExternalModule:
    """Build a network of another package, with the start values that it draws for itself.

    Args:
        spec: Names it.
        deep_supervision: Start value of the module's attribute.

    Raises:
        UsageError: If its package is not installed, or does not build it.
    """
    provider = find_network(spec.network_name, spec.network_package)
    try:
        network = provider.build(spec)
    except (ImportError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise UsageError(
            f"The network '{spec.network_name}' cannot be built by package '{provider.package}': "
            f"{type(error).__name__}: {error}. It needs {spec.network_package}."
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"The network '{spec.network_name}' of package '{provider.package}': its builder gives a "
            f"{type(network).__name__}, expected a torch module. Report this to its maintainers."
        )
    return ExternalModule(spec, network, deep_supervision=deep_supervision)


def _are_logits(output: object, image: Tensor, channels: int) -> bool:
    expected: Sequence[int] = (image.shape[0], channels, *image.shape[2:])
    return isinstance(output, torch.Tensor) and tuple(output.shape) == tuple(expected)
