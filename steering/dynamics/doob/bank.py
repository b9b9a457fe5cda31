"""States that were visited, with what the network said of them: what log h is fitted on, at no more network rows."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from steering.dynamics.doob.chain import Slopes


@dataclass(frozen=True, eq=False)
class Layer:
    """States y [m, *state] of one step, their slopes, rewards [m] and the weighed statistic s [m] of their paths."""

    y: Tensor
    slopes: Slopes
    reward: Tensor
    s: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> "Layer":
        return Layer(self.y[rows], self.slopes[rows], self.reward[rows], self.s[rows])

    def beside(self, other: "Layer") -> "Layer":
        return Layer(
            torch.cat([self.y, other.y]),
            self.slopes.beside(other.slopes),
            torch.cat([self.reward, other.reward]),
            torch.cat([self.s, other.s]),
        )

    def thinned(self, most: int) -> "Layer":
        """At most so many states, evenly over the ranks of their rewards."""
        if len(self) <= most:
            return self
        order = torch.argsort(self.reward, stable=True)
        return self[order[torch.linspace(0, len(self) - 1, most, dtype=torch.float64).round().to(torch.int64)]]


@dataclass(eq=False)
class Bank:
    """Layers by step, each of `most` states at the most."""

    most: int
    layers: dict[int, Layer] = field(default_factory=dict)

    def add(self, k: int, layer: Layer) -> None:
        """More states of step k."""
        if len(layer):
            grown = self.layers[k].beside(layer) if k in self.layers else layer
            # thinned late: what comes and goes in small parts is not sorted each time
            self.layers[k] = grown.thinned(self.most) if len(grown) > 2 * self.most else grown

    def layer(self, k: int) -> Layer:
        return self.layers[k].thinned(self.most)
