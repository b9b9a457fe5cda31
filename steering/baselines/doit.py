"""The published DOIT estimator (Doob-oriented inference-time transformation), as its reference code computes it.

At stages 0 < i <= t_star of DDIM(eta), with probes z_m, the second half the negative of the first,

    x_m = mu + S z_m,   x0_m = (x_m - sigma_t eps) / alpha_t   (eps of the present state, used again)
    w = softmax((r(x0_m) - mean r) / (std r tau)),   G = J^T sum_m w_m z_m / S,   eps' = eps - gamma sigma_s G

and at the end the best of `particles` chains. J = d mu / d x_s; without `jacobian` it is taken for the identity, which
it is up to a step's size. A hill-climber rather than a sampler of p exp(r / beta): using eps again gives x0_m the
sensitivity 1 / alpha_t to noise, far above the posterior's own at high noise; tau is relative to the rewards' spread;
and the best of several chains is kept. `beta` in place of `tau` makes the weights exp(r / beta), for comparison.
"""

import math
from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steering.baselines.best_of import BestOf
from steering.baselines.guidance import Correction, Guidance
from steering.errors import SteeringError, UnsuitableError
from steering.methods.gradients import pullback
from steering.numerics.noise import Draw, Noise
from steering.numerics.weights import softmax
from steering.paths import vp_linear
from steering.plans.compile import compile_plan
from steering.plans.plan import Plan, Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Drawing, Problem, Start, guided
from steering.solvers import SOLVERS
from steering.targets.target import Reward

SMALLEST = 1e-12
"""Least spread of rewards that tau is relative to."""


