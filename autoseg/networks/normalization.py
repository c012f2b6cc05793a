"""Instance normalisation that is fast in every memory layout; used by the bricks in `blocks`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


class InstanceNormalization(nn.Module):
    """Every feature map of every sample gets mean 0 and variance 1 over its voxels, then a learnt scale and shift.

    In two and three dimensions. Parameter names, start values and results are those of torch's `nn.InstanceNorm2d` and
    `nn.InstanceNorm3d` with affine parameters; statistics are float32 for 16-bit features too.

    References:
        Ulyanov et al., "Instance normalization: the missing ingredient for fast stylization", 2016.
    """

    def __init__(self, features: int, *, eps: float) -> None:
        """Scale 1 and shift 0.

        Args:
            features: Number of feature maps.
            eps: Added to the variance.
        """
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *S) -> (B, C, *S); on a CPU in the same memory layout."""
        if not _goes_sample_by_sample(features):
            return F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for sample in torch.split(features, 1)
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


def _goes_sample_by_sample(features: Tensor) -> bool:
    """Whether torch's batch normalisation of one sample at a time, which is the same thing, is the better way.

    On a CPU torch computes it in the memory layout that it finds. Its instance normalisation copies channels-last
    features into the ordinary layout, so that the next convolution has to copy back; and for a batch of one (torch
    2.13) it gives wrong gradients when features and gradient differ in layout. A compiler makes kernels of its own,
    for which one operation for the batch is better than many.
    """
    if features.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    layout = torch.channels_last_3d if features.ndim == 5 else torch.channels_last
    return len(features) == 1 or features.is_contiguous(memory_format=layout)
