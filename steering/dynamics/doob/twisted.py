"""Twisted sequential Monte Carlo: paths that choose each next state by log h, and carry what that choice costs.

At every step a path has candidates of its next state. One is picked in proportion to its h p / q (p the chain's law, q
that which the candidates were drawn from), and the path's weight is multiplied by the mean of these over the
candidates, divided by the h it had.
The last h is the weight w of the path itself, so that for any h > 0 the weighted paths follow p w without bias, and the
mean of the weights estimates the normaliser E[w], the probability of an event. A path takes one network row a step, as
an unsteered one does. (Twisted kernels: Whiteley and Lee 2014, arXiv:1210.0220; picking among candidates: SVDD, Li et
al. 2024, arXiv:2408.08252.)
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.doob import draws
from steering.dynamics.doob.bank import Bank, Layer
from steering.dynamics.doob.chain import Aim, Chain, Slopes, rewards
from steering.dynamics.doob.log_h import LogH, antithetic
from steering.dynamics.doob.regressions import log_mean_exp
from steering.numerics.noise import Noise
from steering.numerics.resampling import systematic

ISLANDS, SMALLEST = 8, 8
"""Most islands of a population, and fewest paths of one."""
RESAMPLE_AT = 0.5
"""Share of effective paths below which an island is resampled."""
RIDGE, LONGEST = 0.5, 4.0
"""What a slope along the noise is regularised by, in its units of 1, and how far candidates are moved at most."""
SOFT = 0.5
"""Width of an event's edge before its last step, in standard deviations of s over the candidates."""


@dataclass(frozen=True, eq=False)
class Weighted:
    """Paths with weights.

    Attributes:
        y: states [n, T, *state] at the steps that were kept.
        s: the statistic [n] that is weighed.
        log_weights: [n]; their exponentials' mean estimates the normaliser E[w] without bias; -inf for no weight.
        failed: paths [n] that came to a state without finite slopes; they have no weight.
        islands: paths come in so many islands of equal size, which share log h and nothing else.
    """

    y: Float64[Tensor, "n T *state"]
    s: Float64[Tensor, " n"]
    log_weights: Float64[Tensor, " n"]
    failed: Bool[Tensor, " n"]
    islands: int = 1

    @property
    def log_normaliser(self) -> float:
        """log of the estimate of E[w]; -inf where no path has weight."""
        return float(log_mean_exp(self.log_weights))

    @property
    def relative_error(self) -> float:
        """The standard error of the estimate, over the estimate, from how islands differ; NaN for one island."""
        logs = log_mean_exp(self.log_weights.reshape(self.islands, -1))
        if self.islands == 1 or not bool((logs > -torch.inf).any()):
            return math.nan
        means = (logs - logs.max()).exp()
        return float(means.std() / means.mean() / math.sqrt(self.islands))

    @property
    def ess(self) -> float:
        """Effective paths, 0..n."""
        if not bool((self.log_weights > -torch.inf).any()):
            return 0.0
        weights = torch.softmax(self.log_weights, dim=0)
        return float(1 / (weights * weights).sum())


