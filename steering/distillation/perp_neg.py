"""Negative prompts that only take away what stands at right angles to the prompt (Armandpour et al. 2023,
arXiv:2304.04968): a camera at the back says "front view" negatively without saying less of the object."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import PlanError
from steering.numerics.tiles import by_tiles


@dataclass(frozen=True, eq=False)
class Negatives:
    """K negative conditions of every view.

    Attributes:
        condition: tensors [B, K, ...] by name, for conditions that the negative rows have otherwise.
        weights: [B, K], usually below 0; a weight of 0 asks for its row all the same.
    """

    condition: Mapping[str, Tensor]
    weights: Tensor

    def checked(self, views: int, names: set[str]) -> "Negatives":
        """The same, or `PlanError` where it does not fit the views or their conditions."""
        if self.weights.ndim != 2 or len(self.weights) != views or not self.weights.shape[1]:
            raise PlanError(f"negatives: expected weights [{views}, K], got {list(self.weights.shape)}")
        if not bool(self.weights.isfinite().all()):
            raise PlanError("negatives: expected finite weights, got NaN or infinity")
        if not self.condition or (unknown := set(self.condition) - names):
            got = f"{sorted(unknown)[0]!r}" if self.condition else "none"
            raise PlanError(f"negatives: expected conditions among {sorted(names)}, got {got}")
        for name, tensor in self.condition.items():
            if tensor.shape[:2] != self.weights.shape:
                raise PlanError(
                    f"negatives: expected condition {name!r} of shape {[*self.weights.shape, '...']}, "
                    f"got {list(tensor.shape)}"
                )
        return self

    def __getitem__(self, rows: Tensor) -> "Negatives":
        return Negatives({name: tensor[rows] for name, tensor in self.condition.items()}, self.weights[rows])


def perpendicular(of: Tensor, to: Tensor) -> Tensor:
    """The part of each row of `of` [n, *event] at right angles to that of `to`, in float64; `of` where `to` is 0."""

    def tile(pairs: Tensor) -> tuple[Tensor]:
        first, second = pairs.chunk(2, dim=1)
        square = (second * second).sum(dim=1)
        share = torch.where(square > 0, (first * second).sum(dim=1) / square, 0.0)
        return (first - share[:, None] * second,)

    both = torch.cat([of.to(torch.float64).flatten(1), to.to(torch.float64).flatten(1)], dim=1)
    return by_tiles(tile, both)[0].reshape(of.shape)


def pushed(positive: Tensor, negative: list[Tensor], weights: Tensor) -> Tensor:
    """positive + sum_k w_k perpendicular(negative_k), differences to the null output [n, *event], weights [n, K]."""
    total = positive.to(torch.float64)
    for k, each in enumerate(negative):
        factor = weights[:, k].to(torch.float64).reshape(-1, *(1 for _ in positive.shape[1:]))
        total = total + factor * perpendicular(each, positive)
    return total
