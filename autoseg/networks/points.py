"""A point head: the decoder ends early, and a perceptron decides uncertain voxels one by one.

    encoder levels --> decoder down to a coarse level --> coarse logits --> larger by one level's stride
          |                      |                                              |
          '---- features at the most uncertain voxels --> perceptron --> corrections, and again, up to full resolution

Nothing of the decoder exists at the levels above the coarse one, which is most of what training would keep. All places
are voxel centres in the unit cube, so that sampling and interpolation agree (`align_corners=False`): voxel i of n has
its centre at (i + 1/2) / n.

References:
    Kirillov et al., "PointRend: image segmentation as rendering", CVPR 2020, semantic segmentation: over-generated
    random points of which the uncertain ones are trained, prediction by subdivision, a perceptron of three hidden
    layers. Differs: in two and three dimensions, with the strides of the plan. Points are voxels. Features of the
    decoder's finest level are sampled besides the encoder's finer ones; coarse logits, which are a linear function of
    them, are added to the perceptron's answer instead of being an input, so that a fresh network answers what
    interpolation does. A correction fades out towards the least uncertain of the chosen voxels, so that logits depend
    continuously on the image, whatever the order of floating-point sums.

Tested in tests/networks/test_points.py.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from autoseg.costs.points import HIDDEN_LAYERS, count_point_features, count_predicted_points, count_training_points
from autoseg.networks.blocks import LEAKY_SLOPE, choose_layers
from autoseg.networks.parts.nested import NestedDecoder
from autoseg.networks.unet import Decoder, Encoder, UNet, check_sizes
from autoseg.records.network import NetworkSpec

OVERSAMPLING: Final = 3
"""Voxels that are drawn for each training point, k; the most uncertain ones are taken."""

UNCERTAIN_FRACTION: Final = 0.75
"""Training points that are taken so, beta; the others are drawn evenly."""

LAST_DEVIATION: Final = 0.001
"""Standard deviation of the last layer's first weights, as published."""

MIN_MARGIN: Final = 1e-6
"""Smallest margin that corrections fade towards."""

POINTS_AT_ONCE: Final = 2**15
"""Points of a sample that are predicted at a time, which bounds the memory of their features."""

POINT_STREAM: Final = 2
"""Part of the seed of the points, beside those of the batches."""


class Places(NamedTuple):
    """Where voxels of one grid lie in another: their neighbours along each axis on which the grids differ."""

    indices: Tensor
    """Voxels of the other grid, counted along its last axis first, (B, P, N) int64."""
    weights: Tensor | None
    """Weights of the neighbours, (B, P, N) float32, sum 1; None: there is one, N = 1."""


def find_places(voxels: Tensor, grid: Sequence[int], other: Sequence[int]) -> Places:
    """Neighbours of voxels' centres in another grid over the same space, for linear interpolation.

    Beyond the outermost centres the outermost voxel counts, as in torch's interpolation.

    Args:
        voxels: Voxels of the grid, counted along its last axis first, (B, P) int64.
        grid: Shape of the grid.
        other: Shape of the other grid.
    """
    coordinates = []
    for edge in reversed(grid):
        coordinates.append(voxels % edge)
        voxels = torch.div(voxels, edge, rounding_mode="floor")
    indices, weights = torch.zeros_like(voxels).unsqueeze(-1), None
    for coordinate, edge, size in zip(reversed(coordinates), grid, other, strict=True):
        if edge == size:
            indices = indices * size + coordinate.unsqueeze(-1)
            continue
        position = ((coordinate.float() + 0.5) * (size / edge) - 0.5).clamp(0.0, size - 1.0)
        low = position.floor()
        part = (position - low).unsqueeze(-1)
        first = low.long().unsqueeze(-1)
        indices = torch.cat((indices * size + first, indices * size + (first + 1).clamp(max=size - 1)), dim=-1)
        weights = torch.ones_like(part) if weights is None else weights
        weights = torch.cat((weights * (1.0 - part), weights * part), dim=-1)
    return Places(indices, weights)


def sample_features(features: Tensor, places: Places) -> Tensor:
    """Interpolate features, (B, F, *S), at P places: (B, P, F)."""
    rows = features.movedim(1, -1).flatten(1, -2)  # (B, V, F)
    wanted = places.indices.flatten(1).unsqueeze(-1).expand(-1, -1, rows.shape[-1])
    found = rows.gather(1, wanted)
    if places.weights is None:
        return found
    neighbours = found.view(*places.indices.shape, -1)
    return torch.sum(neighbours * places.weights.to(found.dtype).unsqueeze(-1), dim=2)