def islands_of(n: int) -> int:
    """How many islands n paths are divided into: what divides n."""
    return max(i for i in range(1, ISLANDS + 1) if n % i == 0 and (n // i >= SMALLEST or i == 1))


def twisted(
    chain: Chain,
    aim: Aim,
    log_h: LogH,
    n: int,
    seed: int,
    keep: Tensor,
    candidates: int = 32,
    turn: int = 0,
    bank: Bank | None = None,
) -> Generator[Ask, Reply, Weighted]:
    """n paths toward p w by any log h.

    Args:
        keep: the steps [T], rising, whose states are returned.
        candidates: states that are judged at a step, a multiple of 4.
        turn: of several runs with one seed, each has noise of its own.
        bank: takes every state that was visited, with its slopes.
    """
    islands, rows = islands_of(n), torch.arange(n)
    noise, lottery = Noise(seed, range(n)), Noise(seed, range(islands))
    start = yield from rewards(chain, chain.start[None], 0)
    y, s, reward = chain.start.expand(n, *chain.start.shape), aim.first(start).expand(n), start.expand(n)
    first = yield from log_h.judge_start(chain.start[None], s[:1])
    now = first.expand(n)
    kept = torch.empty(n, len(keep), *chain.start.shape, dtype=torch.float64)
    kept[:, keep == 0] = y[:, None]
    log_weights, total = torch.zeros(n, dtype=torch.float64), first.expand(islands)
    failed = torch.zeros(n, dtype=torch.bool)
    for k in range(chain.steps):
        slopes = yield from chain.slopes(y, k)
        failed = failed | slopes.failed
        if bank is not None:
            bank.add(k, Layer(y, slopes, reward, s))
        offered = yield from _Step(chain, aim, log_h, k, y, s, slopes).offered(noise, candidates, turn)
        gain = log_mean_exp(offered.worth)
        chance = torch.softmax(torch.where((gain > -torch.inf)[:, None], offered.worth, 0.0), dim=1)
        picked = systematic(chance, noise.uniform(k, draws.PICK + turn, 1), 1)[:, 0]
        y, s, reward = offered.y[rows, picked], offered.s[rows, picked], offered.reward[rows, picked]
        gain = torch.where(slopes.failed, -torch.inf, gain)
        alive = (gain > -torch.inf) & (now > -torch.inf)
        log_weights = log_weights + torch.where(alive, gain - now, -torch.inf)
        now = offered.log_h[rows, picked]
        kept[:, keep == k + 1] = y[:, None]
        if k + 1 < chain.steps:
            log_weights, total, order = _resampled(log_weights, total, lottery.uniform(k, draws.RESAMPLE + turn, 1))
            if order is not None:
                y, s, reward, now = y[order], s[order], reward[order], now[order]
                kept, failed = kept[order], failed[order]
    log_weights = (log_weights.reshape(islands, -1) + total[:, None]).flatten()
    return Weighted(kept, s, log_weights, failed, islands)


@dataclass(frozen=True, eq=False)
class _Offered:
    """Candidates [n, m] of the next states.

    Attributes:
        worth: log of h p / q, p the chain's law and q that of the candidates.
    """

    y: Tensor
    s: Tensor
    reward: Tensor
    log_h: Tensor
    worth: Tensor


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of all paths, from states y [n, *state] of step k, whose paths have s [n]."""

    chain: Chain
    aim: Aim
    log_h: LogH
    k: int
    y: Tensor
    s: Tensor
    slopes: Slopes

    def offered(self, noise: Noise, count: int, turn: int) -> Generator[Ask, Reply, _Offered]:
        """The candidates that one is picked from.

        Half of `count` are drawn by the chain, and only tell in which direction log h rises, and by how much. Of the
        others, half are drawn by the chain and half around that rise. The mixture is what they are weighed by: a rise
        that was misjudged costs at most a factor of two, and no bias, since these draws are independent of the others.
        """
        size, probes = self.chain.sources(self.y, self.slopes), count // 4 * 2
        tried = antithetic(noise, self.k, draws.TRY + turn, probes, size)
        rise = _rise(tried, self._steered_by((yield from self._judged(tried))))
        xi = antithetic(noise, self.k, draws.MOVE + turn, count - probes, size)
        moved = torch.arange(xi.shape[1]) % 2 == 1  # pairs are half the candidates apart: not all of them are parted
        xi = torch.where(moved[:, None], xi + rise[:, None], xi)
        log_ratio = (xi * rise[:, None]).sum(dim=2) - (rise * rise).sum(dim=1)[:, None] / 2
        share = math.log(float(moved.to(torch.float64).mean()))
        found = yield from self._judged(xi)
        mixture = torch.logaddexp(log_ratio + share, torch.full_like(log_ratio, math.log1p(-math.exp(share))))
        return _Offered(found.y, found.s, found.reward, found.log_h, found.log_h - mixture)

    def _judged(self, xi: Tensor) -> Generator[Ask, Reply, _Offered]:
        n, m = xi.shape[:2]
        y = self.chain.candidates(self.y, self.slopes, self.chain.dt(self.k), xi)
        judged = yield from self.log_h.judge(self.k + 1, y.flatten(0, 1), self.s.repeat_interleave(m))
        s, reward, log_h = (each.reshape(n, m) for each in (judged.s, judged.reward, judged.log_h))
        return _Offered(y, s, reward, log_h, log_h)

    def _steered_by(self, found: _Offered) -> Tensor:
        """What the rise is measured in: log h; before an event's last step, how far s is from its threshold."""
        if self.k + 1 < self.chain.steps or self.aim.threshold is None:
            return found.log_h
        spread = found.s.std(dim=1, keepdim=True)
        return torch.special.log_ndtr((found.s - self.aim.threshold) / (SOFT * spread).clamp(min=1e-12))


def _rise(xi: Float64[Tensor, "n m w"], values: Float64[Tensor, "n m"]) -> Float64[Tensor, "n w"]:
    """The slope of values along the noise, from antithetic pairs: the shortest that explains their differences."""
    half = xi.shape[1] // 2
    directions = xi[:, :half]
    differences = ((values[:, :half] - values[:, half:]) / 2).nan_to_num(0.0, LONGEST, -LONGEST)
    gram = directions @ directions.transpose(1, 2) + RIDGE * torch.eye(half, dtype=torch.float64)
    slope = (torch.linalg.solve(gram, differences[..., None]).transpose(1, 2) @ directions)[:, 0]
    return slope * (LONGEST / torch.linalg.vector_norm(slope, dim=1, keepdim=True).clamp(min=LONGEST))


def _resampled(log_weights: Tensor, total: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights [n], normalisers [islands], and the paths that go on [n], None where all do."""
    islands, size = len(total), len(log_weights) // len(total)
    logs = log_weights.reshape(islands, size)
    alive = (logs > -torch.inf).any(dim=1, keepdim=True)
    weights = torch.softmax(torch.where(alive, logs, 0.0), dim=1)
    uneven = (1 / (weights * weights).sum(dim=1) < RESAMPLE_AT * size) & alive[:, 0]
    if not bool(uneven.any()):
        return log_weights, total, None
    order = torch.where(uneven[:, None], systematic(weights, uniform, size), torch.arange(size))
    total = torch.where(uneven, total + log_mean_exp(logs), total)
    logs = torch.where(uneven[:, None], 0.0, logs)
    return logs.flatten(), total, (order + size * torch.arange(islands)[:, None]).flatten()
