"""The two halves of an HRNet: branches of every resolution side by side, which exchange what they see, and the heads.

    image - stem - first stage - branch 0 ---- + ----------- + ----------- + ---- head, logits of full resolution
                           `---- branch 1 ---- + ----------- + ----------- + --'
                                          `--- branch 2 ---- + ----------- + --'
                                                        `--- branch 3 ---- + --'
                                 stage 2       stage 3       stage 4

At every + stands an exchange: each branch gets the sum of all, brought to its own resolution and width. With the first
version of the head the last exchange feeds branch 0 alone.

References:
    Sun et al., "Deep high-resolution representation learning for human pose estimation", CVPR 2019: first version.
    Wang et al., "Deep high-resolution representation learning for visual recognition", TPAMI 2020: second version.
    Differs: strides and kernels per axis, in two and three dimensions; a stem that divides less or not at all; leaky
    ReLU; residual blocks begin as their shortcut; heads for deep supervision; the branches are convolved for the second
    head before they are interpolated, which gives the same numbers by fewer multiplications.

Tested in tests/networks/test_hrnet.py.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import (
    LEAKY_SLOPE,
    NORMALIZATION_EPSILON,
    ConvolutionBlock,
    LayerTypes,
    choose_layers,
    convolve,
)
from autoseg.networks.unet import run_level
from autoseg.records.network import BranchSpec, NetworkSpec

EXPANSION: Final = 4
"""A bottleneck gives so many times the feature maps of its width."""

STEM_CONVOLUTIONS: Final = 2


class ShortcutBlock(nn.Module):
    """Convolutions, the input or its projection added, leaky ReLU; a new block gives its shortcut alone.

    Parameter names: `body.<convolution>...` and `projection...` where the width changes.

    References:
        He et al., "Deep residual learning for image recognition", 2016, basic block and bottleneck.
    """

    def __init__(
        self, layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], bottleneck: int = 0
    ) -> None:
        """Draw torch's own start values.

        Args:
            layers: Types of convolution and normalisation.
            in_features: Feature maps of the input.
            out_features: Feature maps of the output.
            kernel_size: Voxels along each axis, odd.
            bottleneck: Feature maps of the one convolution of that kernel, between two 1 x 1 convolutions; 0: two
                convolutions of the kernel.
        """
        super().__init__()
        ones = (1,) * layers.dimensions
        kernels = [ones, kernel_size, ones] if bottleneck else [kernel_size, kernel_size]
        widths = [in_features, *[bottleneck or out_features] * (len(kernels) - 1), out_features]
        blocks = [
            ConvolutionBlock(layers, *both, kernel, ones, bias=False)
            for both, kernel in zip(pairwise(widths), kernels, strict=True)
        ]
        blocks[-1].activation = nn.Identity()
        nn.init.zeros_(blocks[-1].normalization.weight)
        self.body = nn.Sequential(*blocks)
        self.projection: nn.Module = nn.Identity()
        if in_features != out_features:
            self.projection = _linear_block(layers, in_features, out_features, ones, ones)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, F, *S)."""
        activated: Tensor = self.activation(self.body(features) + self.projection(features))
        return activated


def _linear_block(
    layers: LayerTypes, in_features: int, out_features: int, kernel_size: Sequence[int], stride: Sequence[int]
) -> ConvolutionBlock:
    """Convolution and norm."""
    return ConvolutionBlock(
        layers, in_features, out_features, kernel_size, stride, bias=False, activation=nn.Identity()
    )


def _descend(spec: NetworkSpec, level: int, in_features: int, out_features: int) -> ConvolutionBlock:
    """A convolution to a level from the one above it."""
    layers = choose_layers(spec.dimensions, spec.normalization)
    return ConvolutionBlock(
        layers, in_features, out_features, spec.kernel_sizes[level], spec.strides[level], bias=False
    )


class Exchange(nn.Module):
    """What one branch gets from all of them: the sum, then leaky ReLU.

    A coarser branch is convolved by 1 x 1, and repeated; a finer one is convolved from level to level; its width
    changes in the last step.

    Parameter names: `paths.<branch>...`; the branch's own path has none.
    """

    def __init__(self, spec: NetworkSpec, stem_levels: int, num_branches: int, target: int) -> None:
        super().__init__()
        levels = range(stem_levels, stem_levels + num_branches)
        self.paths = nn.ModuleList(_make_path(spec, level, levels[target]) for level in levels)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    @override
    def forward(self, *branches: Tensor) -> Tensor:
        """Features of all branches, (B, F, *S) each -> features of the one branch."""
        first, *others = (path(features) for path, features in zip(self.paths, branches, strict=True))
        total: Tensor = first + others[0]
        for other in others[1:]:
            total = total + other
        activated: Tensor = self.activation(total)
        return activated


