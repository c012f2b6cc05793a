"""Networks of segmentation_models_pytorch, with the settings that its authors chose, without their weights.

Tested in tests/networks/zoo/test_smp_networks.py, where the library is installed, and by scripts/check_zoo.
"""

import segmentation_models_pytorch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.records.network import NetworkSpec


class PooledNorm(nn.BatchNorm2d):
    """A batch norm that takes its running statistics where a channel has a single value.

    Branches that average over the whole image have one value for each image, which torch refuses to normalise over a
    batch of one.
    """

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, Y, X) -> the same shape."""
        if self.training and features.numel() == features.shape[1]:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        normalized: Tensor = super().forward(features)
        return normalized


def build_smp(decoder: str, encoder: str, spec: NetworkSpec) -> nn.Module:
    """Build a network for images of two axes; its weights are drawn.

    Args:
        decoder: Name of a class of the library.
        encoder: Name of an encoder of the library.
        spec: Channels and heads.
    """
    make = getattr(segmentation_models_pytorch, decoder)
    network: nn.Module = make(
        encoder, encoder_weights=None, in_channels=spec.input_channels, classes=spec.output_channels
    )
    _replace_norms(network.get_submodule("decoder"))
    return network


def _replace_norms(module: nn.Module) -> None:
    """Put `PooledNorm` in the place of every batch norm; weights and their names stay."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            norm = PooledNorm(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            _replace_norms(child)
