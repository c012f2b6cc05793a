"""Operations of an HRNet.

Example: an exchange of two branches of 8 and 16 feature maps at 64 x 64 and 32 x 32: a 1 x 1 convolution from 16 to 8
with its norm at 32 x 32, repeated to 64 x 64 and added; a convolution from 8 to 16 of stride 2 with its norm, added.

Tested in tests/costs/test_memory.py.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

from autoseg.costs.operations import Operation, convolution_block
from autoseg.records.network import BranchSpec, NetworkSpec, Sizes

POINT = (1,)
"""Kernel of one voxel."""

_block = partial(convolution_block, bias=False)


def list_hrnet(network: NetworkSpec, shapes: Sequence[Sizes]) -> Iterator[Operation]:
    """All operations in forward order, for one sample.

    Args:
        network: An HRNet.
        shapes: Shape of each level, full resolution first.

    Raises:
        ValueError: If the network says nothing of its branches.
    """
    if network.branches is None:
        raise ValueError(f"a network of architecture {network.architecture} has no branches")
    branches, voxels = network.branches, [math.prod(shape) for shape in shapes]
    stem = branches.stem_levels
    yield from _first_stage(network, branches, voxels)
    lowest = 4 * branches.bottleneck_features or network.features[stem]
    for stage, modules in enumerate(branches.modules):
        levels = range(stem, stem + stage + 2)
        yield from _transition(network, levels[-1], lowest, voxels)
        lowest = network.features[levels[-1]]
        for unit in range(modules):
            is_last = stage == len(branches.modules) - 1 and unit == modules - 1
            num_fed = 1 if is_last and branches.joined_features == 0 else len(levels)
            yield from _unit(network, levels, num_fed, voxels)
    yield from _heads(network, branches, voxels)


def _first_stage(network: NetworkSpec, branches: BranchSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """The two convolutions of the stem, and the blocks of the only branch."""
    stem, inputs = branches.stem_levels, network.input_channels
    for position in range(2):
        level, outputs = min(position + 1, stem), network.features[min(position, max(stem - 1, 0))]
        yield from _block(inputs, outputs, voxels[level], network.kernel_sizes[level])
        inputs = outputs
    width = 4 * branches.bottleneck_features or network.features[stem]
    for _ in range(branches.first_blocks):
        yield from _shortcut_block(
            inputs, width, voxels[stem], network.kernel_sizes[stem], branches.bottleneck_features
        )
        inputs = width


def _shortcut_block(
    inputs: int, outputs: int, voxels: int, kernel: Sequence[int], bottleneck: int = 0
) -> Iterator[Operation]:
    hidden = bottleneck or outputs
    yield from _block(inputs, hidden, voxels, POINT if bottleneck else kernel)
    if bottleneck:
        yield from _block(hidden, hidden, voxels, kernel)
    yield from _block(hidden, outputs, voxels, POINT if bottleneck else kernel, activated=False)
    if inputs != outputs:
        yield from _block(inputs, outputs, voxels, POINT, activated=False)
    yield Operation("join", 1, outputs, voxels)


def _transition(network: NetworkSpec, level: int, inputs: int, voxels: Sequence[int]) -> Iterator[Operation]:
    """A new branch at a level; where the width of the first stage is another one, a convolution to that of branch 0."""
    above = level - 1
    if inputs != network.features[above]:
        yield from _block(inputs, network.features[above], voxels[above], network.kernel_sizes[above])
    yield from _block(inputs, network.features[level], voxels[level], network.kernel_sizes[level])


def _unit(network: NetworkSpec, levels: range, num_fed: int, voxels: Sequence[int]) -> Iterator[Operation]:
    """Blocks of every branch, and an exchange that feeds the first ones."""
    for level in levels:
        for _ in range(network.encoder_blocks[level]):
            features = network.features[level]
            yield from _shortcut_block(features, features, voxels[level], network.kernel_sizes[level])
    for target in levels[:num_fed]:
        for source in levels:
            yield from _path(network, source, target, voxels)
        yield Operation("join", 1, network.features[target], voxels[target])


def _path(network: NetworkSpec, source: int, target: int, voxels: Sequence[int]) -> Iterator[Operation]:
    """From one branch to another."""
    inputs, outputs = network.features[source], network.features[target]
    for level in range(source + 1, target + 1):
        is_last = level == target
        kernel, features = network.kernel_sizes[level], outputs if is_last else inputs
        yield from _block(inputs, features, voxels[level], kernel, activated=not is_last)
    if source > target:
        yield from _block(inputs, outputs, voxels[source], POINT, activated=False)
        yield Operation("interpolate", 1, outputs, voxels[target], kept=False)


def _heads(network: NetworkSpec, branches: BranchSpec, voxels: Sequence[int]) -> Iterator[Operation]:
    """Those of the branches, and the one that gives the prediction, after all branches were joined."""
    stem, inputs = branches.stem_levels, network.features[branches.stem_levels]
    if network.deep_supervision:
        for level in range(1, len(network.features) - 1):
            yield Operation("head", network.features[level], network.output_channels, voxels[level], kept=False)
    if branches.joined_features:
        yield from _join(network, stem, branches.joined_features, voxels)
        inputs = branches.joined_features
    yield Operation("head", inputs, network.output_channels, voxels[stem], kept=False)
    if stem > 0:
        yield Operation("logits", 1, network.output_channels, voxels[0], kept=False)


def _join(network: NetworkSpec, stem: int, outputs: int, voxels: Sequence[int]) -> Iterator[Operation]:
    """Convolved at each branch's resolution; of what is interpolated and added, the sum is kept."""
    for level in range(stem, len(network.features)):
        is_first = level == stem
        yield Operation("convolution", network.features[level], outputs, voxels[level], bias=is_first, kept=False)
        if not is_first:
            yield Operation("interpolate", 1, outputs, voxels[stem], kept=False)
    yield Operation("join", 1, outputs, voxels[stem])
    yield Operation("norm", 1, outputs, voxels[stem])
