"""Two-sided stochastic interpolants, from one data law to another (Albergo et al. 2023, arXiv:2303.08797).

    x_t = a(t) x_0 + b(t) x_1 + gamma(t) z,   t from 0 (the law of x_0) to 1 (the law of x_1), z standard normal

The velocity v = E[dx_t/dt | x_t] and the denoiser eta = E[z | x_t], which is -gamma times the score s, carry x_0's law
to x_1's, or back, with any epsilon(t) >= 0:

    forward   dX = (v + epsilon s) dt + sqrt(2 epsilon) dW
    backward  dX = (v - epsilon s) dt + sqrt(2 epsilon) dW   (dt < 0)

With exact networks the law at the end does not depend on epsilon; with inexact ones some noise is better than none.
epsilon = 0 is the probability flow, which has no use for the denoiser.

The two networks are one with two heads: rows carry the condition `head`, 0 for the velocity and 1 for the denoiser. A
row's reply is then shaped like its state, as everywhere; a model card describes the network with an int64 condition;
and the flow pays for one head alone.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import PlanError, choose
from steering.numerics.noise import Draw, Noise
from steering.plans.compile import MAX_STEPS
from steering.sampling.rows import Condition, Rows
from steering.sampling.sampler import checked

VELOCITY, DENOISER = 0, 1
PI = math.pi
TINY = 1e-12  # what sines make of zero

Coefficient = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""A function of t and its derivative."""

BRIDGES: Mapping[str, tuple[Coefficient, Coefficient]] = {
    "linear": (
        (lambda t: 1 - t, lambda t: -torch.ones_like(t)),
        (lambda t: t.clone(), lambda t: torch.ones_like(t)),
    ),
    "trigonometric": (
        (lambda t: torch.cos(PI / 2 * t), lambda t: -PI / 2 * torch.sin(PI / 2 * t)),
        (lambda t: torch.sin(PI / 2 * t), lambda t: PI / 2 * torch.cos(PI / 2 * t)),
    ),
    "encoding_decoding": (
        (lambda t: torch.cos(PI * t) ** 2 * (t < 0.5), lambda t: -PI * torch.sin(2 * PI * t) * (t < 0.5)),
        (lambda t: torch.cos(PI * t) ** 2 * (t > 0.5), lambda t: -PI * torch.sin(2 * PI * t) * (t > 0.5)),
    ),
}
"""a and b by name; "encoding_decoding" passes through noise alone at t = 1/2."""

LATENTS: Mapping[str, Coefficient] = {
    "brownian": (lambda t: torch.sqrt(t * (1 - t)), lambda t: (0.5 - t) / torch.sqrt(t * (1 - t))),
    "quadratic": (lambda t: t * (1 - t), lambda t: 1 - 2 * t),
    "sine_squared": (lambda t: torch.sin(PI * t) ** 2, lambda t: PI * torch.sin(2 * PI * t)),
}
"""gamma / spread by name, 0 at both ends; the derivative of "brownian" is infinite there."""


@dataclass(frozen=True, kw_only=True)
class Interpolant:
    """`bridge` names a and b, `latent` names gamma, and `spread` scales it."""

    bridge: str = "linear"
    latent: str = "brownian"
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.bridge not in BRIDGES:
            raise PlanError(choose("bridge", self.bridge, BRIDGES))
        if self.latent not in LATENTS:
            raise PlanError(choose("latent", self.latent, LATENTS))
        if not 0 <= self.spread < math.inf:
            raise PlanError(f"spread: expected a number >= 0, got {self.spread}")

    def scales(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and gamma, float64 of t's shape."""
        (a, _), (b, _), (gamma, _) = (*BRIDGES[self.bridge], LATENTS[self.latent])
        t = torch.as_tensor(t, dtype=torch.float64)
        return a(t), b(t), self.spread * gamma(t)

    def rates(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Their derivatives: dx_t/dt = a' x_0 + b' x_1 + gamma' z is what a velocity network learns to predict."""
        (_, a), (_, b), (_, gamma) = (*BRIDGES[self.bridge], LATENTS[self.latent])
        t = torch.as_tensor(t, dtype=torch.float64)
        return a(t), b(t), self.spread * gamma(t)


def transport(
    interpolant: Interpolant,
    x: Tensor,
    noise: Noise,
    steps: int,
    *,
    epsilon: float | Callable[[float], float] = 0.0,
    start: float = 0.0,
    end: float = 1.0,
    condition: Condition | None = None,
) -> Generator[Rows, Tensor, Tensor]:
    """Carry x [n, *event] from time `start` to `end`, backward where end < start; yields network rows.

    Heun's method on a uniform grid, the noise of a step in both slopes: order 2, in law where epsilon > 0. Two rows a
    step for the flow, four with noise.

    Args:
        epsilon: a function of t, or a number c for c gamma(t)^2, which vanishes at the ends as the score -eta / gamma
            there asks for.
        condition: tensors [n, ...] by name, handed to the network together with `head`.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise PlanError(f"steps: expected an integer in 1..{MAX_STEPS}, got {steps!r}")
    if not (0 <= start <= 1 and 0 <= end <= 1 and start != end):
        raise PlanError(f"expected different start and end in 0..1, got start={start}, end={end}")
    times = [start + (end - start) * i / steps for i in range(steps + 1)]
    levels = [_level(interpolant, epsilon, t) for t in times]
    h, direction = (end - start) / steps, math.copysign(1.0, end - start)

    def drift(x: Tensor, i: int) -> Generator[Rows, Tensor, Tensor]:
        velocity = yield from _ask(x, times[i], VELOCITY, condition)
        pull = levels[i][1]
        if pull == 0:
            return velocity
        denoiser = yield from _ask(x, times[i], DENOISER, condition)
        return velocity - denoiser * (direction * pull)

    for i in range(steps):
        spread = math.sqrt(abs(h) * (levels[i][0] + levels[i + 1][0]))
        kick = noise.normal(i, Draw.SOLVER, x.shape[1:], x.dtype) * spread if spread else torch.zeros_like(x)
        first = yield from drift(x, i)
        second = yield from drift(x + first * h + kick, i + 1)
        x = x + (first + second) * (h / 2) + kick
    return x


def _level(interpolant: Interpolant, epsilon: float | Callable[[float], float], t: float) -> tuple[float, float]:
    """epsilon and epsilon / gamma at t."""
    gamma = float(interpolant.scales(t)[2])
    if not callable(epsilon):
        if not (0 <= epsilon < math.inf and (epsilon == 0 or interpolant.spread > 0)):
            raise PlanError(f"epsilon: expected a number >= 0, and 0 where gamma is 0, got {epsilon}")
        return (0.0, 0.0) if gamma < TINY else (epsilon * gamma**2, epsilon * gamma)
    level, no_noise = epsilon(t), gamma < TINY
    if not 0 <= level < math.inf or (no_noise and level > TINY):
        raise PlanError(f"epsilon: expected a number >= 0, and 0 where gamma is 0, got {level} at t={t}")
    return (0.0, 0.0) if no_noise else (level, level / gamma)


def _ask(x: Tensor, t: float, head: int, condition: Condition | None) -> Generator[Rows, Tensor, Tensor]:
    rows = Rows.network(x, t, {**(condition or {}), "head": torch.full((len(x),), head)})
    return checked((yield rows), rows).to(x.dtype)