class Doit(Guidance):
    """See the module. The plan is `ddim` with eta > 0; one network row a stage, `probes` reward rows a guided one.

    Args:
        tau: relative temperature > 0 of the weights.
        beta: absolute temperature, in place of tau.
        gamma: strength >= 0.
        t_star: the last stage that is guided; the first is 1.
        probes: M, even, at least 2.
        particles: chains a sample, of which the best is kept.
        jacobian: multiply by J^T, through the network.
    """

    def __init__(
        self,
        reward: Reward,
        *,
        tau: float = 0.5,
        beta: float | None = None,
        gamma: float = 1.0,
        t_star: int = 10,
        probes: int = 16,
        particles: int = 1,
        jacobian: bool = False,
        key: Hashable = None,
    ) -> None:
        super().__init__(reward, 1.0 if beta is None else beta, key=key)
        if not 0 < tau < math.inf:
            raise SteeringError(f"tau: expected a finite number > 0, got {tau!r}")
        if not 0 <= gamma < math.inf:
            raise SteeringError(f"gamma: expected a finite number >= 0, got {gamma!r}")
        if not isinstance(probes, int) or probes < 2 or probes % 2:
            raise SteeringError(f"probes: expected an even integer >= 2, got {probes!r}")
        if not isinstance(particles, int) or particles < 1:
            raise SteeringError(f"particles: expected an integer >= 1, got {particles!r}")
        self.tau, self.relative = tau, beta is None
        self.gamma, self.t_star, self.probes, self.particles = gamma, t_star, probes, particles
        self.jacobian = jacobian

    @property
    def needs_gradients(self) -> bool:
        """Implements `Steering.needs_gradients`."""
        return self.jacobian

    @property
    def held(self) -> int:
        """Implements `Steering.held`."""
        return self.probes * self.particles

    @property
    def shows(self) -> bool:
        """Implements `Steering.shows`."""
        return self.particles == 1

    @property
    def stage_rows(self) -> int:
        """Network rows of a sample at a stage."""
        return self.particles

    def unsuitable(self, plan: Plan) -> str:
        """Why it cannot draw by a plan; empty if it can."""
        if plan.solver == "ddim" and plan.eta > 0:
            return ""
        return f"doit: expected solver 'ddim' with eta above 0, got {plan.solver!r} with {plan.eta:g}"

    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """Implements `Steering.draw`."""
        if why := self.unsuitable(problem.plan):
            raise UnsuitableError(why)
        if self.particles == 1:
            return guided(problem, noise, self.prepare(problem), x_init)
        chains = Doit(
            self.reward, tau=self.tau, beta=None if self.relative else self.target.beta, gamma=self.gamma,
            t_star=self.t_star, probes=self.probes, jacobian=self.needs_gradients, key=self.target.key,
        )  # fmt: skip
        return BestOf(self.reward, self.particles, chains, key=self.target.key).draw(problem, noise, x_init)

    def correct(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n *event"],
        denoised: Float[Tensor, "n *event"],
        noise: Noise,
    ) -> Generator[Rows, Tensor, Correction]:
        """Implements `Guidance.correct`."""
        if not 0 < stage.index <= self.t_star or not stage.update.C:  # a step to D draws no noise to probe with
            return torch.zeros_like(denoised), None
        update, n, half = stage.update, len(x), self.probes // 2
        s, t, (carry, gain, scale) = update.at, update.to, (update.A[0][0], update.b[0], update.C[0][0])
        eps = (x - denoised * s.alpha) / s.sigma
        mean = x * carry + denoised * gain
        z = noise.normal(stage.index, Draw.PARTICLES, (half, *problem.event), x.dtype)
        both = torch.cat([z, -z], dim=1)
        ahead = (mean[:, None] + both * scale - eps[:, None] * t.sigma) / t.alpha
        rewards = (yield from self.target.score(ahead.flatten(0, 1), x.dtype)).reshape(n, -1)
        weights = softmax(self._logits(rewards))
        difference = (weights[:, :half] - weights[:, half:]).reshape(n, half, *(1 for _ in problem.event))
        climb = torch.zeros_like(x)
        for m in range(half):  # one after another: a reduction's bits would depend on the batch
            climb = climb + z[:, m] * difference[:, m]
        climb = climb / (scale + 1e-8)
        if self.needs_gradients:
            through = yield from pullback(problem, stage.denoise, x, climb)
            climb = climb * carry + through * gain
        return climb * (self.gamma * s.sigma**2 / s.alpha), None

    def _logits(self, rewards: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Standardised rewards over tau, of those above -inf; or rewards over beta."""
        if not self.relative:
            return self.target.log_weights(rewards)
        there = rewards > -torch.inf
        count = there.sum(dim=1, keepdim=True).clamp(min=1)
        finite = torch.where(there, rewards, 0.0)
        away = torch.where(there, finite - finite.sum(dim=1, keepdim=True) / count, 0.0)
        deviation = (away.square().sum(dim=1, keepdim=True) / count).sqrt()
        logits = torch.where(there, away / (deviation.clamp(min=SMALLEST) * self.tau), -torch.inf)
        return torch.where(there.any(dim=1, keepdim=True), logits, 0.0)


@dataclass(frozen=True)
class Preset:
    """A published setting, of 32 probes in 15 steps on D4RL's action spaces."""

    eta: float
    gamma: float
    tau: float
    t_star: int
    particles: int

    def plan(self, prediction: str, steps: int = 15) -> Plan:
        """The reference's schedule: variance-preserving, linear, uniform in time from 1 to 0.001."""
        path = vp_linear(t_min=1e-3, t_max=1.0)
        return compile_plan(
            SOLVERS, "ddim", path=path, steps=steps, prediction=prediction, grid="uniform", eta=self.eta
        )

    def steer(self, reward: Reward, jacobian: bool = True) -> Doit:
        return Doit(
            reward, tau=self.tau, gamma=self.gamma, t_star=self.t_star, probes=32, particles=self.particles,
            jacobian=jacobian,
        )  # fmt: skip


PRESETS: Mapping[str, Preset] = {
    "halfcheetah-medium-expert-v2": Preset(0.7, 0.25, 0.5, 8, 4),
    "hopper-medium-expert-v2": Preset(0.8, 0.25, 0.7, 8, 4),
    "walker2d-medium-expert-v2": Preset(0.4, 0.5, 0.4, 10, 8),
    "halfcheetah-medium-v2": Preset(0.2, 0.25, 0.5, 10, 4),
    "hopper-medium-v2": Preset(0.6, 0.75, 0.4, 8, 8),
    "walker2d-medium-v2": Preset(0.3, 0.5, 0.3, 10, 4),
    "halfcheetah-medium-replay-v2": Preset(0.4, 0.5, 0.3, 10, 8),
    "hopper-medium-replay-v2": Preset(0.2, 0.5, 0.5, 6, 4),
    "walker2d-medium-replay-v2": Preset(0.2, 0.25, 0.7, 8, 8),
}
"""By D4RL data set."""
