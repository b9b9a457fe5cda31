"""Adaptive multilevel splitting (Cérou and Guyader 2007, Stochastic Analysis and Applications 25), of chains in
discrete time (Bréhier et al. 2016, Annals of Applied Probability 26).

The paths that got least far are replaced by copies of others, which go on from where they first got farther. It finds
rare events without knowing where they are, and its estimate is unbiased; here it is also the explorer whose visited
states log h is fitted on.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.doob import draws
from steering.dynamics.doob.bank import Bank, Layer
from steering.dynamics.doob.chain import Aim, Chain, Slopes, joined, rewards
from steering.numerics.noise import Noise

SHARE = 0.1
"""Share of the paths that an iteration replaces, at least one."""
MOST_ITERATIONS = 400
AT_ONCE = 16
"""Steps whose noise is drawn together."""
LEFT = 0.1
"""A splitting toward a tilt ends where what is left above its level is this share of what it has found."""


@dataclass(frozen=True, eq=False)
class Split:
    """Weighted paths: a path's weight is what the chain's law gives it.

    Attributes:
        y: states [m, K+1, *state].
        s: the statistic [m] that is weighed.
        log_share: log of the law's weight [m] of each, which sum to 1 on average.
    """

    y: Tensor
    s: Tensor
    log_share: Tensor


@dataclass(eq=False)
class _Paths:
    """Paths [m, K+1]: states, rewards and the statistic up to each state."""

    y: Tensor
    reward: Tensor
    s: Tensor

    def __getitem__(self, rows: Tensor) -> "_Paths":
        return _Paths(self.y[rows].clone(), self.reward[rows].clone(), self.s[rows].clone())


def split(
    chain: Chain, aim: Aim, n: int, seed: int, bank: Bank | None = None, enough: float = 1.0
) -> Generator[Ask, Reply, Split]:
    """Paths that reach ever higher, until the share `enough` of them has reached the aim.

    A path's level is the greatest reward that it met, or the greatest integral. The aim is the threshold; of a tilt
    exp(s / beta) it is a level above which little of the tilted law is left.

    Args:
        bank: takes every state that was visited, with its slopes.
    """
    steps, kill, last = chain.steps, max(1, int(n * SHARE)), max(0, int(n * (1 - enough)))
    first = yield from rewards(chain, chain.start[None], 0)
    paths = _Paths(
        chain.start.expand(n, steps + 1, *chain.start.shape).clone(),
        first.expand(n, steps + 1).clone(),
        aim.first(first).expand(n, steps + 1).clone(),
    )
    yield from _roll(chain, aim, paths, torch.zeros(n, dtype=torch.int64), seed, draws.SPLIT, bank)
    log_share, dead = -torch.log(torch.tensor(float(n), dtype=torch.float64)), list[Split]()
    for iteration in range(1, MOST_ITERATIONS):
        levels = torch.cummax(paths.s if aim.over == "integral" else paths.reward, dim=1).values
        greatest = levels[:, -1]
        ranked = greatest.sort().values
        level = ranked[kill - 1]
        gone = greatest <= level
        if aim.threshold is None:
            done = _rest(aim, level, log_share, dead, n) < LEFT
        else:
            done = float(ranked[max(kill - 1, min(last, n - 1))]) >= aim.threshold
        if done or bool(gone.all()):
            break
        dead.append(_as_split(paths[gone], log_share))
        alive, lost = (~gone).nonzero()[:, 0], gone.nonzero()[:, 0]
        uniform = Noise(seed, range(n)).uniform(iteration, draws.PARENTS, 1)[lost, 0]
        parent = alive[(uniform * len(alive)).to(torch.int64)]
        since = (levels[parent] > level).to(torch.int8).argmax(dim=1)
        new = paths[parent]
        yield from _roll(chain, aim, new, since, seed, draws.SPLIT + iteration, bank)
        paths.y[lost], paths.reward[lost], paths.s[lost] = new.y, new.reward, new.s
        log_share = log_share + torch.log1p(torch.tensor(-len(lost) / n, dtype=torch.float64))
    parts = [*dead, _as_split(paths, log_share)]
    return Split(*(torch.cat([getattr(part, name) for part in parts]) for name in ("y", "s", "log_share")))


def _as_split(paths: _Paths, log_share: Tensor) -> Split:
    return Split(paths.y, paths.s[:, -1], log_share.expand(len(paths.y)))


def _rest(aim: Aim, level: Tensor, log_share: Tensor, dead: list[Split], n: int) -> float:
    """What a tilt expects above a level, about, over what it has found below; infinite while it has found nothing.

    Of paths that go on, nothing above the level may be used: that would bias the estimate (Bréhier et al., section 3).
    """
    if not dead:
        return math.inf
    below = torch.logsumexp(torch.cat([part.log_share + aim.log_weight(part.s) for part in dead]), dim=0)
    return float((log_share + math.log(n) + level / aim.beta - below).exp())


def _roll(
    chain: Chain, aim: Aim, paths: _Paths, since: Tensor, seed: int, draw: int, bank: Bank | None
) -> Generator[Ask, Reply, None]:
    """Draw the states after `since` [m] of each path anew, all paths at once, each at a time of its own."""
    steps, noise = chain.steps, Noise(seed, range(len(since)))
    visited, lost = list[tuple[Tensor, Tensor, Tensor, Slopes]](), torch.full((len(since),), steps)
    for j in range(steps - int(since.min())):
        rows = (since + j < steps).nonzero()[:, 0]
        k = since[rows] + j
        y = paths.y[rows, k]
        slopes = yield from chain.slopes(y, k)
        visited.append((rows, k, y, slopes))
        lost[rows] = torch.where(slopes.failed, torch.minimum(lost[rows], k), lost[rows])
        if j % AT_ONCE == 0:
            xi = noise.normal(j, draw, (AT_ONCE, chain.sources(y, slopes)))
        paths.y[rows, k + 1] = chain.moved(y, slopes, chain.times[k + 1] - chain.times[k], xi[rows, j % AT_ONCE])
    fresh = torch.arange(steps + 1) > since[:, None]
    if bool(fresh.any()):
        which, at = fresh.nonzero(as_tuple=True)
        scores = yield from rewards(chain, paths.y[which, at], at)
        paths.reward[which, at] = torch.where(at > lost[which], -torch.inf, scores)
    for step in range(int(since.min()), steps):
        after = aim.joined(paths.s[:, step], paths.reward[:, step + 1], chain.dt(step))
        paths.s[:, step + 1] = torch.where(since <= step, after, paths.s[:, step + 1])
    if bank is not None and visited:
        _keep(bank, paths, visited)


def _keep(bank: Bank, paths: _Paths, visited: list[tuple[Tensor, Tensor, Tensor, Slopes]]) -> None:
    rows, k, y = (torch.cat(column) for column in zip(*(each[:3] for each in visited), strict=True))
    slopes = joined([each[3] for each in visited])
    for step in k.unique().tolist():
        here = k == step
        which = rows[here]
        bank.add(step, Layer(y[here], slopes[here], paths.reward[which, step], paths.s[which, step]))