def _make_path(spec: NetworkSpec, source: int, target: int) -> nn.Module:
    """What leads from one level to another."""
    if source == target:
        return nn.Identity()
    features = spec.features
    if source < target:
        steps = [_descend(spec, level, features[source], features[source]) for level in range(source + 1, target)]
        last = _descend(spec, target, features[source], features[target])
        last.activation = nn.Identity()
        return nn.Sequential(*steps, last)
    layers, ones = choose_layers(spec.dimensions, spec.normalization), (1,) * spec.dimensions
    factors = _scale(spec, target, source)
    return nn.Sequential(
        _linear_block(layers, features[source], features[target], ones, ones), nn.Upsample(scale_factor=factors)
    )


def _scale(spec: NetworkSpec, fine: int, coarse: int) -> tuple[float, ...]:
    """Voxels of a fine level for each voxel of a coarser one, along each axis."""
    factors = [1.0] * spec.dimensions
    for strides in spec.strides[fine + 1 : coarse + 1]:
        factors = [factor * step for factor, step in zip(factors, strides, strict=True)]
    return tuple(factors)


class BranchUnit(nn.Module):
    """Blocks in every branch, then an exchange.

    Parameter names: `branches.<branch>.<block>...` and `exchanges.<branch>...`.
    """

    def __init__(self, spec: NetworkSpec, stem_levels: int, num_branches: int, num_fed: int) -> None:
        """Draw torch's own start values.

        Args:
            spec: The network.
            stem_levels: Level of the first branch.
            num_branches: Number of branches.
            num_fed: How many of them get something from the others, the finest first.
        """
        super().__init__()
        layers = choose_layers(spec.dimensions, spec.normalization)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(
                    ShortcutBlock(layers, spec.features[level], spec.features[level], spec.kernel_sizes[level])
                    for _ in range(spec.encoder_blocks[level])
                )
            )
            for level in range(stem_levels, stem_levels + num_branches)
        )
        self.exchanges = nn.ModuleList(Exchange(spec, stem_levels, num_branches, target) for target in range(num_fed))

    @override
    def forward(self, features: Sequence[Tensor], *, recompute: bool) -> list[Tensor]:
        """Features of all branches, (B, F, *S) each -> the same; those that get nothing as they are."""
        own = [run_level(*pair, recompute=recompute) for pair in zip(self.branches, features, strict=True)]
        fed = [run_level(exchange, *own, recompute=recompute) for exchange in self.exchanges]
        return [*fed, *own[len(fed) :]]


class Transition(nn.Module):
    """One branch more, from the lowest one; after a first stage of bottlenecks also the width of the first branch.

    Parameter names: `first...` where the width of the first branch changes, and `new...`.
    """

    def __init__(self, spec: NetworkSpec, level: int, in_features: int) -> None:
        """Draw torch's own start values.

        Args:
            spec: The network.
            level: Level of the new branch.
            in_features: Feature maps of the lowest branch before.
        """
        super().__init__()
        features, ones = spec.features[level - 1], (1,) * spec.dimensions
        self.lowest: nn.Module = nn.Identity()
        if in_features != features:
            layers, kernel = choose_layers(spec.dimensions, spec.normalization), spec.kernel_sizes[level - 1]
            self.lowest = ConvolutionBlock(layers, in_features, features, kernel, ones, bias=False)
        self.new = _descend(spec, level, in_features, spec.features[level])

    @override
    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features of all branches, (B, F, *S) each -> one more."""
        return [*features[:-1], self.lowest(features[-1]), self.new(features[-1])]


class BranchEncoder(nn.Module):
    """Everything but the heads.

    Parameter names: `stem.<convolution>...`, `first.<block>...`, `transitions.<stage>...` and
    `stages.<stage>.<unit>...`, stage 0 being that with two branches.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        branches = _branches(spec)
        stem = branches.stem_levels
        layers = choose_layers(spec.dimensions, spec.normalization)
        self.stem = _make_stem(spec, stem)
        features, kernel = spec.features[max(stem - 1, 0)], spec.kernel_sizes[stem]
        width = EXPANSION * branches.bottleneck_features or spec.features[stem]
        self.first = nn.Sequential(
            *(
                ShortcutBlock(layers, width if block else features, width, kernel, branches.bottleneck_features)
                for block in range(branches.first_blocks)
            )
        )
        lowest = [width, *spec.features[stem + 1 : -1]]
        self.transitions = nn.ModuleList(
            Transition(spec, level, features) for level, features in enumerate(lowest, start=stem + 1)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                BranchUnit(spec, stem, stage + 2, _count_fed(spec, stage, unit))
                for unit in range(branches.modules[stage])
            )
            for stage in range(len(branches.modules))
        )

    @override
    def forward(self, image: Tensor, *, recompute: bool = False) -> list[Tensor]:
        """(B, C, *S) -> the features of every branch, the finest first; for `recompute` see `run_level`."""
        features = [run_level(self.first, self.stem(image), recompute=recompute)]
        for transition, units in zip(self.transitions, self.stages, strict=True):
            features = transition(features)
            for unit in units:  # type: ignore[attr-defined]  # a list of lists
                features = unit(features, recompute=recompute)
        return features


