"""The exponential moving average of a network's weights."""

import copy
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

NUM_UPDATES_KEY: Final = "num_updates"


class WeightAverage:
    """Average of the weights over training steps, w <- d w + (1 - d) v, in the weights' own type and device.

    The decay grows with the number of updates t so far, min(decay, (1 + t) / (10 + t)), so that the first, freshly
    drawn weights are soon forgotten. Entries that are not floating point are copied, not averaged.

    References:
        Polyak and Juditsky 1992; exponential form and growing decay as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the present weights, in a network of the average's own.

        Args:
            network: Network whose weights are averaged; not changed.
            decay: Fraction of the old average that stays at each update, [0, 1).

        Raises:
            ValueError: If the decay is outside its range.
        """
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay of the weight average is {decay}, expected a number in [0, 1)")
        self.decay = decay
        self.num_updates = 0
        self.network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self._average = self.network.state_dict()

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network's weights after a step."""
        weight = 1.0 - min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = network.state_dict()
        averaged = [name for name, value in self._average.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._average[name] for name in averaged], [current[name] for name in averaged], weight)
        for name in self._average.keys() - set(averaged):
            self._average[name].copy_(current[name])
        self.num_updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All that resuming needs, tensors only: the weights and the number of updates."""
        return {**self._average, NUM_UPDATES_KEY: torch.tensor(self.num_updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state given by `state_dict`.

        Raises:
            ValueError: If the state belongs to another network.
        """
        expected = {**self._average, NUM_UPDATES_KEY: torch.tensor(0)}
        differing = sorted(
            name
            for name in expected.keys() | state.keys()
            if name not in expected or name not in state or expected[name].shape != state[name].shape
        )
        if differing:
            raise ValueError(f"the weight average belongs to another network; these entries differ: {differing}")
        for name, value in self._average.items():
            value.copy_(state[name])
        self.num_updates = int(state[NUM_UPDATES_KEY])
