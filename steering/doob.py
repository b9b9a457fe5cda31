"""Doob's h-transform for black-box rewards: replace D by the reward-weighted posterior mean.

The target is p(x_0) exp(r(x_0) / beta). With h(x, t) = E[exp(r(x_0) / beta) | x_t = x], the score of the tilted
process is S + grad log h, and because grad_x log p(x_0 | x_t) = (alpha / sigma^2) (x_0 - D(x_t)),

    D_h(x_t) = E[x_0 w(x_0) | x_t] / E[w(x_0) | x_t],   w = exp(r / beta),

exactly. So any solver is steered by replacing D; the reward is only ever called forwards, and a posterior that can be
drawn without the network makes steering free of network calls.
"""

import math
from collections import Counter
from collections.abc import Generator, Hashable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from steering.calibration import SEED, Uncalibrated, calibrate
from steering.errors import SteeringError
from steering.noise import Draw, Noise
from steering.plan import Plan, Stage, compile_plan
from steering.posteriors import Bank, Gaussian, Local, Neighbours, bank
from steering.posteriors.bank import HAND_OVER, TiltedBank
from steering.rows import Rows
from steering.sampler import Drawing, Guided, Problem, Report, guided, sample
from steering.select import Kernel, select
from steering.solvers import SOLVERS
from steering.targets import Reward, Target
from steering.weights import effective_size, softmax

BANK_SIZE = 4096
CALIBRATION_SIZE = 256
SAFE_BANK = 200


class Doob:
    """Steering toward p(x_0) exp(reward(x_0) / beta).

    Args:
        reward: scores candidates, [B, *event] -> [B]; -inf is legal (weight 0), NaN and +inf are errors.
        beta: temperature > 0; smaller is stronger.
        particles: candidates per sample and stage of the local posterior; even, at least 2.
        posterior: `posteriors.bank(samples)`, `.gaussian()` or `.neighbours(samples)`. When absent, a bank of 4,096
            samples is drawn from the network on first use and kept; under conditions, whose laws have no bank in
            common, a Gaussian of uncalibrated variance is used.
        threshold: condition on reward >= threshold instead; beta is then not used.
        reward_budget: most reward rows per sample, the final scoring included; particles shrink to fit. None: no bound.
        key: identifies the reward among those a bank remembers scores of; the reward itself by default.
    """

    def __init__(
        self,
        reward: Reward,
        beta: float = 1.0,
        particles: int = 32,
        posterior: Bank | Local | None = None,
        *,
        threshold: float | None = None,
        reward_budget: int | None = None,
        key: Hashable = None,
    ) -> None:
        if not isinstance(particles, int) or particles < 2 or particles % 2:
            raise SteeringError(f"particles: expected an even number >= 2, got {particles!r}")
        if reward_budget is not None and reward_budget < 1:
            raise SteeringError(f"reward_budget: expected at least 1 reward row per sample, got {reward_budget!r}")
        self.target = Target(reward, beta, threshold, key)
        self.particles, self.posterior, self.reward_budget = particles, posterior, reward_budget
        self._posteriors: dict[Hashable, Bank | Local] = {}

    @property
    def reward(self) -> Reward:
        """Implements `Steering.reward`."""
        return self.target.reward

    @property
    def name(self) -> str:
        """Implements `Steering.name`."""
        return self.target.name

    @property
    def width(self) -> int:
        """Implements `Steering.width`."""
        return self.particles

    def draw(self, problem: Problem, noise: Noise, x_init: Tensor | None) -> Drawing:
        """Implements `Steering.draw`."""
        return guided(problem, noise, self.prepare(problem), x_init)

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, "DoobTilt"]:
        """Draw, calibrate and score what is missing (in the server nothing is), for one problem."""
        posterior = yield from self._posterior(problem)
        tilted, warnings = None, []
        if isinstance(posterior, Bank):
            key = self.target.key
            if key not in posterior.scored:
                posterior.scored[key] = yield from self.target.score(posterior.samples, problem.dtype)
            tilted = posterior.tilted(posterior.scored[key], self.target, problem.dtype)
            if tilted.effective_size < SAFE_BANK:
                warnings.append(
                    f"reward {self.name!r} leaves {tilted.effective_size:.0f} effective bank samples "
                    f"of {len(posterior.samples)}; under {SAFE_BANK} the tilt is biased, under 25 unreliable"
                )
        local = posterior.local if isinstance(posterior, Bank) else posterior
        return DoobTilt(self, problem, tilted, local, warnings)

    def _posterior(self, problem: Problem) -> Generator[Rows, Tensor, Bank | Local]:
        given = self.posterior
        local = given.local if isinstance(given, Bank) else given
        if given is not None and local is not None and local.calibration is not None:
            return given
        if problem.condition:
            # a bank and a curve belong to one law, and whose law that is must not depend on a sample's neighbours
            spread = given.cloud.variance if isinstance(given, Bank) else 1.0
            return (Gaussian() if given is None else given).calibrated(Uncalibrated(spread))
        plan = problem.plan
        where = (problem.model, problem.event, plan.path, plan.trained, plan.prediction, plan.preconditioning)
        if where not in self._posteriors:
            self._posteriors[where] = yield from self._make_posterior(problem)
        return self._posteriors[where]

    def _make_posterior(self, problem: Problem) -> Generator[Rows, Tensor, Bank | Local]:
        """Draw the bank that was not given, and measure V(t)."""
        plan, posterior = problem.plan, self.posterior
        if isinstance(posterior, Bank | Neighbours):
            samples = posterior.cloud.samples
        else:
            samples = yield from draw_bank(problem, BANK_SIZE if posterior is None else CALIBRATION_SIZE)
            posterior = posterior or bank(samples)
        measuring = calibrate(
            samples.to(problem.dtype), plan.path, plan.prediction, plan.preconditioning, plan.sigma_data, plan.trained
        )
        return posterior.calibrated((yield from measuring))


