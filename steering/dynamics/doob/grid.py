"""log h of an equation in one or two dimensions, on a grid: exact but for the grid, and no path is drawn for it.

Chang and Cooper's scheme (1970, Journal of Computational Physics 6) writes the Fokker-Planck equation of dy = f dt +
g dW as rates from each cell to its neighbours, which are positive and take from one cell what they give to the next:
mass is kept, and no density falls below 0. Over a step the rates' exponential is exact; of two dimensions, one moves
half a step before and after the other (Strang 1968). The same matrices carry densities forwards and h backwards, so
that both give one normaliser.

It is the equation's h, not the Euler-Maruyama chain's; what is steered by it stays the chain, and its weights say so.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.doob.chain import Aim, Chain, rewards
from steering.dynamics.doob.log_h import Judged
from steering.errors import SteeringError

LOWEST = 1e-300
MOST_CELLS = 65_536


@dataclass(frozen=True, eq=False)
class Grid:
    """Even cells: the middles [N_i] of each dimension, one or two."""

    axes: tuple[Float64[Tensor, " N"], ...]

    @classmethod
    def over(cls, low: Tensor, high: Tensor, counts: tuple[int, ...]) -> "Grid":
        if len(counts) not in (1, 2) or len(low) != len(counts):
            raise SteeringError(f"grid: expected a state of 1 or 2 numbers, got {len(low)}")
        if min(counts) < 4 or math.prod(counts) > MOST_CELLS:
            raise SteeringError(f"grid: expected at least 4 cells a dimension and {MOST_CELLS} in all, got {counts}")
        if not bool((high > low).all()):
            raise SteeringError("grid: expected low < high")
        ends = zip(low.tolist(), high.tolist(), counts, strict=True)
        return cls(tuple(torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in ends))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    @property
    def points(self) -> Float64[Tensor, "cells d"]:
        return torch.cartesian_prod(*self.axes).reshape(-1, len(self.axes))

    def shares(self, y: Float64[Tensor, " d"]) -> Float64[Tensor, " *shape"]:
        """What each cell has of one point, so that `at` is the sum of values by shares."""
        parts = []
        for axis, x in zip(self.axes, y, strict=True):
            place = float(((x - axis[0]) / (axis[1] - axis[0])).clamp(0, len(axis) - 1))
            cell = min(int(place), len(axis) - 2)
            part = torch.zeros(len(axis), dtype=torch.float64)
            part[cell], part[cell + 1] = 1 - (place - cell), place - cell
            parts.append(part)
        return parts[0] if len(parts) == 1 else parts[0][:, None] * parts[1]

    def at(self, values: Tensor, y: Float64[Tensor, "m d"]) -> Float64[Tensor, " m"]:
        """Values [*shape] between the cells' middles, linearly; beyond the outermost as there."""
        places = []
        for axis, x in zip(self.axes, y.unbind(dim=1), strict=True):
            place = ((x - axis[0]) / (axis[1] - axis[0])).clamp(0, len(axis) - 1)
            cell = place.floor().clamp(max=len(axis) - 2).to(torch.int64)
            places.append((cell, place - cell))
        if len(places) == 1:
            ((i, u),) = places
            return values[i] * (1 - u) + values[i + 1] * u
        (i, u), (j, v) = places
        low, high = (values[i + a, j] * (1 - v) + values[i + a, j + 1] * v for a in (0, 1))
        return low * (1 - u) + high * u


def transition(
    drift: Float64[Tensor, "... N"], variance: Float64[Tensor, "... N"], step: float, dt: float
) -> Float64[Tensor, "... N N"]:
    """Probabilities from cell to cell of one dimension over dt, `step` apart: rows sum to 1.

    Args:
        variance: g^2 at the cells.
    """
    spread = variance / 2
    between = ((spread[..., 1:] + spread[..., :-1]) / 2).clamp(min=1e-12)
    slope = (spread[..., 1:] - spread[..., :-1]) / step
    w = (slope - (drift[..., 1:] + drift[..., :-1]) / 2) * step / between
    scale = between / step**2
    up, down = scale * _bernoulli(w), scale * _bernoulli(-w)
    rates = torch.diag_embed(up, 1) + torch.diag_embed(down, -1)
    rates = rates - torch.diag_embed(rates.sum(dim=-1))
    kept: Tensor = torch.linalg.matrix_exp(rates * dt).clamp(min=0.0)
    return kept / kept.sum(dim=-1, keepdim=True)


def _bernoulli(w: Tensor) -> Tensor:
    """w / (e^w - 1)."""
    small = w.abs() < 1e-5
    safe = torch.where(small, torch.ones_like(w), w)
    return torch.where(small, 1 - w / 2, safe / torch.expm1(safe.clamp(-700, 700)))


