"""A rising function of one number, given by a table, straight between its points and beyond them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Piecewise:
    """y(x) through the points (x_k, y_k), both float64 [k >= 2] and rising."""

    x: Tensor
    y: Tensor

    def _segment(self, x: Tensor) -> Tensor:
        right = torch.searchsorted(self.x, x.detach().contiguous(), right=True)
        return (right - 1).clamp(0, len(self.x) - 2)

    def __call__(self, x: Tensor) -> Tensor:
        k = self._segment(x)
        return self.y[k] + (x - self.x[k]) * self._slope(k)

    def slope(self, x: Tensor) -> Tensor:
        """dy / dx, at a point of the table that of the segment to its right."""
        return self._slope(self._segment(x))

    def _slope(self, k: Tensor) -> Tensor:
        return (self.y[k + 1] - self.y[k]) / (self.x[k + 1] - self.x[k])

    @property
    def inverse(self) -> "Piecewise":
        return Piecewise(self.y, self.x)
