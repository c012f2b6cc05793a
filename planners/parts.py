"""The parts that a U-Net may be made of: settings of the planner `unet`, and sets of them that have names.

Each part is a value in the plan. The planners named here are what people know from papers, as values of these parts;
depth, strides, kernels, patch and batch follow from the data, as those of the plain U-Net do.

References:
    See each entry of NAMED_PARTS; for the parts `autoseg.networks.parts`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, get_args

from autoseg.errors import PlanningError
from autoseg.records.network import Attention, Block, Bottleneck, Skip

PartName = Literal["block", "skip", "attention", "bottleneck"]

PART_NAMES: Final = get_args(PartName)
"""Planner options that choose parts."""


class Parts(NamedTuple):
    """What a U-Net is made of."""

    block: Block = "plain"
    skip: Skip = "plain"
    attention: Attention = "none"
    bottleneck: Bottleneck = "plain"


PLAIN_PARTS: Final = Parts()

BLOCKS_PER_LEVEL: Final[Mapping[Block, int]] = MappingProxyType(
    {
        "plain": 2,
        "residual": 1,
        "recurrent": 1,
        "dense": 1,
        "inception": 1,
        "multires": 1,
        "separable": 2,
        "factorized": 1,
        "mednext": 2,
    }
)
"""Blocks of each level, in the encoder and in the decoder; those of one hold two convolutions or more."""

NAMED_PARTS: Final[Mapping[str, Parts]] = MappingProxyType(
    {
        "vnet": Parts(block="residual"),
        "r2unet": Parts(block="recurrent"),
        "multiresunet": Parts(block="multires", skip="respath"),
        "unet++": Parts(skip="nested"),
        "attention-unet": Parts(skip="gate"),
        "se-unet": Parts(attention="channel"),
        "nonlocal-unet": Parts(bottleneck="nonlocal"),
        "deeplab-unet": Parts(bottleneck="atrous"),
        "erfnet": Parts(block="factorized"),
    }
)
"""Planners by name. vnet: Milletari et al. 2016. r2unet: Alom et al. 2018. multiresunet: Ibtehaz and Rahman 2020.
unet++: Zhou et al. 2020. attention-unet: Oktay et al. 2018. se-unet: Hu et al. 2018, in a U-Net as by Roy et al. 2018.
nonlocal-unet: Wang et al. 2018, in a U-Net as by Wang, Zou et al. 2020. deeplab-unet: Chen et al. 2017 and 2018.
erfnet: Romera et al. 2018."""


def read_parts(options: Mapping[str, str], defaults: Parts = PLAIN_PARTS) -> Parts:
    """The parts that planner options choose.

    Args:
        options: Planner options; those that are no parts are left alone.
        defaults: Parts that are not named.

    Raises:
        PlanningError: If a value does not exist, or two parts do not go together.
    """
    kinds = {"block": Block, "skip": Skip, "attention": Attention, "bottleneck": Bottleneck}
    asked = {name: options[name].replace("+", "_") for name in PART_NAMES if name in options}
    for name, value in asked.items():
        if value not in get_args(kinds[name]):
            known = ", ".join(get_args(kinds[name]))
            raise PlanningError(f"--planner-option {name}={value}: expected one of {known}.")
    parts = defaults._replace(**asked)  # type: ignore[arg-type]  # the values were compared with the names
    _refuse_combinations(parts)
    return parts


def _refuse_combinations(parts: Parts) -> None:
    if parts.skip == "nested" and parts.block == "dense":
        raise PlanningError(
            "--planner-option skip=nested with block=dense: both join all that was computed before, so that memory "
            "grows with the square of the depth twice over. Choose one of them."
        )
    if parts.skip == "nested" and parts.block == "recurrent":
        raise PlanningError(
            "--planner-option skip=nested with block=recurrent: every one of the nodes would convolve six times over. "
            "Choose one of them."
        )
