"""The law that is steered: an Euler-Maruyama chain from one start, and a weight of its paths."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Part, Reply
from steering.dynamics.problem import Calculus, Form, Law
from steering.dynamics.sde.euler_maruyama import chain
from steering.dynamics.sde.laws import amplitude
from steering.errors import NetworkError, SteeringError
from steering.numerics.weights import checked_rewards

OVERS = ("end", "max", "integral")
Over = Literal["end", "max", "integral"]
NUMBERS = 2**21
"""Most numbers of the states of one ask."""
ROWS = 4096
"""Most rows of one ask."""


@dataclass(frozen=True, eq=False)
class Slopes:
    """Drift [m, *state] and diffusion of states, as `steering.dynamics.sde.laws.amplitude` reads it.

    Attributes:
        failed: states [m] where one of them is not finite; both are 0 there.
    """

    drift: Tensor
    diffusion: Tensor
    failed: Tensor

    def __getitem__(self, rows: Tensor) -> "Slopes":
        return Slopes(self.drift[rows], self.diffusion[rows], self.failed[rows])

    def beside(self, other: "Slopes") -> "Slopes":
        return joined([self, other])


def joined(parts: list[Slopes]) -> Slopes:
    """The rows of all parts."""
    return Slopes(
        torch.cat([part.drift for part in parts]),
        torch.cat([part.diffusion for part in parts]),
        torch.cat([part.failed for part in parts]),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Chain:
    """y_{k+1} = y_k + f(y_k, t_k) dt_k + g(y_k, t_k) sqrt(dt_k) xi_k, xi standard normal; of other forms, their step.

    This chain is what is steered, not the equation that it approximates: smaller steps bring the two together.

    Attributes:
        start: y_0 [*state].
        times: t_0 .. t_K, rising.
        noise, form, calculus: see `steering.dynamics.sde`.
        trajectory: whose conditions the rows have, the `index` of its asks.
    """

    start: Float64[Tensor, "*state"]
    times: Float64[Tensor, " steps+1"]
    noise: Law = "diagonal"
    form: Form = "plain"
    calculus: Calculus = "ito"
    trajectory: int = 0

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def dt(self, k: int) -> float:
        """The length of the step from t_k."""
        return float(self.times[k + 1] - self.times[k])

    def ask(self, part: Part, y: Tensor, k: Tensor | int) -> Ask:
        """Rows of states [m, *state] at t_k, of one step or of one each [m]."""
        index = torch.full((len(y),), self.trajectory, dtype=torch.int64)
        return Ask(part, index, y, self.times[k].expand(len(y)))

    def slopes(self, y: Tensor, k: Tensor | int) -> Generator[Ask, Reply, Slopes]:
        """Drift and diffusion of states [m, *state] at t_k: m network rows."""
        parts = []
        for rows in parted(y):
            reply = yield self.ask("field", y[rows], k if isinstance(k, int) else k[rows])
            for role in ("drift", "diffusion"):
                if role not in reply:
                    raise NetworkError(f"field: expected drift and diffusion of an sde, got no {role}")
            m = rows.stop - rows.start
            drift, diffusion = (reply[role].to(torch.float64) for role in ("drift", "diffusion"))
            drift = drift.reshape(m, *y.shape[1:])
            fine = drift.reshape(m, -1).isfinite().all(dim=1) & diffusion.reshape(m, -1).isfinite().all(dim=1)
            if not bool(fine.all()):
                drift, diffusion = drift.clone(), diffusion.clone()
                drift[~fine], diffusion[~fine] = 0.0, 0.0
            parts.append(Slopes(drift, diffusion, ~fine))
        return joined(parts)

    def sources(self, y: Tensor, slopes: Slopes) -> int:
        """How many Brownian motions drive a path."""
        return amplitude(self.noise, slopes.diffusion[:1], y[:1]).sources

    def moved(self, y: Tensor, slopes: Slopes, dt: Tensor | float, xi: Float64[Tensor, "m w"]) -> Tensor:
        """The next states [m, *state]. A path that overflows, or has no slopes, stays where it is."""
        h = torch.as_tensor(dt, dtype=torch.float64).expand(len(y))
        after = chain(
            y, slopes.drift, slopes.diffusion, h, xi * h.sqrt()[:, None],
            noise=self.noise, form=self.form, calculus=self.calculus,
        )  # fmt: skip
        fine = after.reshape(len(y), -1).isfinite().all(dim=1)
        return after if bool(fine.all()) else torch.where(fine.reshape(-1, *(1,) * (y.dim() - 1)), after, y)

    def candidates(self, y: Tensor, slopes: Slopes, dt: float, xi: Float64[Tensor, "m c w"]) -> Tensor:
        """Several next states of each [m, c, *state]."""
        m, c = xi.shape[:2]
        each = torch.arange(m).repeat_interleave(c)
        after = self.moved(y[each], slopes[each], dt, xi.flatten(0, 1))
        return after.reshape(m, c, *y.shape[1:])


@dataclass(frozen=True)
class Aim:
    """What the law of paths is weighted by: w = exp(s / beta), or s >= threshold.

    s is the reward of the end, the greatest reward along the path (its start included), or the integral of the reward
    over time, as the sum of r(y_k+1) dt_k.
    """

    beta: float = 1.0
    threshold: float | None = None
    over: Over = "end"

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise SteeringError(f"beta: expected a finite number > 0, got {self.beta!r}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise SteeringError(f"threshold: expected a finite number, got {self.threshold!r}")
        if self.over not in OVERS:
            raise SteeringError(f"over: expected {', '.join(OVERS)}, got {self.over!r}")

    def first(self, reward: Tensor) -> Tensor:
        """s of paths that have not begun, whose starts have this reward."""
        return torch.zeros_like(reward) if self.over == "integral" else reward

    def joined(self, before: Tensor, reward: Tensor, dt: Tensor | float) -> Tensor:
        """s with one more state."""
        if self.over == "end":
            return reward
        return torch.maximum(before, reward) if self.over == "max" else before + reward * dt

    def log_weight(self, s: Tensor) -> Tensor:
        """log w of whole paths, -inf where they have none."""
        if self.threshold is None:
            return s / self.beta
        return torch.where(s >= self.threshold, 0.0, -torch.inf).to(torch.float64)

    def known(self, s: Tensor) -> Tensor:
        """The part of log w that the past decided, which log h only carries along."""
        return s / self.beta if self.over == "integral" and self.threshold is None else torch.zeros_like(s)

    @property
    def remembers(self) -> bool:
        """What is left of the weight depends on s, not on the state alone."""
        return self.over == "max" or (self.over == "integral" and self.threshold is not None)


def rewards(of: Chain, y: Tensor, k: Tensor | int) -> Generator[Ask, Reply, Float64[Tensor, " m"]]:
    """Rewards of states [m, *state] at t_k, checked: -inf is legal, NaN and +inf are errors."""
    parts = []
    for rows in parted(y):
        reply = yield of.ask("reward", y[rows], k if isinstance(k, int) else k[rows])
        parts.append(checked_rewards(reply["reward"], rows.stop - rows.start, "reward", torch.float64))
    return torch.cat(parts)


def parted(y: Tensor) -> list[slice]:
    """The rows of y in parts that are asked for at a time."""
    most = max(1, min(ROWS, NUMBERS // max(1, y[0].numel())))
    return [slice(first, min(first + most, len(y))) for first in range(0, len(y), most)]
