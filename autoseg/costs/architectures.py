"""What is known of each architecture without building it: its name in words, its operations, its small networks.

`ARCHITECTURES` has one description per architecture; a new one is added there, in `records.network`, and in `networks`.
Its operations may stand in a module of their own, made of the blocks in `operations`.
The operations of a network, one by one in forward order, are what every cost is a sum over.

Example: a residual block from 8 to 16 feature maps with stride 2 is two convolutions with their norms, on the shortcut
a pooling and a 1 x 1 convolution with its norm, and an addition.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from autoseg.costs.detection import detection_operations
from autoseg.costs.efficientnet import list_efficientnet_unet
from autoseg.costs.external import list_external
from autoseg.costs.hrnet import list_hrnet
from autoseg.costs.mednext import list_mednext
from autoseg.costs.operations import Operation, convolution_block, head
from autoseg.costs.parts import residual_block, unet_decoder, unet_operations
from autoseg.costs.points import point_operations
from autoseg.records.encoders import EFFICIENTNET_LEVELS, encoder_blocks, encoder_features
from autoseg.records.network import NETWORK_PARTS, Architecture, BranchSpec, NetworkSpec, Sizes

FORWARD_FRACTION = 1 / 3
"""Part of a training step that its forward pass takes: the backward pass costs twice as much."""


def list_operations(network: NetworkSpec, patch_size: Sequence[int]) -> tuple[Operation, ...]:
    """All operations of a network in forward order, for one sample (batch 1).

    With deep supervision every decoder level has a segmentation head, as in training; the one at full resolution, or
    the point head, comes last and gives the prediction.

    Args:
        network: Any architecture.
        patch_size: Input voxels, (z, y, x) or (y, x).

    Raises:
        ValueError: If the patch is not divisible by the network's total stride.
    """
    description, shapes = ARCHITECTURES[network.architecture], _shape_per_level(network, patch_size)
    operations = tuple(description.list_operations(network, shapes))
    if network.head == "points":
        operations += tuple(point_operations(network, shapes, description.list_widths(network)))
    return operations


def _shape_per_level(network: NetworkSpec, patch_size: Sequence[int]) -> list[Sizes]:
    total = tuple(math.prod(steps) for steps in zip(*network.strides, strict=True))
    if any(edge % step for edge, step in zip(patch_size, total, strict=True)):
        raise ValueError(f"patch {tuple(patch_size)} is not a multiple of the total stride {total}")
    shapes = [tuple(patch_size)]
    for stride in network.strides[1:]:
        shapes.append(tuple(edge // step for edge, step in zip(shapes[-1], stride, strict=True)))
    return shapes


def _list_residual_unet(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    voxels = [math.prod(shape) for shape in shapes]
    yield from _residual_encoder(network, voxels)
    if network.detection is not None:
        yield from detection_operations(network, network.detection, shapes)
        return
    yield from unet_decoder(network, voxels)


def _list_unext(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    voxels = [math.prod(shape) for shape in shapes]
    yield from _unext_encoder(network, voxels)
    yield from _unext_decoder(network, voxels)


def _residual_encoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    inputs = network.features[0]
    yield from convolution_block(network.input_channels, inputs, voxels[0], network.kernel_sizes[0])
    for level, outputs in enumerate(network.features):
        for block in range(network.encoder_blocks[level]):
            strided = block == 0 and any(step != 1 for step in network.strides[level])
            yield from residual_block(inputs, outputs, voxels[level], network.kernel_sizes[level], strided)
            inputs = outputs


def _unext_encoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    inputs = network.input_channels
    for level, outputs in list(enumerate(network.features))[1:]:
        if level < _first_token_level(network):
            yield from convolution_block(inputs, outputs, voxels[level - 1], network.kernel_sizes[level - 1])
            yield Operation("max_pool", 1, outputs, voxels[level])
        else:
            kernel = math.prod(network.kernel_sizes[level])
            yield Operation("convolution", inputs, outputs, voxels[level], kernel)
            yield Operation("layer_norm", 1, outputs, voxels[level])
            yield from _shifted_block(network, level, voxels[level])
        inputs = outputs


def _unext_decoder(network: NetworkSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """Convolutions work at the resolution of the level below, before interpolation."""
    for level in reversed(range(network.coarse_level, len(network.features) - 1)):
        outputs, below = network.features[level], network.features[level + 1]
        kernel = math.prod(network.kernel_sizes[level + 1])
        yield Operation("convolution", below, outputs, voxels[level + 1], kernel, kept=level > 0)
        if level > 0:
            yield Operation("norm", 1, outputs, voxels[level + 1], kept=False)
        yield Operation("interpolate", 1, outputs, voxels[level])
        if level > 0 or network.full_resolution_skip:
            yield Operation("join", 1, outputs, voxels[level])
        if level + 1 >= _first_token_level(network):
            yield from _shifted_block(network, level, voxels[level])
        yield from head(network, level, voxels[level])


def _shifted_block(network: NetworkSpec, level: int, voxels: int) -> Iterator[Operation]:
    """Sum of x and MLP(norm(x)), then a norm; one shift and one linear layer per axis, the GELU after the first."""
    width = network.features[level]
    yield Operation("layer_norm", 1, width, voxels, kept=False)
    yield Operation("shift", 1, width, voxels)
    yield Operation("linear", width, width, voxels)
    yield Operation("depthwise", 1, width, voxels, math.prod(network.kernel_sizes[level]))
    for _ in range(1, network.dimensions):
        yield Operation("shift", 1, width, voxels)
        yield Operation("linear", width, width, voxels, kept=False)
    yield Operation("join", 1, width, voxels)
    yield Operation("layer_norm", 1, width, voxels)


def _first_token_level(network: NetworkSpec) -> int:
    return len(network.features) - network.token_levels


def forward_macs(network: NetworkSpec, patch_size: Sequence[int]) -> int:
    """Multiply-accumulates of one forward pass in training, batch 1.

    Counted: convolutions of every kind, linear layers, and the segmentation heads of all levels that have one. Not
    counted: biases, normalisation, activations, pooling, interpolation, the loss. Twice this number is what torch's
    FlopCounterMode reports.

    Args:
        network: Any architecture.
        patch_size: (z, y, x) or (y, x), voxels.

    Raises:
        ValueError: If the patch is not divisible by the network's total stride.
    """
    return sum(operation.macs for operation in list_operations(network, patch_size))


def _level_widths(network: NetworkSpec) -> Sizes:
    return network.features


def _unext_widths(network: NetworkSpec) -> tuple[int, ...]:
    return (network.features[0] if _first_token_level(network) > 1 else 0, *network.features[1:])


def _efficientnet_widths(network: NetworkSpec) -> tuple[int, ...]:
    return (0, *encoder_features(len(network.features))[1:])


UNEXT_WIDTHS = {"s": 8, "base": 16, "text": 32}
"""Feature maps at full resolution by name. `base` is that of the published code, `text` the one of the paper's text."""

