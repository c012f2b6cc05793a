"""Networks of MONAI with settings that suit, in the outer form of networks here.

Where MONAI leaves a setting open, the published one is taken: SegResNet and SwinUNETR are as wide as in MONAI's
Auto3DSeg, MedNeXt is the size S with kernel 3. DynUNet and AttentionUnet take strides, feature maps and (DynUNet)
kernels of the plan.

Tested in tests/networks/zoo/test_monai_networks.py, where MONAI is installed, and by scripts/check_zoo.
"""

import torch.nn.functional as F
from monai.networks import nets
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from autoseg.records.network import NetworkSpec

VNET_FEATURES = 16
"""Feature maps of V-Net at full resolution, which its input is repeated to."""

UNETR_EDGES = {2: 256, 3: 96}
"""Patch that UNETR's positions are drawn for, voxels; 96 as published."""

UNETR_TOKEN = 16
"""Edge of a token, voxels."""

POSITIONS = "vit.patch_embedding.position_embeddings"


def build_monai(name: str, spec: NetworkSpec) -> nn.Module:
    """Build a network (B, C, *S) -> logits (B, K, *S), or in training a list of them, full resolution first.

    Args:
        name: Name of a class of `monai.networks.nets`.
        spec: Dimensions, channels and heads; for DynUNet and AttentionUnet strides and feature maps, too.

    Raises:
        ValueError: If the network does not take so many channels or levels.
    """
    dimensions, inputs, outputs = spec.dimensions, spec.input_channels, spec.output_channels
    network: nn.Module
    match name:
        case "AttentionUnet":
            network = nets.AttentionUnet(dimensions, inputs, outputs, channels=spec.features, strides=spec.strides[1:])
        case "BasicUNetPlusPlus":
            network = FirstOutput(nets.BasicUNetPlusPlus(dimensions, inputs, outputs))
        case "DynUNet":
            network = SupervisedDynUNet(spec)
        case "HighResNet":
            network = nets.HighResNet(dimensions, inputs, outputs)
        case "MedNeXt":
            inner = nets.MedNeXt(
                dimensions, in_channels=inputs, out_channels=outputs, kernel_size=3, deep_supervision=True,
                use_residual_connection=True,
            )  # fmt: skip
            network = WithoutLowest(inner)
        case "SegResNet":
            network = nets.SegResNet(dimensions, 32, inputs, outputs, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
        case "SwinUNETR":
            network = nets.SwinUNETR(inputs, outputs, feature_size=48, spatial_dims=dimensions)
        case "UNETR":
            network = AnySizeUNETR(spec)
        case "VNet":
            network = PaddedVNet(spec)
        case _:
            raise ValueError(f"no settings are known for '{name}'")
    return network


class FirstOutput(nn.Module):
    """A network that gives a list of one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    @override
    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *S) -> (B, K, *S)."""
        logits: Tensor = self.inner(image)[0]
        return logits


class WithoutLowest(nn.Module):
    """A network that in training has a head at the lowest level, too, which is left out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    @override
    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) -> (B, K, *S), in training a list, full resolution first."""
        found: Tensor | list[Tensor] = self.inner(image)
        return found if isinstance(found, Tensor) else list(found[:-1])


class SupervisedDynUNet(nn.Module):
    """DynUNet with the heads of its levels at their own resolution, which MONAI enlarges and stacks."""

    def __init__(self, spec: NetworkSpec) -> None:
        """Draw start values.

        Args:
            spec: Strides, kernels and feature maps, of three levels or more.

        Raises:
            ValueError: If it has two levels.
        """
        super().__init__()
        supervised = len(spec.strides) - 2
        if supervised < 1:
            raise ValueError("DynUNet has three levels or more, but the patch allows two. Take another network")
        self.inner = nets.DynUNet(
            spec.dimensions, spec.input_channels, spec.output_channels, kernel_size=spec.kernel_sizes,
            strides=spec.strides, upsample_kernel_size=spec.strides[1:], filters=spec.features, deep_supervision=True,
            deep_supr_num=supervised,
        )  # fmt: skip
        for alias in ("input_block", "downsamples", "bottleneck", "upsamples", "deep_supervision_heads"):
            delattr(self.inner, alias)  # all are in `skip_layers`, too, and would be saved twice

    @override
    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *S) -> (B, K, *S), in training a list, full resolution first."""
        logits: Tensor = self.inner.output_block(self.inner.skip_layers(image))
        lower = list(self.inner.heads)
        self.inner.heads[:] = [image.new_zeros(1)] * len(lower)  # what they were computed from is not held, nor copied
        return [logits, *lower] if self.training else logits


class PaddedVNet(nn.Module):
    """V-Net, whose input is repeated to 16 feature maps: channels of zeros are added until their number divides 16."""

    def __init__(self, spec: NetworkSpec) -> None:
        """Draw start values.

        Args:
            spec: Up to 16 input channels.

        Raises:
            ValueError: If it has more.
        """
        super().__init__()
        fitting = [count for count in range(spec.input_channels, VNET_FEATURES + 1) if VNET_FEATURES % count == 0]
        if not fitting:
            raise ValueError(f"VNet takes {VNET_FEATURES} input channels at most, but the images have more")
        self._added = fitting[0] - spec.input_channels
        self.inner = nets.VNet(
            spec.dimensions, fitting[0], spec.output_channels, dropout_prob_down=None, dropout_prob_up=(None, 0.0),
            dropout_dim=spec.dimensions,
        )  # fmt: skip

    @override
    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *S) -> (B, K, *S)."""
        nothing = (0, 0) * (image.ndim - 2)
        logits: Tensor = self.inner(F.pad(image, (*nothing, 0, self._added)))
        return logits


class AnySizeUNETR(nn.Module):
    """UNETR for patches of any size: its learnt positions are interpolated to the tokens of the patch.

    References:
        Dosovitskiy et al., "An image is worth 16 x 16 words", 2021, section 3.2, for the interpolation.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        edge = UNETR_EDGES[spec.dimensions]
        self._grid = (edge // UNETR_TOKEN,) * spec.dimensions
        self.inner = nets.UNETR(spec.input_channels, spec.output_channels, img_size=edge, spatial_dims=spec.dimensions)

    @override
    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *S) -> (B, K, *S)."""
        grid = tuple(int(edge) // UNETR_TOKEN for edge in image.shape[2:])
        positions = self.inner.get_parameter(POSITIONS)
        if grid != self._grid:
            drawn = positions.transpose(1, 2).unflatten(2, self._grid)
            mode = "bilinear" if len(grid) == 2 else "trilinear"
            positions = F.interpolate(drawn, size=grid, mode=mode).flatten(2).transpose(1, 2)
        self.inner.proj_view_shape = [*grid, positions.shape[2]]
        logits: Tensor = functional_call(self.inner, {POSITIONS: positions}, (image,))
        return logits
