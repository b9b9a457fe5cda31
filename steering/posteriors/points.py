"""Samples of a model as points of its posterior: log N(x_t; alpha x_k, sigma^2 I)."""

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.tiles import Matrix
from steering.plans.plan import Node
from steering.sampling.rows import Rows


class Cloud:
    """Samples [K, *event], and their points by dtype, made once."""

    def __init__(self, samples: Float[Tensor, "k *event"]) -> None:
        self.samples = samples
        self._points: dict[torch.dtype, Points] = {}

    @property
    def variance(self) -> float:
        """Mean over dimensions of the samples' variance."""
        return float(self.samples.to(torch.float64).var(dim=0, unbiased=False).mean())

    def points(self, dtype: torch.dtype) -> "Points":
        if dtype not in self._points:
            self._points[dtype] = Points.of(self.samples, dtype)
        return self._points[dtype]


@dataclass(frozen=True, eq=False)
class Points:
    """K flattened samples [K, d] with their squared norms [K]."""

    x: Float[Tensor, "k d"]
    norms: Float[Tensor, " k"]

    @classmethod
    def of(cls, samples: Float[Tensor, "k *event"], dtype: torch.dtype) -> "Points":
        x = samples.flatten(1).to(dtype)
        return cls(x, (x * x).sum(dim=1))

    @cached_property
    def _rows(self) -> Matrix:
        return Matrix(self.x)

    @cached_property
    def _columns(self) -> Matrix:
        return Matrix(self.x.T)

    def logits(self, x: Float[Tensor, "n d"], at: Node) -> Generator[Rows, Tensor, Float[Tensor, "n k"]]:
        """Log posterior weights of the points for states x, up to a constant of each row."""
        products = yield Rows.product(x, self._columns)
        return products * (at.alpha / at.sigma**2) - self.norms * (at.alpha**2 / at.sigma**2 / 2)

    def mean(self, weights: Float[Tensor, "n k"]) -> Generator[Rows, Tensor, Float[Tensor, "n d"]]:
        """The points' sum with weights."""
        return (yield Rows.product(weights, self._rows))
