"""Distances between two samples, in float64."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class EnergyDistance:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| to a reference sample Y (Szekely & Rizzo 2013), unbiased; 0 for equal laws."""

    def __init__(self, reference: Float[Tensor, "m d"]) -> None:
        self.reference = reference.to(torch.float64)
        self.within = _within(self.reference)

    def __call__(self, x: Float[Tensor, "n d"]) -> float:
        x = x.to(torch.float64)
        return 2 * float(torch.cdist(x, self.reference).mean()) - self.within - _within(x)


def energy_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The energy distance between two samples; see `EnergyDistance`."""
    return EnergyDistance(y)(x)


def _within(x: Float64[Tensor, "n d"]) -> float:
    return float(torch.cdist(x, x).sum()) / (len(x) * (len(x) - 1))


def wasserstein(x: Float[Tensor, "n *lines"], y: Float[Tensor, "m *lines"], p: int = 1) -> Float64[Tensor, "*lines"]:
    """W_p between two samples on each line: the L^p distance of their quantile functions, which are steps."""
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # in units of 1 / (n m)
    width = torch.diff(ends, prepend=ends.new_zeros(1)).to(torch.float64) / (n * m)
    x, y = (z.to(torch.float64).sort(dim=0).values for z in (x, y))
    gap = (x[(ends - 1) // m] - y[(ends - 1) // n]).abs() ** p
    return torch.einsum("e,e...->...", width, gap) ** (1 / p)


def sliced_wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], directions: int = 200, seed: int = 0) -> float:
    """Sliced W_2: root mean square, over random directions fixed by the seed, of W_2 between the projections.

    Two samples of one law have a positive distance, of order (1/n + 1/m)^1/2: print it with every value.
    """
    g = torch.Generator().manual_seed(seed)
    lines = torch.randn(x.shape[1], directions, generator=g, dtype=torch.float64)
    lines = lines / lines.norm(dim=0)
    return float(wasserstein(x.to(torch.float64) @ lines, y.to(torch.float64) @ lines, p=2).square().mean().sqrt())
