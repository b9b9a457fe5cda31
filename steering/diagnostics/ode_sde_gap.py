"""The ODE-SDE gap: do the probability flow and the time-reversed SDE draw the same law?

With the true score they do; with another, their laws differ by as much as its Fokker-Planck residual lets them
(Deveney et al. 2023, arXiv:2311.15996). Both distances between the two sets of samples come with a floor: what the
same samples show when it is shuffled which of the two drew them.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.numerics.noise import Noise
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, sample

SHUFFLES = 200
QUANTILE = 0.95


@dataclass(frozen=True)
class Distance:
    """Distances between two laws from samples of them; a distance up to its floor is none that can be seen.

    Attributes:
        energy: 2 E|X - Y| - E|X - X'| - E|Y - Y'| over E|X - Y|, unbiased, in 0..1 but for its scatter.
        sliced: W_2 of one-dimensional projections on unit vectors, root mean square over them, times sqrt(d), and over
            the root mean square of the samples' spread.
        energy_floor, sliced_floor: the 95 % quantiles over shuffled samples.
    """

    energy: float
    energy_floor: float
    sliced: float
    sliced_floor: float


def ode_sde_gap(sde: Problem, flowed: Tensor, noise: Noise) -> Generator[Rows, Tensor, Distance]:
    """Draw by a stochastic plan, of eta 1, and compare with samples `flowed` [m, *event] of the probability flow.

    `noise` should be another than that of `flowed`. What either plan lacks in steps counts as distance, too.
    """
    if not sde.plan.uses_noise:
        raise PlanError(
            f"plan: expected a stochastic one, such as ddim with eta 1, got {sde.plan.solver!r} without noise"
        )
    drawn, _ = yield from sample(sde, noise)
    return compare(flowed, drawn, noise.seed)


def compare(x: Tensor, y: Tensor, seed: int, *, slices: int = 128) -> Distance:
    """Distances between samples x [n, *event] and y [m, *event], with floors."""
    n, both = len(x), torch.cat([x, y]).to(torch.float64).flatten(1)
    m, d = len(both) - n, both.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"expected 2 samples or more of each law, got {n} and {m}")
    choose = Noise(seed, range(SHUFFLES)).uniform(0, 0, n + m).argsort(dim=1)
    orders = torch.cat([torch.arange(n + m)[None], choose])
    lines = Noise(seed, range(slices)).normal(1, 0, (d,))
    spread = both.var(0).sum().sqrt()
    energy = _energy(torch.cdist(both, both), orders, n)
    sliced = math.sqrt(d) * _sliced(both @ (lines / lines.norm(dim=1, keepdim=True)).T, orders, n) / spread
    quantile = [float(values[1:].quantile(QUANTILE)) for values in (energy, sliced)]
    return Distance(float(energy[0]), quantile[0], float(sliced[0]), quantile[1])


def _energy(distances: Float64[Tensor, "k k"], orders: Tensor, n: int) -> Float64[Tensor, " s"]:
    """The energy distance between the first n and the others, in each order."""
    k = len(distances)
    first = torch.zeros(len(orders), k, dtype=torch.float64).scatter(1, orders[:, :n], 1.0)
    near = first @ distances
    within = (near * first).sum(1)
    across = near.sum(1) - within
    others = distances.sum() - within - 2 * across
    mean = across / (n * (k - n))
    return (2 * mean - within / (n * (n - 1)) - others / ((k - n) * (k - n - 1))) / mean


def _sliced(projected: Float64[Tensor, "k l"], orders: Tensor, n: int) -> Float64[Tensor, " s"]:
    """The sliced W_2 between the first n and the others, in each order, by quantile functions at common levels."""
    levels = (torch.arange(max(n, len(projected) - n), dtype=torch.float64) + 0.5) / max(n, len(projected) - n)
    found = []
    for order in orders:
        low, high = (_quantiles(projected[part], levels) for part in (order[:n], order[n:]))
        found.append((low - high).square().mean().sqrt())
    return torch.stack(found)


def _quantiles(values: Float64[Tensor, "n l"], levels: Float64[Tensor, " q"]) -> Float64[Tensor, "q l"]:
    return values.sort(dim=0).values[(levels * len(values)).floor().long().clamp(max=len(values) - 1)]
