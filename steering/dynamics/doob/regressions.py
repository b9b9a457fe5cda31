"""log h as a function of a few coordinates, from values at visited states. Nothing is extrapolated: a fitted slope that
is followed beyond them sends paths where nobody has been, with weights that ruin the estimate."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

BINS, LEAST = 60, 4
DEEPEST = 60.0
"""Most that log h of a state lies below the greatest of its step."""
NUMBERS = 2**22
"""Most distances that are held at a time."""


class Regression(Protocol):
    """log h at coordinates x [m, q]: [m]."""

    def __call__(self, x: Float64[Tensor, "m q"]) -> Float64[Tensor, " m"]: ...


@dataclass(frozen=True)
class Constant:
    """The same everywhere."""

    value: float

    def __call__(self, x: Tensor) -> Tensor:
        """Implements `Regression`."""
        return torch.full((len(x),), self.value, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Bins:
    """One coordinate: h averaged in even bins, log h linear between their middles and constant beyond the outermost."""

    middles: Float64[Tensor, " b"]
    values: Float64[Tensor, " b"]

    @classmethod
    def of(cls, x: Tensor, values: Tensor) -> "Bins":
        """Of values [m] at x [m]; bins of fewer than `LEAST` states are joined with the next."""
        order = torch.argsort(x, stable=True)
        x, values = x[order], values[order]
        which = ((x - x[0]) / (x[-1] - x[0]) * BINS).to(torch.int64).clamp(max=BINS - 1)
        middles, means, first = list[Tensor](), list[Tensor](), 0
        ends = [*((which[1:] != which[:-1]).nonzero()[:, 0] + 1).tolist(), len(x)]
        for end in ends:
            if end - first >= LEAST or (end == len(x) and not middles):
                middles.append(x[first:end].mean())
                means.append(log_mean_exp(values[first:end]))
                first = end
        return cls(torch.stack(middles), torch.stack(means))

    def __call__(self, x: Tensor) -> Tensor:
        """Implements `Regression`."""
        x = x[:, 0].contiguous()
        if len(self.middles) == 1:
            return self.values.expand(len(x)).clone()
        right = torch.searchsorted(self.middles, x).clamp(1, len(self.middles) - 1)
        left = right - 1
        share = (x - self.middles[left]) / (self.middles[right] - self.middles[left])
        share = share.clamp(0.0, 1.0)  # also of -inf
        return self.values[left] + share * (self.values[right] - self.values[left])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Several coordinates: h averaged over the nearest visited states."""

    points: Float64[Tensor, "m q"]
    values: Float64[Tensor, " m"]
    scale: Float64[Tensor, " q"]
    count: int = 12

    def __call__(self, x: Tensor) -> Tensor:
        """Implements `Regression`."""
        points = self.points / self.scale
        count, square = min(self.count, len(points)), (points * points).sum(dim=1)
        parts = []
        for part in (x / self.scale).split(max(1, NUMBERS // len(points))):
            # |x|^2 is the same for all points
            nearest = torch.topk(square - 2 * part @ points.T, count, dim=1, largest=False, sorted=False).indices
            parts.append(log_mean_exp(self.values[nearest]))
        return torch.cat(parts)


def log_mean_exp(values: Tensor) -> Tensor:
    """log of the mean of exp over the last dimension; -inf where all are."""
    return torch.logsumexp(values, dim=-1) - math.log(values.shape[-1])


def regression(x: Float64[Tensor, "m q"], values: Float64[Tensor, " m"], scale: Float64[Tensor, " q"]) -> Regression:
    """log h from values [m] at coordinates x [m, q]: bins of one coordinate, neighbours of several."""
    finite = x.isfinite().all(dim=1)
    x, values = x[finite], values[finite]
    if not bool((values > -torch.inf).any()):
        return Constant(0.0)
    # h of 0 would end paths that may yet succeed
    values = values.clamp(min=float(values.max()) - DEEPEST)
    if bool((x.amax(dim=0) - x.amin(dim=0) <= 1e-9 * scale).all()):
        return Constant(float(log_mean_exp(values)))
    return Bins.of(x[:, 0], values) if x.shape[1] == 1 else Neighbours(x, values, scale)