@dataclass(frozen=True, eq=False)
class OnGrid:
    """log h of every step on a grid.

    Attributes:
        moves: of each step, the matrices [.., N, N] of its dimensions; none where they were not kept.
        h: [K+1, *shape], divided by the greatest w, whose logarithm is `scale`.
    """

    chain: Chain
    aim: Aim
    grid: Grid
    moves: tuple[tuple[Tensor, ...], ...]
    h: Float64[Tensor, "steps+1 *shape"]
    scale: float

    def judge(self, k: int, y: Tensor, before: Tensor) -> Generator[Ask, Reply, Judged]:
        """Implements `LogH`."""
        if k == self.chain.steps:
            s = yield from rewards(self.chain, y, k)
            return Judged(self.aim.log_weight(s), s, s)
        unknown = torch.full((len(y),), torch.nan, dtype=torch.float64)
        return Judged(self._log(k, y), unknown, unknown)

    def judge_start(self, y: Tensor, s: Tensor) -> Generator[Ask, Reply, Float64[Tensor, " 1"]]:
        """Implements `LogH`."""
        yield from ()
        return self._log(0, y)

    def _log(self, k: int, y: Tensor) -> Tensor:
        return self.grid.at(self.h[k].clamp(min=LOWEST).log(), y.flatten(1)) + self.scale

    @property
    def log_normaliser(self) -> float:
        """log E[w] of the equation."""
        return float((self.grid.shares(self.chain.start.flatten()) * self.h[0]).sum().log()) + self.scale

    def density(self, k: int) -> Float64[Tensor, " *shape"]:
        """The chances of the cells at t_k, unsteered; they sum to 1. The start is shared by the cells around it."""
        chances = self.grid.shares(self.chain.start.flatten())
        for step in range(k):
            chances = _forwards(chances, self.moves[step])
        return chances


def on_grid(
    chain: Chain, aim: Aim, grid: Grid, steady: bool = False, both: bool = True
) -> Generator[Ask, Reply, OnGrid]:
    """log h by the grid's cells: as many network rows as cells at each step.

    Args:
        steady: f and g do not depend on time, and are asked for once.
        both: keep the matrices, which densities need and take most of the memory.
    """
    if aim.over != "end":
        raise SteeringError(f"grid: expected a reward of the path's end, got its {aim.over}")
    if chain.noise == "general" or chain.noise == "scalar" or chain.form in ("linear", "geometric"):
        raise SteeringError(f"grid: expected additive or diagonal noise, got {chain.noise}, form {chain.form}")
    points = grid.points.reshape(-1, *chain.start.shape)
    s = yield from rewards(chain, points, chain.steps)
    logs = aim.log_weight(s)
    scale = float(logs.max())
    if scale == -math.inf:
        raise SteeringError("grid: expected some cell with weight, got none")
    h = [(logs - scale).exp().reshape(grid.shape)]
    moves: list[tuple[Tensor, ...]] = []
    for k in range(chain.steps - 1, -1, -1):
        if not moves or not steady or chain.dt(k) != chain.dt(k + 1):
            slopes = yield from chain.slopes(points, k)
            move = _move(grid, slopes.drift.flatten(1), slopes.diffusion.reshape(len(points), -1), chain.dt(k))
        moves = [*moves, move] if both else [move]
        h.append(_backwards(h[-1], move))
    return OnGrid(chain, aim, grid, tuple(moves[::-1]) if both else (), torch.stack(h[::-1]), scale)


def _move(grid: Grid, drift: Tensor, diffusion: Tensor, dt: float) -> tuple[Tensor, ...]:
    if diffusion.shape != drift.shape:
        diffusion = diffusion.expand_as(drift)
    steps = [float(axis[1] - axis[0]) for axis in grid.axes]
    first, variance = drift[:, 0].reshape(grid.shape), diffusion[:, 0].square().reshape(grid.shape)
    if len(steps) == 1:
        return (transition(first, variance, steps[0], dt),)
    second, other = drift[:, 1].reshape(grid.shape), diffusion[:, 1].square().reshape(grid.shape)
    # the first dimension's two half steps around the second's whole one
    return transition(first.T, variance.T, steps[0], dt / 2), transition(second, other, steps[1], dt)


def _backwards(h: Tensor, move: tuple[Tensor, ...]) -> Tensor:
    if len(move) == 1:
        return move[0] @ h
    h = (move[0] @ h.T[..., None])[..., 0].T
    h = (move[1] @ h[..., None])[..., 0]
    return (move[0] @ h.T[..., None])[..., 0].T


def _forwards(p: Tensor, move: tuple[Tensor, ...]) -> Tensor:
    if len(move) == 1:
        return p @ move[0]
    p = (p.T[:, None] @ move[0])[:, 0].T
    p = (p[:, None] @ move[1])[:, 0]
    return (p.T[:, None] @ move[0])[:, 0].T