def _branches(spec: NetworkSpec) -> BranchSpec:
    """What the branches are made of; the record has seen to it that an HRNet says so."""
    if spec.branches is None:
        raise ValueError(f"a network of architecture {spec.architecture} has no branches")
    return spec.branches


def _make_stem(spec: NetworkSpec, stem_levels: int) -> nn.Sequential:
    """Two convolutions, the first ones with the strides of the levels that they lead to."""
    layers, ones = choose_layers(spec.dimensions, spec.normalization), (1,) * spec.dimensions
    blocks, in_features = [], spec.input_channels
    for position in range(STEM_CONVOLUTIONS):
        features = spec.features[min(position, max(stem_levels - 1, 0))]
        if position < stem_levels:
            blocks.append(_descend(spec, position + 1, in_features, features))
        else:
            kernel = spec.kernel_sizes[stem_levels]
            blocks.append(ConvolutionBlock(layers, in_features, features, kernel, ones, bias=False))
        in_features = features
    return nn.Sequential(*blocks)


def _count_fed(spec: NetworkSpec, stage: int, unit: int) -> int:
    """Branches that an exchange feeds: all, or the finest alone where nothing else will be looked at."""
    branches = _branches(spec)
    is_last = stage == len(branches.modules) - 1 and unit == branches.modules[stage] - 1
    return 1 if is_last and branches.joined_features == 0 else stage + 2


class JoinedBranches(nn.Module):
    """All branches convolved by 1 x 1, interpolated to the finest one and added up; norm, leaky ReLU.

    That is the published convolution of all branches interpolated and concatenated, because neither cares which comes
    first.

    Parameter names: `convolutions.<branch>.weight`, `convolutions.0.bias` and `normalization.weight|bias`.
    """

    def __init__(self, spec: NetworkSpec, features: Sequence[int], out_features: int) -> None:
        super().__init__()
        layers = choose_layers(spec.dimensions, spec.normalization)
        self.convolutions = nn.ModuleList(
            layers.convolution(width, out_features, kernel_size=1, bias=branch == 0)
            for branch, width in enumerate(features)
        )
        self.normalization = layers.normalization(out_features, eps=NORMALIZATION_EPSILON)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
        self.interpolation = layers.interpolation

    @override
    def forward(self, *branches: Tensor) -> Tensor:
        """Features of all branches, (B, F, *S) each, the finest first -> (B, J, *S) of the finest."""
        total, *others = (
            convolve(convolution, features)  # type: ignore[arg-type]  # a list of modules
            for convolution, features in zip(self.convolutions, branches, strict=True)
        )
        size = total.shape[2:]
        for other in others:
            total = total + F.interpolate(other, size=size, mode=self.interpolation, align_corners=False)
        joined: Tensor = self.activation(self.normalization(total))
        return joined


class BranchDecoder(nn.Module):
    """The heads: at full resolution, and with deep supervision one at every branch's level but the lowest one's.

    Parameter names: `join...` where branches are joined, and `heads.<level>`, level 0 at full resolution.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        branches, layers = _branches(spec), choose_layers(spec.dimensions)
        self.stem_levels = branches.stem_levels
        widths = spec.features[self.stem_levels :]
        first = branches.joined_features or widths[0]
        self.join = JoinedBranches(spec, widths, first) if branches.joined_features else None
        supervised = spec.features[1:-1] if spec.deep_supervision else ()
        self.heads = nn.ModuleList(
            layers.convolution(features, spec.output_channels, kernel_size=1) for features in (first, *supervised)
        )
        self.factors, self.interpolation = _scale(spec, 0, self.stem_levels), layers.interpolation

    @override
    def forward(self, maps: Sequence[Tensor], *, all_levels: bool, recompute: bool = False) -> list[Tensor]:
        """The branches' features -> logits of all levels that have a head or of level 0; full resolution first."""
        features = maps[0] if self.join is None else run_level(self.join, *maps, recompute=recompute)
        logits = [self._interpolate(self.heads[0](features))]
        if all_levels:
            lower = enumerate(self.heads[1:], start=1)
            logits += [head(maps[level - self.stem_levels]) for level, head in lower]
        return logits

    def _interpolate(self, logits: Tensor) -> Tensor:
        """Logits of the first branch's resolution -> of full resolution."""
        if self.stem_levels == 0:
            return logits
        size = [round(edge * factor) for edge, factor in zip(logits.shape[2:], self.factors, strict=True)]
        return F.interpolate(logits, size=size, mode=self.interpolation, align_corners=False)
