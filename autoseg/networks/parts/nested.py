"""The decoder of a U-Net++: a grid of nodes instead of one way up.

Tested in tests/networks/parts/test_levels.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from autoseg.networks.blocks import choose_layers
from autoseg.networks.parts.levels import join_blocks, make_upsampling
from autoseg.networks.unet import run_level
from autoseg.records.network import NetworkSpec, list_head_levels


class Node(nn.Module):
    """Upsample the node below, join it with all earlier nodes of the level, convolve.

    Parameter names: `upsampling`, `blocks.<block>...`.
    """

    def __init__(self, spec: NetworkSpec, level: int, column: int) -> None:
        """Draw torch's own start values.

        Args:
            spec: The network.
            level: 0 at full resolution.
            column: Number of nodes before it at its level, 1 or more; that of the encoder counts.
        """
        super().__init__()
        self.upsampling = make_upsampling(spec, level)
        self.blocks = join_blocks(spec, level, (column + 1) * spec.features[level])

    @override
    def forward(self, below: Tensor, *earlier: Tensor) -> Tensor:
        """Features of the node below and of all earlier nodes of the level, (B, F, *S) -> features of this node."""
        joined: Tensor = self.blocks(torch.cat((*earlier, self.upsampling(below)), dim=1))
        return joined


class NestedDecoder(nn.Module):
    """Nodes X(level, column) of a U-Net with L decoder levels, for level + column up to L; column 0 is the encoder.

        X(0,0) - X(0,1) - X(0,2)   heads at X(0,1) and X(0,2), all at full resolution
           |   /    |   /
        X(1,0) - X(1,1)
           |   /
        X(2,0)

    With a point head the levels above its coarse one have no nodes, and the coarse one has the heads.

    The nodes up to a column are a network of their own, as deep as the column, so the last columns can be left out of a
    prediction.

    Parameter names: `nodes.<level>.<column - 1>...` and `heads.<position>`, position 0 at the last column.

    Attributes:
        last_column: Column that gives the prediction, 1 to L; L unless columns are left out.

    References:
        Zhou et al., "UNet++: redesigning skip connections to exploit multiscale features in image segmentation", 2020,
        with its deep supervision and pruning.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        depth = len(spec.features) - 1
        self.finest = spec.coarse_level
        self.last_column = depth - self.finest
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                Node(spec, level, column) for column in range(1, depth - level + 1) if level >= spec.coarse_level
            )
            for level in range(depth)
        )
        convolution = choose_layers(spec.dimensions).convolution
        self.heads = nn.ModuleList(
            convolution(spec.features[self.finest], spec.output_channels, kernel_size=1) for _ in list_head_levels(spec)
        )

    @override
    def forward(self, maps: Sequence[Tensor], *, all_levels: bool, recompute: bool = False) -> list[Tensor]:
        """The encoder's features -> logits of all columns that have a head, last one first; or of `last_column`."""
        return self.decode(maps, all_levels=all_levels, recompute=recompute)[1]

    def decode(self, maps: Sequence[Tensor], *, all_levels: bool, recompute: bool) -> tuple[Tensor, list[Tensor]]:
        """The encoder's features -> features of the last node of the finest level, and logits as from `forward`."""
        lowest = self.finest + self.last_column
        rows = [[features] for features in maps[: lowest + 1]]
        for column in range(1, self.last_column + 1):
            for level in range(self.finest, lowest - column + 1):
                node = self.nodes[level][column - 1]  # type: ignore[index]  # a list of lists
                below = rows[level + 1][column - 1]
                rows[level].append(run_level(node, below, *rows[level], recompute=recompute))
        finest = rows[self.finest]
        return finest[-1], [self._head(finest, column) for column in self._list_columns(all_levels=all_levels)]

    def _list_columns(self, *, all_levels: bool) -> list[int]:
        if not all_levels:
            return [self.last_column]
        return list(range(self.last_column, self.last_column - len(self.heads), -1))

    def _head(self, row: Sequence[Tensor], column: int) -> Tensor:
        logits: Tensor = self.heads[len(self.nodes) - self.finest - column](row[column])
        return logits
