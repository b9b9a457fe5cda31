"""log h_k(y) = log E[w | y_k = y], fitted backwards on visited states.

h_k is the expectation of h_k+1 over one step of the chain: at every visited state of step k, whose slopes are known, a
few candidates of the next state are judged by the log h of the next step, and the logarithm of their mean is what the
regression of step k learns. No network row is spent; rewards are, where a coordinate or the last step needs them.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.doob import draws
from steering.dynamics.doob.bank import Bank, Layer
from steering.dynamics.doob.chain import Aim, Chain, parted, rewards
from steering.dynamics.doob.regressions import Regression, log_mean_exp, regression
from steering.numerics.noise import Noise

FEWEST = 1e-3
"""Least standard deviation of a coordinate, as a share of the greatest of them, that neighbours are measured by."""


class Coordinate(Protocol):
    """What log h is a function of."""

    @property
    def needs_rewards(self) -> bool: ...

    def __call__(self, chain: Chain, y: Tensor, reward: Tensor, k: int) -> Generator[Ask, Reply, Tensor]:
        """The coordinates [m, q] of states [m, *state] with these rewards at t_k."""
        ...


@dataclass(frozen=True)
class ByReward:
    """The reward itself: cheap, and wrong where it does not see what decides."""

    needs_rewards: bool = True

    def __call__(self, chain: Chain, y: Tensor, reward: Tensor, k: int) -> Generator[Ask, Reply, Tensor]:
        """Implements `Coordinate`."""
        yield from ()
        return reward[:, None]


@dataclass(frozen=True)
class ByState:
    """The whole state."""

    needs_rewards: bool = False

    def __call__(self, chain: Chain, y: Tensor, reward: Tensor, k: int) -> Generator[Ask, Reply, Tensor]:
        """Implements `Coordinate`."""
        yield from ()
        return y.flatten(1)


@dataclass(frozen=True)
class ByNetwork:
    """What a network makes of the state: asked for as rows of part "coordinate", answered [m] or [m, q]."""

    needs_rewards: bool = False

    def __call__(self, chain: Chain, y: Tensor, reward: Tensor, k: int) -> Generator[Ask, Reply, Tensor]:
        """Implements `Coordinate`."""
        parts = []
        for rows in parted(y):
            reply = yield chain.ask("coordinate", y[rows], k)
            parts.append(reply["coordinate"].reshape(rows.stop - rows.start, -1).to(torch.float64))
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Judged:
    """log h [m] of states, their rewards [m], and s [m] of their paths with them; NaN where no reward was asked for."""

    log_h: Float64[Tensor, " m"]
    reward: Float64[Tensor, " m"]
    s: Float64[Tensor, " m"]


class LogH(Protocol):
    """Something that judges states; any positive h leaves estimates unbiased, the true one leaves weights even."""

    def judge(self, k: int, y: Tensor, before: Tensor) -> Generator[Ask, Reply, Judged]:
        """log h of states [m, *state] of step k, whose paths had s `before` [m] them; of the last step it is log w."""
        ...

    def judge_start(self, y: Tensor, s: Tensor) -> Generator[Ask, Reply, Float64[Tensor, " 1"]]:
        """log h of the start [1, *state]."""
        ...


@dataclass(eq=False)
class Fitted:
    """log h by a regression for each step.

    Attributes:
        defence: the share of the expected weight that every state keeps: where log h is far too low, no weight exceeds
            1 / defence times the expected.
    """

    chain: Chain
    aim: Aim
    coordinate: Coordinate
    defence: float = 0.0
    steps: dict[int, Regression] = field(default_factory=dict)
    level: float = 0.0

    def judge(self, k: int, y: Tensor, before: Tensor) -> Generator[Ask, Reply, Judged]:
        """Implements `LogH`."""
        s = reward = torch.full((len(y),), torch.nan, dtype=torch.float64)
        if k == self.chain.steps or self.coordinate.needs_rewards or self.aim.over != "end":
            reward = yield from rewards(self.chain, y, k)
            s = self.aim.joined(before, reward, self.chain.dt(k - 1))
        if k == self.chain.steps:
            return Judged(self.aim.log_weight(s), reward, s)
        x = yield from self.coordinate(self.chain, y, reward, k)
        if self.aim.remembers:
            x = torch.cat([x, s[:, None]], dim=1)
        log_h = self.steps[k](x)
        if self.aim.over != "end":
            log_h = log_h + self.aim.known(s)
        if self.defence:
            low = torch.full_like(log_h, self.level + math.log(self.defence))
            log_h = torch.logaddexp(log_h + math.log1p(-self.defence), low)
        return Judged(log_h, reward, s)

    def judge_start(self, y: Tensor, s: Tensor) -> Generator[Ask, Reply, Float64[Tensor, " 1"]]:
        """Implements `LogH`: all paths start there, so that the first step's regression is one number."""
        yield from ()
        return torch.tensor([self.level], dtype=torch.float64)


