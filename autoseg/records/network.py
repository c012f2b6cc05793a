"""What a trained model fixes: its network, and how images are made ready for it."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, model_validator

from autoseg.records.detection import DetectionSpec
from autoseg.records.encoders import EFFICIENTNET_LEVELS, encoder_blocks, encoder_features
from autoseg.records.external import NetworkCosts
from autoseg.records.files import FieldFault, Record, refuse_faults

Architecture = Literal[
    "unet", "residual_unet", "unext", "efficientnet_unet", "hrnet", "mednext", "external",
]  # fmt: skip

Block = Literal[
    "plain", "residual", "recurrent", "dense", "inception", "multires", "separable", "factorized", "mednext"
]  # fmt: skip
"""What a U-Net's levels are stacked from, in encoder and decoder."""

Skip = Literal["plain", "gate", "respath", "nested"]
"""How features of the encoder reach the decoder."""

Attention = Literal["none", "channel", "spatial", "mixed"]
"""What weights the features at the end of every level."""

Bottleneck = Literal["plain", "nonlocal", "pyramid", "atrous", "atrous_nonlocal"]
"""What widens the view at the end of the lowest level."""

Head = Literal["full", "points"]
"""How logits come to full resolution."""

MAX_SIZE = 2**16
"""Largest size and count in a plan: far above what any device holds, so that arithmetic on them cannot overflow."""

MAX_BLOCKS = 1000
"""Largest number of blocks of a level."""

Size = Annotated[int, Field(gt=0, le=MAX_SIZE)]

Sizes = tuple[Size, ...]
"""Voxels or counts, one per axis or per level; at least 1 each."""

Blocks = tuple[Annotated[int, Field(gt=0, le=MAX_BLOCKS)], ...]
"""Numbers of blocks, one per level."""

SplineOrder = Annotated[int, Field(ge=0, le=5)]

MIN_LEVELS = 2
"""A decoder needs a level to come from."""

MAX_STEM_LEVELS = 2
"""The stem of an `hrnet` has two convolutions."""


class BranchSpec(Record):
    """What the branches of an `hrnet` are made of, which compute side by side, one at each level below the stem's."""

    stem_levels: Annotated[int, Field(ge=0, le=MAX_STEM_LEVELS)] = 0
    """Levels above the first branch. So many of the stem's two convolutions have a stride, that of the level they lead
    to; `features` has the width of each at the level it comes from."""
    first_blocks: Annotated[int, Field(gt=0, le=MAX_BLOCKS)]
    """Blocks of the first stage, in which there is one branch."""
    bottleneck_features: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    """Width of the bottlenecks that the first stage consists of, which give four times as many feature maps; 0: it
    consists of residual blocks as wide as the first branch."""
    modules: Annotated[Blocks, Field(min_length=1)]
    """Exchanges between all branches, in the stage with two branches, with three, and so on; before each one every
    branch has its `encoder_blocks`."""
    joined_features: Annotated[int, Field(ge=0, le=MAX_SIZE)] = 0
    """Feature maps that all branches are joined to for the head at full resolution (the second version of the
    network); 0: the head sees the first branch alone (the first version)."""