def measure_margin(logits: Tensor, *, independent: bool) -> Tensor:
    """How clear the decision is: logit of the best class minus that of the second best, 0 or more.

    Args:
        logits: (B, K, ...).
        independent: Whether every class is a decision of its own: then the distance of the closest one from 0.

    Returns:
        (B, ...); the smaller, the more uncertain.
    """
    if independent or logits.shape[1] == 1:
        return logits.abs().amin(dim=1)
    best, second = torch.maximum(logits[:, 0], logits[:, 1]), torch.minimum(logits[:, 0], logits[:, 1])
    for other in logits.unbind(1)[2:]:
        second = torch.maximum(second, torch.minimum(best, other))
        best = torch.maximum(best, other)
    return best - second


def draw_candidates(batch_size: int, shape: Sequence[int], seed: Sequence[int]) -> Tensor:
    """Voxels from which training points are taken: first those for the uncertain ones, then those taken as they are.

    Args:
        batch_size: Number of samples, B.
        shape: Spatial shape of the patch.
        seed: Whole numbers, not negative, on which alone the voxels depend.

    Returns:
        Voxels, counted along the last axis first, (B, M) int64, on the CPU.
    """
    points = count_training_points(shape)
    number = OVERSAMPLING * points + points - _count_uncertain(points)
    drawn = np.random.default_rng([*seed, POINT_STREAM]).integers(math.prod(shape), size=(batch_size, number))
    return torch.from_numpy(drawn)


def _count_uncertain(points: int) -> int:
    return math.floor(UNCERTAIN_FRACTION * points)


def list_training_inputs(network: nn.Module, image: Tensor, seed: Sequence[int]) -> tuple[Tensor, ...]:
    """What a network is called with in training: the image, and with a point head the voxels to choose from.

    Args:
        network: Any network, not compiled.
        image: (B, C, *S).
        seed: What the voxels depend on.
    """
    if not isinstance(network, PointUNet):
        return (image,)
    return image, draw_candidates(len(image), image.shape[2:], seed).to(image.device)


class PointPerceptron(nn.Module):
    """Layers over the features of single points.

    Parameter names: `layers.<position>.weight|bias` and `head.weight|bias`.
    """

    def __init__(self, in_features: int, hidden: int, output_channels: int) -> None:
        super().__init__()
        inputs = (in_features, *(hidden,) * (HIDDEN_LAYERS - 1))
        self.layers = nn.ModuleList(nn.Linear(width, hidden) for width in inputs)
        self.head = nn.Linear(hidden, output_channels)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE)  # type: ignore[arg-type]  # a list of linear layers
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.head.weight, std=LAST_DEVIATION)
        nn.init.zeros_(self.head.bias)

    @override
    def forward(self, features: Tensor) -> Tensor:
        """(B, P, F) -> (B, P, K)."""
        for layer in self.layers:
            features = F.leaky_relu(layer(features), LEAKY_SLOPE, inplace=True)
        answer: Tensor = self.head(features)
        return answer