SMALL_LEVELS = 4
"""Levels of the small networks that are measured."""

SMALL_UNEXT_FEATURES = {8: (8, 8, 64, 128), 32: (32, 32, 160, 256)}
"""Two convolution levels and the two token levels of the widths s and text, by feature maps at full resolution."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureDescription:
    """What planner, speed measurement and report know of an architecture."""

    words: str
    """Name for users."""
    relative_speed: float
    """Multiply-accumulates per second compared with a plain U-Net, where only that was measured."""
    list_operations: Callable[[NetworkSpec, Sequence[Sizes]], Iterable[Operation]]
    """(network, shape of each level) -> operations in forward order, for one sample."""
    build_small: Callable[[Literal[2, 3], int], NetworkSpec] | None
    """(dimensions, base features) -> the network that the speed of a device is measured with, one input channel. None:
    each of its networks is measured by itself, when it is planned."""
    list_widths: Callable[[NetworkSpec], tuple[int, ...]] = _level_widths
    """Feature maps that the encoder gives at each level, full resolution first; 0 where that is the image itself."""
    dimensions: tuple[Literal[2, 3], ...] = (2, 3)
    """Numbers of axes that it exists for."""
    encoder_rate: float = 1.0
    """Learning rate of the encoder as a multiple of the decoder's: smaller where it is trained already."""
    width_names: Mapping[int, str] = field(default_factory=dict)
    """Names of the usual widths by feature maps at full resolution."""

    def name(self, network: NetworkSpec) -> str:
        """A network in words, with the name of its width where it has one, and the parts that it is made of."""
        if network.detection is not None:
            encoder = self.name(network.model_copy(update={"detection": None}))
            return f"Mask R-CNN over the encoder of a {encoder}"
        chosen = {name: getattr(network, name) for name in NETWORK_PARTS}
        parts = [f"{name} {value}" for name, value in chosen.items() if value != NETWORK_PARTS[name]]
        head = ["a point head"] if network.head == "points" else []
        if parts:
            return f"U-Net with {', '.join([*parts, *head])}"
        if network.network_name:
            return f"{network.network_name} of {network.network_package}"
        width = self.width_names.get(network.features[0])
        words = self.words if width is None else f"{self.words} {width}"
        return f"{words} with a point head" if head else words


def _small_unet(dimensions: Literal[2, 3], base_features: int) -> NetworkSpec:
    return _small_network("unet", dimensions, _doubled(base_features), (2,) * SMALL_LEVELS, decoder_blocks=2)


def _small_residual_unet(dimensions: Literal[2, 3], base_features: int) -> NetworkSpec:
    return _small_network("residual_unet", dimensions, _doubled(base_features), (1, 3, 4, 6), decoder_blocks=1)