def draw_bank(problem: Problem, size: int) -> Generator[Rows, Tensor, Tensor]:
    """`size` samples [size, *event] of an unconditional model itself, by a deterministic solver."""
    plan = problem.plan
    setup = compile_plan(
        SOLVERS, "dpmpp_2m", path=plan.path, steps=20, prediction=plan.prediction,
        preconditioning=plan.preconditioning, sigma_data=plan.sigma_data, trained=plan.trained,
    )  # fmt: skip
    samples, _ = yield from sample(replace(problem, plan=setup), Noise(SEED, range(size)))
    return samples


class DoobTilt:
    """`Doob`, prepared: corrects one stage after another. A sample that left the bank stays off it."""

    def __init__(
        self, doob: Doob, problem: Problem, tilted: TiltedBank | None, local: Local, warnings: list[str]
    ) -> None:
        self.doob, self.problem, self.tilted, self.local = doob, problem, tilted, local
        self.warnings = warnings
        self.ess: list[Tensor] = []
        self.methods: Counter[str] = Counter()
        self.no_hit = 0
        self.on_bank: Bool[Tensor, " n"] | None = None
        self.drowned: Bool[Tensor, " n"] | None = None
        self.spent: Int64[Tensor, " n"] | None = None

    @property
    def plan(self) -> Plan:
        return self.problem.plan

    def start_shift(self) -> Tensor | None:
        return None if self.tilted is None else self.tilted.start_shift().reshape(self.problem.event)

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Implements `Tilt.steer`: x and denoised are [n, *event]."""
        n = len(x)
        state, centre = x.flatten(1), denoised.flatten(1)
        correction, ess = torch.zeros_like(state), torch.ones(n, dtype=state.dtype)
        log_h = torch.zeros(n, dtype=state.dtype)
        on_bank = self.on_bank if self.on_bank is not None else torch.full((n,), self.tilted is not None)
        if self.drowned is None:
            self.drowned = torch.zeros(n, dtype=torch.bool)
        if self.spent is None:
            self.spent = torch.zeros(n, dtype=torch.int64)
        if self.tilted is not None and bool(on_bank.any()):
            shift, prior_size, rewarded_size, bank_log_h = self.tilted.correction(state, stage.update.at)
            on_bank = on_bank & (torch.minimum(prior_size, rewarded_size) >= HAND_OVER)
            if not self.tilted.flat:
                correction = torch.where(on_bank[:, None], shift, correction)
            ess = torch.where(on_bank, rewarded_size, ess)
            log_h = torch.where(on_bank, bank_log_h, log_h)
            self.methods["bank"] += int(on_bank.sum())
            if self.tilted.no_hit:
                self.no_hit += int(on_bank.sum())
        self.on_bank = on_bank
        off_bank = (~on_bank).nonzero().squeeze(1)
        allowance = self._pairs(stage, self.spent[off_bank])
        self.spent[off_bank] += 2 * allowance
        kernel = Kernel.of(stage, self.plan, self.local)
        z: Tensor | None = None
        for pairs in allowance.unique().tolist():
            rows = off_bank[allowance == pairs]
            if not pairs:
                self.methods["none"] += len(rows)
                continue
            if kernel is not None and bool(self.drowned[rows].any()):
                chosen = rows[self.drowned[rows]]
                if z is None:
                    z = noise.normal(stage.index, Draw.SOLVER, self.problem.event, x.dtype).flatten(1)
                z[chosen], ess[chosen], log_h[chosen] = yield from self._select(
                    stage, kernel, centre[chosen], pairs, noise[chosen]
                )
                rows = rows[~self.drowned[rows]]
            if len(rows):
                correction[rows], ess[rows], log_h[rows], self.drowned[rows] = yield from self._average(
                    stage, kernel, state[rows], centre[rows], pairs, noise[rows]
                )
        self.ess.append(ess)
        # a correction of 0 must leave even the sign of a zero alone
        steered = torch.where(correction == 0, centre, centre + correction)
        return Guided(steered.reshape(x.shape), None if z is None else [z.reshape(x.shape)], log_h)

    def _pairs(self, stage: Stage, spent: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
        """Antithetic pairs samples may spend on a stage: an even share of what each one's own budget leaves."""
        most = self.doob.particles // 2
        if self.doob.reward_budget is None:
            return torch.full_like(spent, most)
        left = self.doob.reward_budget - 1 - spent  # one row scores the finished sample
        return (left // (2 * (self.plan.rows - stage.index))).clamp(min=0, max=most)

    def _average(
        self,
        stage: Stage,
        kernel: Kernel | None,
        x: Float[Tensor, "m d"],
        centre: Float[Tensor, "m d"],
        pairs: int,
        noise: Noise,
    ) -> Generator[Rows, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Correction sum_p (w+_p - w-_p) d_p over antithetic particles D +- d_p [m, d], its effective size and log h
        [m], and whether it drowned [m]."""
        deviations = self.local.deviations(x, self.plan.path, stage.update.at, stage.index, pairs, noise)
        weights, log_h = yield from self._weigh(centre, deviations)
        difference = weights[:, :pairs] - weights[:, pairs:]
        correction = torch.zeros_like(centre)
        for p in range(pairs):  # one after another: a reduction's bits would depend on the batch
            correction = correction + difference[:, p, None] * deviations[:, p]
        self.methods["average"] += len(x)
        sunk = torch.zeros(len(x), dtype=torch.bool) if kernel is None else kernel.drowned(difference, deviations)
        return correction, effective_size(weights), log_h, sunk

    def _select(
        self, stage: Stage, kernel: Kernel, centre: Float[Tensor, "m d"], pairs: int, noise: Noise
    ) -> Generator[Rows, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The solver's noise z, chosen among antithetic candidates by the reward of what each leads to."""
        z = noise.normal(stage.index, Draw.PARTICLES, (pairs, centre.shape[1]), centre.dtype)
        weights, log_h = yield from self._weigh(centre, kernel.deviations(z, stage, noise))
        self.methods["select"] += len(centre)
        return select(weights, z, noise.uniform(stage.index, Draw.SELECT, 1)), effective_size(weights), log_h

    def _weigh(
        self, centre: Float[Tensor, "m d"], deviations: Float[Tensor, "m pairs d"]
    ) -> Generator[Rows, Tensor, tuple[Float[Tensor, "m 2*pairs"], Float[Tensor, " m"]]]:
        """Normalised weights of the candidates D +- d, and log of their mean weight."""
        candidates = torch.cat([centre[:, None] + deviations, centre[:, None] - deviations], dim=1)
        m, k = candidates.shape[:2]
        target = self.doob.target
        scores = yield from target.score(candidates.reshape(m * k, *self.problem.event), centre.dtype)
        rewards = scores.reshape(m, k)
        self.no_hit += int((~target.hit(rewards)).sum())
        logs = target.log_weights(rewards)
        return softmax(logs), torch.logsumexp(logs, dim=-1) - math.log(k) + target.log_scale(rewards)

    def finish(self, x: Tensor, report: Report) -> Generator[Rows, Tensor, None]:
        """Implements `Tilt.finish`."""
        report.rewards = yield from self.doob.target.score(x)
        report.ess, report.methods, report.no_hit = torch.stack(self.ess), self.methods, self.no_hit
        report.warnings = self.warnings
        if self.no_hit:
            report.warnings.append(
                f"reward {self.doob.name!r}: no candidate had weight in {self.no_hit} (stage, sample) pairs"
            )