class PointUNet(UNet):
    """A network whose decoder ends at a coarse level, with a point head; see the module.

    Parameter names: those of a UNet, and `points.layers|head...`.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        encoder: Encoder,
        decoder: Decoder | NestedDecoder,
        widths: Sequence[int],
        *,
        deep_supervision: bool,
    ) -> None:
        """Join the halves and draw fresh weights, from torch's global generator.

        Args:
            spec: What the halves were built from.
            encoder: Gives the features of all levels.
            decoder: Gives features and logits of the coarse level and, for deep supervision, logits of those below.
            widths: Feature maps that the encoder gives at each level; 0 where that is the image.
            deep_supervision: Start value of the attribute.
        """
        super().__init__(spec, encoder, decoder, deep_supervision=deep_supervision)
        self.decoder: Decoder | NestedDecoder = decoder
        self.coarse_level, self.independent = spec.coarse_level, spec.independent_heads
        self.mode = choose_layers(spec.dimensions).interpolation
        width = spec.features[spec.coarse_level]
        self.points = PointPerceptron(count_point_features(spec, widths), width, spec.output_channels)

    @override
    def forward(self, image: Tensor, candidates: Tensor | None = None) -> Tensor | list[Tensor]:
        """Compute logits.

        Args:
            image: (B, C, *S), as for a UNet.
            candidates: In training mode the voxels that training points are taken from, (B, M) int64, as
                `draw_candidates` makes them.

        Returns:
            In training mode a list: logits of the coarse level and, with deep supervision, of those below it; logits of
            the training points, (B, K, P); their voxels at full resolution, (B, P) int64. Otherwise logits at full
            resolution, (B, K, *S) float32.

        Raises:
            ValueError: If a size does not fit, or if only one voxel would be left at the lowest level.
        """
        check_sizes(tuple(image.shape[2:]), self.total_stride)
        recompute, all_levels = self.recompute_activations, self.deep_supervision and self._has_lower_heads
        maps: list[Tensor] = self.encoder(image, recompute=recompute)
        features, logits = self.decoder.decode(maps, all_levels=all_levels and self.training, recompute=recompute)
        sources = [*maps[: self.coarse_level], features]
        if not self.training:
            return self._subdivide(sources, logits[0], [each.shape[2:] for each in maps])
        if candidates is None:
            raise ValueError("a network with a point head is trained with voxels to choose from; see draw_candidates")
        voxels = self._choose_training_points(logits[0], candidates, image.shape[2:])
        answer = self._answer(sources, logits[0], voxels, image.shape[2:])
        return [*logits, answer, voxels]

    @torch.no_grad()
    def _choose_training_points(self, coarse: Tensor, candidates: Tensor, shape: Sequence[int]) -> Tensor:
        """The uncertain ones of most candidates, and all of the others, (B, P)."""
        points = count_training_points(shape)
        number = OVERSAMPLING * points
        drawn = candidates[:, :number]
        logits = sample_features(coarse, find_places(drawn, shape, coarse.shape[2:])).transpose(1, 2)
        margins = measure_margin(logits.float(), independent=self.independent)
        uncertain = margins.topk(_count_uncertain(points), dim=1, largest=False, sorted=False).indices
        return torch.cat((drawn.gather(1, uncertain), candidates[:, number:]), dim=1)

    def _answer(self, sources: Sequence[Tensor], coarse: Tensor, voxels: Tensor, shape: Sequence[int]) -> Tensor:
        """Logits of single voxels of a grid: those of the coarse level there, and the perceptron's correction.

        Args:
            sources: Features of the encoder above the coarse level, and of the decoder there.
            coarse: Logits of the coarse level.
            voxels: (B, P).
            shape: Shape of the grid.

        Returns:
            (B, K, P).
        """
        places = [find_places(voxels, shape, source.shape[2:]) for source in sources]
        features = [sample_features(source, each) for source, each in zip(sources, places, strict=True)]
        logits: Tensor = sample_features(coarse, places[-1]) + self.points(torch.cat(features, dim=-1))
        return logits.transpose(1, 2)

    def _subdivide(self, sources: Sequence[Tensor], coarse: Tensor, shapes: Sequence[Sequence[int]]) -> Tensor:
        """Enlarge coarse logits by one level's stride after the other, and correct the most uncertain voxels of each.

        Args:
            sources: Features of the encoder above the coarse level, and of the decoder there.
            coarse: Logits of the coarse level.
            shapes: Spatial shape of each level, full resolution first.
        """
        coarse = coarse.float()
        logits = coarse
        for shape in reversed(shapes[: self.coarse_level]):
            logits = F.interpolate(logits, size=tuple(shape), mode=self.mode, align_corners=False)
            margins = measure_margin(logits, independent=self.independent).flatten(1)
            least = margins.topk(count_predicted_points(shape), dim=1, largest=False)
            fading = 2.0 * (1.0 - least.values / least.values[:, -1:].clamp_min(MIN_MARGIN))
            weights = fading.clamp(0.0, 1.0).unsqueeze(1)  # (B, 1, P): 1 up to half of the largest margin, 0 at it
            rows = logits.flatten(2)
            before = rows.gather(2, least.indices.unsqueeze(1).expand(-1, rows.shape[1], -1))
            answers = [
                self._answer(sources, coarse, voxels, shape)
                for voxels in torch.split(least.indices, POINTS_AT_ONCE, dim=1)
            ]
            after = torch.lerp(before, torch.cat(answers, dim=-1).float(), weights)
            rows = rows.scatter(2, least.indices.unsqueeze(1).expand_as(after), after)
            logits = rows.view(logits.shape)
        return logits
