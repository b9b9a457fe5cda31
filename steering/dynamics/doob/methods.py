"""Ways toward p(path) w, as one program: Doob's transform and its rivals, splitting and weights alone."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.doob import draws
from steering.dynamics.doob.bank import Bank
from steering.dynamics.doob.chain import Aim, Chain, rewards
from steering.dynamics.doob.grid import Grid, on_grid
from steering.dynamics.doob.log_h import ByNetwork, ByReward, ByState, Coordinate, LogH, fit
from steering.dynamics.doob.splitting import split
from steering.dynamics.doob.twisted import Weighted, twisted
from steering.errors import SteeringError, choose
from steering.numerics.noise import Noise
from steering.numerics.resampling import systematic

Method = Literal["doob", "splitting", "none"]
METHODS: tuple[Method, ...] = ("doob", "splitting", "none")
COORDINATES: dict[str, Callable[[], Coordinate]] = {"reward": ByReward, "state": ByState, "network": ByNetwork}
GRID = "grid"
ENOUGH = 0.25
"""Share of the explorers that must have reached the aim."""
MARGIN = 0.25
"""What a grid reaches beyond the states that were visited, as a share of their range."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How log h is learnt and used.

    Attributes:
        coordinate: what log h is a function of: "reward", "state" (by neighbours), "network" (rows of part
            "coordinate"), or "grid" (Chang and Cooper's scheme, states of 1 or 2 numbers).
        candidates: of the next state, a step and path; a multiple of 4.
        explorers: paths of the splitting that explores, and of each refresh.
        refreshes: steered runs whose states are added before log h is fitted again.
        most: states of a step that log h is fitted on.
        fitted: candidates of each of these.
        defence: see `log_h.Fitted`.
        cells: of a grid, of each dimension.
        steady: f and g do not depend on time; a grid asks for them once.
    """

    coordinate: str = "reward"
    candidates: int = 32
    explorers: int = 192
    refreshes: int = 1
    most: int = 512
    fitted: int = 8
    defence: float = 0.02
    cells: int = 128
    steady: bool = False

    def __post_init__(self) -> None:
        if self.coordinate not in (*COORDINATES, GRID):
            raise SteeringError(choose("coordinate", self.coordinate, (*COORDINATES, GRID)))
        if self.candidates < 4 or self.candidates % 4:
            raise SteeringError(f"candidates: expected a multiple of 4, got {self.candidates}")
        if self.explorers < 16:
            raise SteeringError(f"explorers: expected at least 16, got {self.explorers}")
        if not 0 <= self.defence < 1:
            raise SteeringError(f"defence: expected a number in 0..1, got {self.defence!r}")


def learnt(chain: Chain, aim: Aim, seed: int, settings: Settings) -> Generator[Ask, Reply, LogH]:
    """log h for a chain and an aim: what a steered run spends before its first path. It does not depend on how many
    paths there will be, nor on their seed, if `seed` is another."""
    bank = Bank(settings.most)
    yield from split(chain, aim, settings.explorers, seed, bank, enough=ENOUGH)
    if settings.coordinate == GRID:
        visited = torch.cat([layer.y.flatten(1) for layer in bank.layers.values()])
        low, high = visited.amin(dim=0), visited.amax(dim=0)
        wide = MARGIN * (high - low) + 1e-9
        grid = Grid.over(low - wide, high + wide, (settings.cells,) * len(low))
        return (yield from on_grid(chain, aim, grid, settings.steady, both=False))
    coordinate = COORDINATES[settings.coordinate]()
    log_h = yield from fit(chain, aim, coordinate, bank, seed, 0, settings.fitted, settings.defence)
    for turn in range(1, settings.refreshes + 1):
        nothing = torch.empty(0, dtype=torch.int64)
        yield from twisted(chain, aim, log_h, settings.explorers, seed, nothing, settings.candidates, turn, bank)
        log_h = yield from fit(chain, aim, coordinate, bank, seed, turn, settings.fitted, settings.defence)
    return log_h


def steered(
    chain: Chain, aim: Aim, log_h: LogH, n: int, seed: int, keep: Tensor, settings: Settings
) -> Generator[Ask, Reply, Weighted]:
    """n paths by a log h that was learnt: one network row a path and step, as without steering."""
    return (yield from twisted(chain, aim, log_h, n, seed, keep, settings.candidates))


def by_splitting(chain: Chain, aim: Aim, n: int, seed: int, keep: Tensor) -> Generator[Ask, Reply, Weighted]:
    """n paths of adaptive multilevel splitting. A tilt's paths that were left behind have weight too, so that n are
    drawn from all by these; those of an event have none."""
    found = yield from split(chain, aim, n, seed)
    logs = found.log_share + aim.log_weight(found.s)
    if aim.threshold is not None or not bool((logs > -torch.inf).any()):
        # the last n are those that were not left behind
        y, s, logs = found.y[-n:][:, keep], found.s[-n:], logs[-n:] + math.log(n)
    else:
        uniform = Noise(seed, range(1)).uniform(0, draws.KEEP, 1)
        chosen = systematic(torch.softmax(logs, dim=0)[None], uniform, n)[0]
        y, s, logs = found.y[chosen][:, keep], found.s[chosen], torch.logsumexp(logs, dim=0).expand(n).clone()
    return Weighted(y, s, logs, s == -torch.inf)


def plain(chain: Chain, aim: Aim, n: int, seed: int, keep: Tensor) -> Generator[Ask, Reply, Weighted]:
    """n unsteered paths, with the weights w that they happen to have."""
    noise = Noise(seed, range(n))
    y = chain.start.expand(n, *chain.start.shape)
    s = aim.first((yield from rewards(chain, chain.start[None], 0))).expand(n)
    kept = torch.empty(n, len(keep), *chain.start.shape, dtype=torch.float64)
    kept[:, keep == 0] = y[:, None]
    lost = torch.zeros(n, dtype=torch.bool)
    for k in range(chain.steps):
        slopes = yield from chain.slopes(y, k)
        lost = lost | slopes.failed
        y = chain.moved(y, slopes, chain.dt(k), noise.normal(k, draws.MOVE, (chain.sources(y, slopes),)))
        kept[:, keep == k + 1] = y[:, None]
        if aim.over != "end" or k + 1 == chain.steps:
            s = aim.joined(s, (yield from rewards(chain, y, k + 1)), chain.dt(k))
    logs = torch.where(lost, -torch.inf, aim.log_weight(s))
    return Weighted(kept, s, logs, lost, n)
