"""First and second derivatives along one direction, carried beside values: what a graph has instead of autograd.

A jet is (value, first, second) of a function along x + s direction at s = 0; each operation is the chain rule.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class Jet:
    value: Tensor
    first: Tensor
    second: Tensor

    def __add__(self, other: "Jet") -> "Jet":
        return Jet(self.value + other.value, self.first + other.first, self.second + other.second)

    def __sub__(self, other: "Jet") -> "Jet":
        return self + other * -1.0

    def __mul__(self, other: "Jet | float") -> "Jet":
        if not isinstance(other, Jet):
            return Jet(self.value * other, self.first * other, self.second * other)
        second = self.second * other.value + 2 * self.first * other.first + self.value * other.second
        return Jet(self.value * other.value, self.first * other.value + self.value * other.first, second)

    def plus(self, number: float) -> "Jet":
        return Jet(self.value + number, self.first, self.second)

    def through(self, value: Tensor, slope: Tensor, bend: Tensor) -> "Jet":
        """Of a function of one number, from its value and two derivatives there."""
        return Jet(value, slope * self.first, slope * self.second + bend * self.first * self.first)

    def exp(self) -> "Jet":
        e = torch.exp(self.value)
        return self.through(e, e, e)

    def sin(self) -> "Jet":
        s, c = torch.sin(self.value), torch.cos(self.value)
        return self.through(s, c, -s)

    def cos(self) -> "Jet":
        s, c = torch.sin(self.value), torch.cos(self.value)
        return self.through(c, -s, -c)

    def tanh(self) -> "Jet":
        y = torch.tanh(self.value)
        slope = 1 - y * y
        return self.through(y, slope, -2 * y * slope)

    def linear(self, layer: nn.Linear) -> "Jet":
        return Jet(layer(self.value), F.linear(self.first, layer.weight), F.linear(self.second, layer.weight))


def along(x: Tensor, axis: int) -> Jet:
    """The jet of x [B, d] itself along one axis."""
    first = torch.zeros_like(x)
    first = torch.cat([first[:, :axis], first[:, axis : axis + 1] + 1, first[:, axis + 1 :]], dim=1)
    return Jet(x, first, torch.zeros_like(x))


def column(jet: Jet, index: int) -> Jet:
    part = slice(index, index + 1)
    return Jet(jet.value[:, part], jet.first[:, part], jet.second[:, part])


def stacked(*jets: Jet) -> Jet:
    return Jet(*(torch.cat([getattr(jet, key) for jet in jets], dim=1) for key in ("value", "first", "second")))