def _small_unext(dimensions: Literal[2, 3], base_features: int) -> NetworkSpec:
    features = SMALL_UNEXT_FEATURES[base_features]
    network = _small_network("unext", dimensions, features, (1,) * SMALL_LEVELS, decoder_blocks=1)
    return network.model_copy(update={"token_levels": 2, "full_resolution_skip": dimensions == 3})


def _small_mednext(dimensions: Literal[2, 3], base_features: int) -> NetworkSpec:
    unet = _small_unet(dimensions, base_features)
    return unet.model_copy(update={"architecture": "mednext", "expansions": (2,) * SMALL_LEVELS})


def _small_efficientnet_unet(_dimensions: Literal[2, 3], base_features: int) -> NetworkSpec:
    """All levels, because the lowest ones are a large part of the encoder."""
    levels = len(EFFICIENTNET_LEVELS)
    decoder = tuple(base_features * 2**level for level in range(levels - 1))
    return NetworkSpec(
        architecture="efficientnet_unet",
        dimensions=2,
        input_channels=1,
        output_channels=1,
        features=(*decoder, encoder_features(levels)[-1]),
        strides=((1, 1), *((2, 2),) * (levels - 1)),
        kernel_sizes=((3, 3),) * levels,
        encoder_blocks=encoder_blocks(levels),
        decoder_blocks=(1,) * (levels - 1),
    )


def _small_hrnet(dimensions: Literal[2, 3], base_features: int) -> NetworkSpec:
    """Branches at every level, so that its width is that of the finest one."""
    network = _small_network("unet", dimensions, _doubled(base_features), (2,) * SMALL_LEVELS, decoder_blocks=1)
    branches = BranchSpec(first_blocks=2, modules=(1,) * (SMALL_LEVELS - 1), joined_features=2 * base_features)
    return network.model_copy(update={"architecture": "hrnet", "branches": branches})


def _doubled(base_features: int) -> Sizes:
    return tuple(base_features * 2**level for level in range(SMALL_LEVELS))


def _small_network(
    architecture: Architecture,
    dimensions: Literal[2, 3],
    features: Sizes,
    encoder_blocks: Sizes,
    *,
    decoder_blocks: int,
) -> NetworkSpec:
    return NetworkSpec(
        architecture=architecture,
        dimensions=dimensions,
        input_channels=1,
        output_channels=1,
        features=features,
        strides=((1,) * dimensions, *((2,) * dimensions,) * (SMALL_LEVELS - 1)),
        kernel_sizes=((3,) * dimensions,) * SMALL_LEVELS,
        encoder_blocks=encoder_blocks,
        decoder_blocks=(decoder_blocks,) * (SMALL_LEVELS - 1),
    )


ARCHITECTURES: Mapping[Architecture, ArchitectureDescription] = MappingProxyType(
    {
        "unet": ArchitectureDescription(
            words="plain U-Net",
            relative_speed=1.0,
            list_operations=unet_operations,
            build_small=_small_unet,
        ),
        "residual_unet": ArchitectureDescription(
            words="residual encoder U-Net",
            relative_speed=0.8,  # residual blocks add and normalise more per convolution
            list_operations=_list_residual_unet,
            build_small=_small_residual_unet,
        ),
        "unext": ArchitectureDescription(
            words="UNeXt",
            relative_speed=0.2,  # so few multiplications that moving data takes most of the time
            list_operations=_list_unext,
            build_small=_small_unext,
            list_widths=_unext_widths,
            width_names={features: name for name, features in UNEXT_WIDTHS.items()},
        ),
        "efficientnet_unet": ArchitectureDescription(
            words="EfficientNet-Lite0 U-Net",
            relative_speed=0.6,  # depthwise convolutions move more than they multiply
            list_operations=list_efficientnet_unet,
            build_small=_small_efficientnet_unet,
            list_widths=_efficientnet_widths,
            dimensions=(2,),
            encoder_rate=0.1,
        ),
        "external": ArchitectureDescription(
            words="network of another package",
            relative_speed=0.5,  # unknown where it was not measured; few are as fast as a plain U-Net
            list_operations=list_external,
            build_small=None,
        ),
        "hrnet": ArchitectureDescription(
            words="HRNet",
            relative_speed=0.6,  # more sums and norms per convolution; 0.43 to 0.74 on one core, 2D, 8 feature maps
            list_operations=list_hrnet,
            build_small=_small_hrnet,
        ),
        "mednext": ArchitectureDescription(
            words="MedNeXt",
            relative_speed=0.1,  # one core with AVX-512, 2D and 3D: 0.2 and 0.06 in bf16, 0.35 and 0.09 in float32
            list_operations=list_mednext,
            build_small=_small_mednext,
        ),
    }
)
