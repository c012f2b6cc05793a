"""The network of boundary refinement: corrects a coarse probability, given the image around it.

Tested in tests/inference/refinement/test_refine.py.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.build import build_network
from autoseg.records.network import NetworkSpec

MIN_PROBABILITY = 1e-3
"""Coarse probabilities are kept so far from 0 and 1: logits stay within 7, and can still be turned round."""


class RefinerNetwork(nn.Module):
    """A small U-Net whose output is added to the logit of the coarse probability.

    It begins as the identity, because its last layer begins with zeros: what short training does not reach is left
    as it was.

    References:
        Tang et al. 2021, boundary patch refinement (BPR): image and coarse mask as input, one binary output for all
        classes. Differs: the coarse mask is soft, and the output is a correction of it.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        """Draw fresh weights, from torch's global generator.

        Args:
            spec: Description of a network with one input channel more than the image has, and one output channel.
        """
        super().__init__()
        self.is_flat = spec.dimensions == 2
        self.network = build_network(spec, deep_supervision=False)
        head = self.network.get_submodule("decoder.heads.0")
        for parameter in head.parameters():
            nn.init.zeros_(parameter)

    @override
    def forward(self, image: Tensor, coarse: Tensor) -> Tensor:
        """Compute refined logits.

        Args:
            image: (B, C, Z, Y, X), normalised; Z is 1 for a 2D network.
            coarse: (B, Z, Y, X), probability, [0, 1].

        Returns:
            (B, Z, Y, X); refined probabilities are their sigmoid.
        """
        inputs = torch.cat((image, 2 * coarse[:, None] - 1), dim=1)
        change = self.network(inputs.squeeze(2))[:, :, None] if self.is_flat else self.network(inputs)
        refined: Tensor = torch.logit(coarse, eps=MIN_PROBABILITY) + change[:, 0]
        return refined