def fit(
    chain: Chain,
    aim: Aim,
    coordinate: Coordinate,
    bank: Bank,
    seed: int,
    turn: int = 0,
    candidates: int = 8,
    defence: float = 0.02,
) -> Generator[Ask, Reply, Fitted]:
    """log h of every step, from the last one backwards."""
    fitted, known = Fitted(chain, aim, coordinate), {}
    for k in range(chain.steps - 1, -1, -1):
        layer = bank.layer(k)
        values = yield from _values(fitted, layer, k, seed, draws.FIT + turn, candidates)
        x = yield from coordinate(chain, layer.y, layer.reward, k)
        if aim.remembers:
            x = torch.cat([x, layer.s[:, None]], dim=1)
        known[k] = x
        fitted.steps[k] = regression(x, values - aim.known(layer.s), _scale(known))
    first = fitted.steps[0](known[0][:1]) + aim.known(bank.layer(0).s[:1])
    fitted.defence, fitted.level = defence, float(first)
    return fitted


def _scale(known: dict[int, Tensor]) -> Tensor:
    """The spread [q] of each coordinate within steps, over those that were fitted so far."""
    spread = torch.stack([x.var(dim=0, correction=0) for x in known.values()]).mean(dim=0).sqrt()
    return spread.clamp(min=max(FEWEST * float(spread.max()), 1e-30))


def _values(
    fitted: Fitted, layer: Layer, k: int, seed: int, draw: int, count: int
) -> Generator[Ask, Reply, Float64[Tensor, " m"]]:
    """log of the mean of h over the steps that may follow each state of a layer."""
    chain, aim = fitted.chain, fitted.aim
    noise = Noise(seed, range(len(layer)))
    xi = antithetic(noise, k, draw, count, chain.sources(layer.y, layer.slopes))
    y = chain.candidates(layer.y, layer.slopes, chain.dt(k), xi)
    judged = yield from fitted.judge(k + 1, y.flatten(0, 1), layer.s.repeat_interleave(count))
    values = log_mean_exp(judged.log_h.reshape(-1, count))
    if k + 1 < chain.steps or aim.threshold is None:
        return values
    # few candidates tell little about a rare event of the last step: s is taken as normal there
    s = judged.s.reshape(-1, count)
    s = torch.where(s.isfinite(), s, s.amin(dim=1, keepdim=True).clamp(min=-1e300))
    z = (s.mean(dim=1) - aim.threshold) / s.std(dim=1).clamp(min=1e-12)
    return torch.logaddexp(values, torch.special.log_ndtr(z)) - math.log(2)


def antithetic(noise: Noise, k: int, draw: int, count: int, size: int) -> Float64[Tensor, "n count size"]:
    """Standard normal numbers, the second half minus the first."""
    half = noise.normal(k, draw, (count // 2, size))
    return torch.cat([half, -half], dim=1)