class NetworkSpec(Record):
    """A network, complete enough to build it. Sizes per axis are (z, y, x), or (y, x) for a 2D network."""

    architecture: Architecture
    dimensions: Literal[2, 3]
    input_channels: Size
    output_channels: Size
    """Heads: see LabelEncoding."""
    features: Annotated[Sizes, Field(min_length=MIN_LEVELS)]
    """Feature maps per level, full resolution first. In `efficientnet_unet` those of the decoder; the encoder's are
    published."""
    strides: tuple[Sizes, ...]
    """Stride of the first convolution of each level; all ones at level 0."""
    kernel_sizes: tuple[Sizes, ...]
    """Kernel of each level, odd."""
    encoder_blocks: Blocks
    """Blocks per level: one convolution each in `unet`, two and a shortcut in `residual_unet` and, for each exchange,
    in the branches of `hrnet`; `unext` has one each, `efficientnet_unet` the inverted residuals that were published;
    `mednext` has so many beside the block that leads into the level. Levels without any, as those of the stem of
    `hrnet`, nominally have one."""
    decoder_blocks: Blocks
    """Blocks per decoder level, full resolution first; one entry fewer than levels. One convolution each; in `unext`
    one convolution, and a shifted block at the token levels; in `mednext` beside the block that leads into the level;
    in `hrnet` nominally one, there is no decoder."""
    normalization: Literal["instance", "batch"] = "instance"
    """Normalisation in convolution blocks, with affine parameters."""
    deep_supervision: bool = True
    """Heads at every decoder level, for training; False: at full resolution only."""
    token_levels: NonNegativeInt = 0
    """unext: how many of the lowest levels are tokenised MLPs."""
    full_resolution_skip: bool = False
    """unext: add the features of level 0 before the last head, for thin structures."""
    block: Block = Field(default="plain", exclude_if=lambda value: value == "plain")
    """unet: blocks of the levels. `plain` is a convolution."""
    skip: Skip = Field(default="plain", exclude_if=lambda value: value == "plain")
    """unet: `plain` hands the features on as they are."""
    attention: Attention = Field(default="none", exclude_if=lambda value: value == "none")
    """unet: at every level of encoder and decoder."""
    bottleneck: Bottleneck = Field(default="plain", exclude_if=lambda value: value == "plain")
    """unet: `plain` adds nothing."""
    detection: DetectionSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Objects one by one, from a feature pyramid over the encoder in place of the decoder; None: logits of voxels."""
    network_name: str = Field(default="", exclude_if=lambda value: value == "")
    """external: name of the entry point in the group `autoseg.networks`, and what may follow it after a colon."""
    network_package: str = Field(default="", exclude_if=lambda value: value == "")
    """external: names of the distributions that it needs, as pip takes them."""
    network_options: dict[str, str] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """external: the network's own settings."""
    costs: NetworkCosts | None = Field(default=None, exclude_if=lambda value: value is None)
    """external: what was counted on it when the plan was made; None: not counted yet."""
    head: Head = Field(default="full", exclude_if=lambda value: value == "full")
    """`full` decodes up to full resolution; `points` ends the decoder at `coarse_level`, and decides uncertain voxels
    one by one."""
    coarse_level: NonNegativeInt = Field(default=0, exclude_if=lambda value: value == 0)
    """points: finest level of the decoder, 1 or more; 0 with any other head."""
    independent_heads: bool = Field(default=False, exclude_if=lambda value: not value)
    """points: whether every output class is a decision of its own, as regions are; False: one is chosen of all."""
    branches: BranchSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """hrnet: what its branches are made of."""
    expansions: Sizes = Field(default=(), exclude_if=lambda value: value == ())
    """mednext: how many times as wide as its input the hidden layer of a block is; per level, full resolution first, in
    encoder and decoder alike."""
    response_normalization: bool = Field(default=False, exclude_if=lambda value: not value)
    """mednext: weight each hidden feature map by its size relative to the others'."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_faults([*_find_length_faults(self), *_find_size_faults(self), *_find_own_faults(self)])
        return self


def list_head_levels(network: NetworkSpec) -> range:
    """Decoder levels that have a head, the finest first; with nested skips as many columns of the finest one."""
    finest = network.coarse_level
    return range(finest, len(network.features) - 1 if network.deep_supervision else finest + 1)


def _find_length_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    levels = len(network.features)
    lengths = {
        "strides": (len(network.strides), levels),
        "kernel_sizes": (len(network.kernel_sizes), levels),
        "encoder_blocks": (len(network.encoder_blocks), levels),
        "decoder_blocks": (len(network.decoder_blocks), levels - 1),
    }
    for name, (found, expected) in lengths.items():
        if found != expected:
            yield (name,), f"{found} entries, expected {expected} because `features` has {levels} levels"


def _find_size_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    sizes_per_level = {"strides": network.strides, "kernel_sizes": network.kernel_sizes}
    for name, levels in sizes_per_level.items():
        for level, sizes in enumerate(levels):
            if len(sizes) != network.dimensions:
                yield (
                    (name, level),
                    f"{sizes}, expected {network.dimensions} numbers in a {network.dimensions}D network",
                )
    for level, kernel in enumerate(network.kernel_sizes):
        if any(size % 2 == 0 for size in kernel):
            yield ("kernel_sizes", level), f"{kernel} has even numbers, only odd ones keep the grid"
    if network.strides and set(network.strides[0]) != {1}:
        yield ("strides", 0), f"{network.strides[0]}, expected all ones: level 0 has full resolution"


NETWORK_PARTS: Mapping[str, str] = MappingProxyType(
    {"block": "plain", "skip": "plain", "attention": "none", "bottleneck": "plain"}
)
"""Fields that choose parts of a U-Net, and the value of each that adds nothing to a plain one."""

DETECTING: tuple[Architecture, ...] = ("unet", "residual_unet")
"""Architectures whose encoder may have a feature pyramid."""

MULTIRES_FEATURES = 3
"""Least number of feature maps of a level of `multires` blocks, one for each of their three convolutions."""

_OPTIONS: Mapping[str, tuple[bool | int | str | Sizes | None, tuple[Architecture, ...], str]] = MappingProxyType(
    {
        "token_levels": (0, ("unext",), "only unext has token levels"),
        "full_resolution_skip": (False, ("unext",), "only unext can do without this skip"),
        "network_name": ("", ("external",), "only networks of other packages have names"),
        "network_package": ("", ("external",), "only networks of other packages have names"),
        "head": (
            "full",
            ("unet", "residual_unet", "unext", "efficientnet_unet", "mednext"),
            "only networks with a decoder of levels can end it before full resolution",
        ),
        "branches": (None, ("hrnet",), "only hrnet has branches"),
        "expansions": ((), ("mednext",), "only mednext has hidden layers of a chosen width"),
        "response_normalization": (False, ("mednext",), "only mednext has hidden layers to normalise"),
        **{name: (nothing, ("unet",), "only unet has parts to choose from") for name, nothing in NETWORK_PARTS.items()},
    }
)
"""Fields that only some architectures have: the value that means nothing, the architectures, and why."""


def _find_own_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    """Faults of fields that belong to one architecture, and what that architecture itself expects."""
    for name, (nothing, architectures, reason) in _OPTIONS.items():
        value = getattr(network, name)
        if value != nothing and network.architecture not in architectures:
            yield (name,), f"{str(value).lower()}, expected {str(nothing).lower()}: {reason}"
    yield from _find_head_faults(network)
    yield from _EXPECTATIONS.get(network.architecture, _expect_nothing)(network)
    if network.detection is not None:
        yield from _find_detection_faults(network, network.detection)


def _find_head_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    level, most = network.coarse_level, len(network.features) - MIN_LEVELS
    if network.head == "points" and not 1 <= level <= most:
        yield ("coarse_level",), f"{level}, expected 1 to {most}: a level of the decoder below full resolution"
    if network.head == "points" and network.detection is not None:
        yield ("head",), "points, expected full: a network that finds objects has heads of its own"
    if network.head == "full" and level != 0:
        yield ("coarse_level",), f"{level}, expected 0: only a point head ends the decoder earlier"
    if network.head == "full" and network.independent_heads:
        yield ("independent_heads",), "true, expected false: only a point head needs to know"


def _expect_nothing(_network: NetworkSpec) -> Iterator[FieldFault]:
    yield from ()


def _find_detection_faults(network: NetworkSpec, detection: DetectionSpec) -> Iterator[FieldFault]:
    if network.architecture not in DETECTING:
        expected = " or ".join(DETECTING)
        yield ("detection",), f"given, expected null in {network.architecture}: only {expected} can have a pyramid"
    if detection.dimensions != network.dimensions:
        yield ("detection", "box_size"), f"{detection.box_size}, expected {network.dimensions} numbers"
    if detection.levels[-1] >= len(network.features):
        highest = len(network.features) - 1
        yield ("detection", "levels"), f"{detection.levels}, expected at most {highest}, the lowest level"
    if detection.num_labels != network.output_channels - 1:
        expected = f"expected {network.output_channels - 1}: `output_channels` without the background"
        yield ("detection", "num_labels"), f"{detection.num_labels}, {expected}"


def _find_unet_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    if network.block == "multires" and min(network.features) < MULTIRES_FEATURES:
        yield ("features",), f"{network.features}, expected {MULTIRES_FEATURES} or more each with multires blocks"


def _find_unext_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    most = len(network.features) - 1
    if network.token_levels > most:
        yield ("token_levels",), f"{network.token_levels}, expected 0 to {most}: level 0 is no token level"
    if network.token_levels == most and network.full_resolution_skip:
        yield ("full_resolution_skip",), f"true, expected false: with {most} token levels nothing convolves at level 0"
    if network.features[0] != network.features[1]:
        yield ("features",), f"begins with {network.features[:2]}, expected two equal numbers in unext"
    for name, blocks in {"encoder_blocks": network.encoder_blocks, "decoder_blocks": network.decoder_blocks}.items():
        if set(blocks) != {1}:
            yield (name,), f"{blocks}, expected one block per level in unext"


def _find_external_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    for name in ("network_name", "network_package"):
        if not getattr(network, name):
            yield (name,), "is empty, expected that of a network of another package"


def _find_efficientnet_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    levels, most = len(network.features), len(EFFICIENTNET_LEVELS)
    if network.dimensions != 2:
        yield ("dimensions",), f"{network.dimensions}, expected 2: the encoder was published for images of two axes"
    if levels > most:
        yield ("features",), f"{levels} levels, expected at most {most} in efficientnet_unet"
        return
    published = {"features": encoder_features(levels)[-1:], "encoder_blocks": encoder_blocks(levels)}
    if network.features[-1:] != published["features"]:
        yield ("features",), f"ends with {network.features[-1]}, expected {published['features'][0]} of the encoder"
    if network.encoder_blocks != published["encoder_blocks"]:
        yield ("encoder_blocks",), f"{network.encoder_blocks}, expected the published {published['encoder_blocks']}"
    if any(step not in (1, 2) for stride in network.strides for step in stride):
        yield ("strides",), f"{network.strides}, expected 1 and 2 in efficientnet_unet"


def _find_hrnet_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    branches = network.branches
    if branches is None:
        yield ("branches",), "none, expected what the branches of hrnet are made of"
        return
    stem, levels = branches.stem_levels, len(network.features)
    if stem > levels - 2:
        yield ("branches", "stem_levels"), f"{stem} of {levels} levels, expected two branches or more below the stem"
    elif len(branches.modules) != levels - stem - 1:
        expected = f"{levels - stem - 1} because there are {levels - stem} branches"
        yield ("branches", "modules"), f"{len(branches.modules)} entries, expected {expected}"
    if network.deep_supervision and stem > 1:
        yield ("deep_supervision",), f"true, expected false with {stem} levels of the stem: no branch is at level 1"
    blocks = {"encoder_blocks": network.encoder_blocks[:stem], "decoder_blocks": network.decoder_blocks}
    for name, nominal in blocks.items():
        if set(nominal) - {1}:
            yield (name,), f"{getattr(network, name)}, expected one per level that has none in hrnet"


def _find_mednext_faults(network: NetworkSpec) -> Iterator[FieldFault]:
    levels = len(network.features)
    if len(network.expansions) != levels:
        yield (
            ("expansions",),
            f"{len(network.expansions)} entries, expected {levels} because `features` has {levels} levels",
        )


_EXPECTATIONS: Mapping[Architecture, Callable[[NetworkSpec], Iterator[FieldFault]]] = MappingProxyType(
    {
        "unet": _find_unet_faults,
        "unext": _find_unext_faults,
        "efficientnet_unet": _find_efficientnet_faults,
        "external": _find_external_faults,
        "hrnet": _find_hrnet_faults,
        "mednext": _find_mednext_faults,
    }
)
"""What an architecture expects of its fields beyond what all do."""


class NormalizationSpec(Record):
    """Intensity normalisation of one channel; the numbers are the dataset's foreground statistics, used by `ct`."""

    scheme: Literal["zscore", "ct", "rescale_0_1", "rgb_0_1", "none"]
    use_mask: bool = False
    """zscore only: statistics inside the nonzero mask, zero outside."""
    mean: float = 0.0
    std: NonNegativeFloat = 1.0
    lower: float = 0.0
    """0.5 percentile, clipping bound of `ct`."""
    upper: float = 0.0
    """99.5 percentile, clipping bound of `ct`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scheme == "ct":
            refuse_faults(_find_ct_faults(self))
        return self


def _find_ct_faults(spec: NormalizationSpec) -> Iterator[FieldFault]:
    if spec.lower > spec.upper:
        yield ("lower",), f"{spec.lower:g}, expected at most `upper`, {spec.upper:g}"
    # where all foreground is alike, nothing is left to divide after clipping
    if spec.std == 0.0 and spec.lower != spec.upper:
        yield ("std",), "0, expected more: intensities are divided by it"


class ResamplingSpec(Record):
    """Spline orders, and how slices far apart are treated."""

    image_order: SplineOrder = 3
    label_order: SplineOrder = 1
    logits_order: SplineOrder = 1
    through_plane_order: SplineOrder = 0
    """Order along the axis that is resampled separately."""
    separate_through_plane: Literal["auto", "always", "never"] = "auto"
    """auto: when the largest spacing is more than `anisotropy_threshold` times the smallest."""
    anisotropy_threshold: NonNegativeFloat = 3.0
