"""Networks of MONAI and of segmentation_models_pytorch that can be planned by name, and what patches each takes.

A name is `monai:NETWORK`, or `smp:DECODER/ENCODER`. Both libraries come with the extra `zoo`; their networks are built
in `autoseg.networks.zoo`. What stands here was tried on the libraries themselves; `scripts/check_zoo` tries it again.

References:
    Cardoso et al., "MONAI: an open-source framework for deep learning in healthcare", 2022.
    Iakubovskii, "Segmentation models pytorch", 2019, github.com/qubvel-org/segmentation_models.pytorch.

Tested in tests/records/test_zoo.py.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from autoseg.records.external import NetworkDeclaration

INSTALLATION: Final = "pip install 'autoseg-med[zoo]'"
"""Command that installs both libraries."""

MONAI: Final = "monai"

SMP: Final = "smp"

MODULES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {MONAI: ("monai", "einops"), SMP: ("segmentation_models_pytorch",)}
)
"""What has to be importable, by the beginning of the name."""

_REQUIRES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {MONAI: ("monai", "einops"), SMP: ("segmentation-models-pytorch",)}
)
"""Names of the same for pip."""


def _declare_monai(edge: int, *, deep_supervision: bool = False) -> NetworkDeclaration:
    """What is said of a network of MONAI whose patches have edges that are multiples of `edge`."""
    return NetworkDeclaration(divisors=(edge, edge, edge), deep_supervision=deep_supervision, requires=_REQUIRES[MONAI])


MONAI_NETWORKS: Final[Mapping[str, NetworkDeclaration]] = MappingProxyType(
    {
        "AttentionUnet": NetworkDeclaration(divisors=None, requires=_REQUIRES[MONAI]),
        "BasicUNetPlusPlus": _declare_monai(16),
        "DynUNet": NetworkDeclaration(divisors=None, deep_supervision=True, requires=_REQUIRES[MONAI]),
        "HighResNet": _declare_monai(8),  # takes any patch, but its view of dilated kernels wants some voxels
        "MedNeXt": _declare_monai(16, deep_supervision=True),
        "SegResNet": _declare_monai(8),
        "SwinUNETR": _declare_monai(32),
        "UNETR": _declare_monai(16),
        "VNet": _declare_monai(16),
    }
)
"""Networks of `monai.networks.nets`, in two and three dimensions. `divisors=None`: the planned strides."""


def _declare_smp(edge: int) -> NetworkDeclaration:
    """What is said of a decoder whose patches have edges that are multiples of `edge`."""
    return NetworkDeclaration(dimensions=(2,), divisors=(1, edge, edge), requires=_REQUIRES[SMP])


SMP_DECODERS: Final[Mapping[str, NetworkDeclaration]] = MappingProxyType(
    {
        "DeepLabV3Plus": _declare_smp(32),
        "FPN": _declare_smp(32),
        "Linknet": _declare_smp(32),
        "MAnet": _declare_smp(32),
        "PAN": _declare_smp(128),  # pools three times more below a sixteenth of the resolution
        "PSPNet": _declare_smp(32),
        "Segformer": _declare_smp(32),
        "UPerNet": _declare_smp(32),
        "Unet": _declare_smp(32),
        "UnetPlusPlus": _declare_smp(32),
    }
)
"""Networks of `segmentation_models_pytorch`, for images of two axes. Some divide less with some encoders; all of their
patches suit every encoder."""

_POOLING_ENCODERS: Final = (
    "densenet121", "densenet161", "densenet169", "densenet201", "inceptionresnetv2", "inceptionv4", "vgg11_bn",
    "vgg16_bn", "xception",
)  # fmt: skip
"""Encoders that pool by maxima or averages, which cannot be replaced by dilation."""

_HIGH_RESOLUTION_ENCODERS: Final = (
    "tu-hrnet_w18", "tu-hrnet_w18_small", "tu-hrnet_w18_small_v2", "tu-hrnet_w30", "tu-hrnet_w32", "tu-hrnet_w40",
    "tu-hrnet_w44", "tu-hrnet_w48", "tu-hrnet_w64",
)  # fmt: skip

_TRANSFORMER_ENCODERS: Final = ("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5")

SMP_ENCODERS: Final = tuple(
    sorted(
        (
            "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "dpn68",
            "se_resnet50", "se_resnet101", "se_resnext50_32x4d", "senet154",
            "efficientnet-b0", "efficientnet-b1", "efficientnet-b2", "efficientnet-b3", "efficientnet-b4",
            "efficientnet-b5", "efficientnet-b6", "efficientnet-b7",
            "mobilenet_v2", "mobileone_s0", "mobileone_s1", "timm-tf_efficientnet_lite0",
            "tu-mobilenetv3_large_100", "tu-mobilenetv3_small_100",
            *_POOLING_ENCODERS, *_HIGH_RESOLUTION_ENCODERS, *_TRANSFORMER_ENCODERS,
        )
    )
)  # fmt: skip
"""Encoders by the library's own names; those that begin with `tu-` are of timm. All start from drawn weights."""

_REFUSED: Final[Mapping[str, tuple[tuple[str, ...], str]]] = MappingProxyType(
    {
        "DeepLabV3Plus": ((*_POOLING_ENCODERS, *_HIGH_RESOLUTION_ENCODERS), "it needs an encoder that can dilate"),
        "PAN": ((*_POOLING_ENCODERS, *_HIGH_RESOLUTION_ENCODERS), "it needs an encoder that can dilate"),
        "Linknet": (_TRANSFORMER_ENCODERS, "it needs an encoder of convolutions"),
        "UnetPlusPlus": (_TRANSFORMER_ENCODERS, "it needs an encoder of convolutions"),
    }
)
"""Encoders that a decoder does not go with, and why."""


def zoo_names() -> Iterator[str]:
    """Every name of the zoo."""
    yield from (f"{MONAI}:{name}" for name in MONAI_NETWORKS)
    for decoder in SMP_DECODERS:
        refused, _reason = _REFUSED.get(decoder, ((), ""))
        yield from (f"{SMP}:{decoder}/{encoder}" for encoder in SMP_ENCODERS if encoder not in refused)


def describe_names() -> str:
    """The names of the zoo, in lines that stay readable."""
    return (
        f"\n  {', '.join(f'{MONAI}:{name}' for name in MONAI_NETWORKS)};"
        f"\n  {SMP}:DECODER/ENCODER with the decoders {', '.join(SMP_DECODERS)},"
        f"\n  and the encoders {', '.join(SMP_ENCODERS)}"
    )


def declare_of_zoo(name: str) -> NetworkDeclaration:
    """What a network of the zoo takes.

    Args:
        name: `monai:NETWORK` or `smp:DECODER/ENCODER`.

    Raises:
        ValueError: If there is no such name; lists all.
    """
    library, _, network = name.partition(":")
    decoder, _, encoder = network.partition("/")
    if library == MONAI and network in MONAI_NETWORKS:
        return MONAI_NETWORKS[network]
    if library == SMP and decoder in SMP_DECODERS and encoder in SMP_ENCODERS:
        refused, reason = _REFUSED.get(decoder, ((), ""))
        if encoder not in refused:
            return SMP_DECODERS[decoder]
        others = ", ".join(each for each in SMP_ENCODERS if each not in refused)
        raise ValueError(f"{decoder} does not go with {encoder}: {reason}. Take one of: {others}.")
    raise ValueError(f"the zoo has no '{name}'. Give one of:{describe_names()}.")
