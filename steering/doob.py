"""Doob's h-transform for black-box rewards: replace D by the reward-weighted posterior mean.

The target is p(x_0) exp(r(x_0) / beta). With h(x, t) = E[exp(r(x_0) / beta) | x_t = x], the score of the tilted
process is S + grad log h, and because grad_x log p(x_0 | x_t) = (alpha / sigma^2) (x_0 - D(x_t)),

    D_h(x_t) = E[x_0 w(x_0) | x_t] / E[w(x_0) | x_t],   w = exp(r / beta),

exactly. So any solver is steered by replacing D; the reward is only ever called forwards, and a posterior that can be
drawn without the network makes steering free of network calls.
"""

from collections.abc import Generator, Hashable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from steering.aimed import Aimed
from steering.calibration import SEED, Calibration, Uncalibrated, calibrate
from steering.correction import DoobTilt
from steering.errors import SteeringError
from steering.noise import Noise
from steering.plan import Plan, compile_plan
from steering.posteriors import Bank, Gaussian, Local, Mixture, Neighbours, TiltedBank, Union, automatic, bank
from steering.posteriors.mixture import MOST_DIMENSIONS
from steering.posteriors.rollout import Rollout
from steering.rows import Rows
from steering.sampler import Problem, Tilting, guided, sample
from steering.solvers import SOLVERS
from steering.targets import Reward, Target
from steering.tiles import ROWS

BANK_SIZE = 4096
CALIBRATION_SIZE = 256
SAFE_BANK = 200
"""Effective samples a target must leave: 40 were up to 5% off, under 25 useless."""
UNRELIABLE = 50
LEVEL_SIZE, LEVEL_PARTICLES, MAX_LEVELS = 1024, 16, 8
GROUP_NUMBERS = 2**22
"""Most numbers in the candidates of a group of a level's samples."""


class Doob(Aimed, Tilting):
    """Steering toward p(x_0) exp(reward(x_0) / beta).

    Args:
        reward: scores candidates, [B, *event] -> [B]; -inf is legal (weight 0), NaN and +inf are errors.
        beta: temperature > 0; smaller is stronger.
        particles: candidates per sample and stage of the local posterior; even, at least 2.
        posterior: `posteriors.bank(samples)`, `.mixture(samples)`, `.neighbours(samples)`, `.gaussian()` or
            `.rollout(steps)`. When absent, a bank of 4,096 samples is drawn from the network on first use and kept;
            under conditions, whose laws have no bank in common, a Gaussian of uncalibrated variance is used.
        threshold: condition on reward >= threshold instead; beta is then not used.
        refresh: grow a bank on which the target leaves fewer than 200 effective samples, level by level, once per
            target: up to 8 levels of 1,024 samples each. Not under conditions. When absent, for events of up to 256
            numbers: a level of images costs minutes, and changed little there.
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
        refresh: bool | None = None,
        reward_budget: int | None = None,
        key: Hashable = None,
    ) -> None:
        if not isinstance(particles, int) or particles < 2 or particles % 2:
            raise SteeringError(f"particles: expected an even number >= 2, got {particles!r}")
        if reward_budget is not None and reward_budget < 1:
            raise SteeringError(f"reward_budget: expected at least 1 reward row per sample, got {reward_budget!r}")
        super().__init__(Target(reward, beta, threshold, key))
        self.particles, self.posterior, self.reward_budget = particles, posterior, reward_budget
        self.refresh = refresh
        self._posteriors: dict[Hashable, tuple[Bank | Local, list[str]]] = {}
        self._tilted: dict[Hashable, tuple[Union, TiltedBank, Local]] = {}

    @property
    def width(self) -> int:
        """Implements `Steering.width`."""
        return self.particles

    @property
    def stage_rows(self) -> int:
        """Network rows of a sample at a stage, at most: roll-outs take some."""
        return 1 + self.particles * self.posterior.steps if isinstance(self.posterior, Rollout) else 1

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, DoobTilt]:
        """Draw, calibrate, score and grow what is missing, for one problem."""
        posterior, choices = yield from self._posterior(problem)
        if not isinstance(posterior, Bank):
            return self._tilt(problem, None, posterior, choices, [])
        warnings: list[str] = []
        where = (*_law(problem), problem.dtype, bool(problem.condition), self._grows(problem))
        if where not in self._tilted:
            assert posterior.local is not None
            union = yield from self._union(problem, posterior)
            tilted = TiltedBank.of(union, self.target, problem.dtype)
            self._tilted[where] = union, tilted, _leaning(posterior.local, union, tilted)
        union, tilted, local = self._tilted[where]
        size = union.effective_size(self.target)
        if union.levels:
            choices = [*choices, f"bank grown by {len(union.levels)} levels to {size:.0f} effective samples"]
        if size < SAFE_BANK:
            warnings.append(
                f"reward {self.name!r} leaves {size:.0f} effective bank samples of {len(union.rewards)}; "
                f"under {SAFE_BANK} the tilt is biased, under 25 unreliable"
            )
        elif union.support < UNRELIABLE:
            warnings.append(
                f"reward {self.name!r}: the bank was grown from {union.support:.0f} effective samples; expected a "
                "score and a threshold, which give levels on the way, not an indicator of 0 and -inf"
            )
        return self._tilt(problem, tilted, local, choices, warnings)

    def _tilt(
        self, problem: Problem, tilted: TiltedBank | None, local: Local, choices: list[str], warnings: list[str]
    ) -> DoobTilt:
        tilt = DoobTilt(problem, self.target, tilted, local, self.particles, self.reward_budget)
        tilt.choices, tilt.warnings = choices, warnings
        return tilt

    def _grows(self, problem: Problem) -> bool:
        """Whether a bank may be grown: it belongs to one law."""
        wanted = prod(problem.event) <= MOST_DIMENSIONS if self.refresh is None else self.refresh
        return wanted and not problem.condition and problem.guidance == 1 and problem.mean is None

    def _union(self, problem: Problem, bank: Bank) -> Generator[Rows, Tensor, Union]:
        """The bank's samples with their rewards; grown where the target leaves too few."""
        key, target = self.target.key, self.target
        if key not in bank.scored:
            bank.scored[key] = yield from target.score(bank.samples, problem.dtype)
        union = Union(bank.cloud, bank.scored[key].to(torch.float64), len(bank.samples))
        if not self._grows(problem) or len(bank.samples) <= SAFE_BANK or union.effective_size(target) >= SAFE_BANK:
            return union
        where = (problem.model, problem.plan.path, problem.plan.trained, key, target.beta, target.threshold)
        # level by level, so that one who is interrupted leaves the others what there is
        while (larger := (yield from self._grown(problem, bank, bank.refreshed.get(where, union)))) is not None:
            bank.refreshed[where] = larger
        return bank.refreshed.get(where, union)

    def _grown(self, problem: Problem, bank: Bank, union: Union) -> Generator[Rows, Tensor, Union | None]:
        """The union with one more level, drawn toward the strongest target that it can bear; None where the target
        needs no more, or more would be of no use."""
        if union.effective_size(self.target) >= SAFE_BANK or len(union.levels) >= MAX_LEVELS:
            return None
        level = union.next_level(self.target, SAFE_BANK)
        last = union.levels[-1].target if union.levels else None
        stuck = last is not None and (level.beta, level.threshold) == (last.beta, last.threshold)
        if stuck or union.effective_size(level) < 2:
            return None  # no sample shows where to go on
        assert bank.local is not None
        setup = replace(problem, plan=_setup_plan(problem.plan), dtype=torch.float32)
        tilted = TiltedBank.of(union, level, setup.dtype)
        local = _leaning(bank.local, union, tilted)
        drawn, reports = [], []
        group = max(ROWS, GROUP_NUMBERS // (LEVEL_PARTICLES * prod(problem.event)) // ROWS * ROWS)
        for first in range(0, LEVEL_SIZE, group):
            noise = Noise(SEED + 1 + len(union.levels), range(first, min(first + group, LEVEL_SIZE)))
            x, report = yield from guided(setup, noise, _ready(setup, level, tilted, local), None)
            drawn.append(x)
            reports.append(report)
        rewards = torch.cat([each.rewards for each in reports if each.rewards is not None])
        rows = (sum(each.network_rows for each in reports), sum(each.reward_rows for each in reports))
        return union.grown(torch.cat(drawn), rewards, level, *rows)

    def _posterior(self, problem: Problem) -> Generator[Rows, Tensor, tuple[Bank | Local, list[str]]]:
        given = self.posterior
        if given is not None and given.calibration is not None:
            return given, []
        if problem.condition:
            # a bank and a curve belong to one law, and whose law that is must not depend on a sample's neighbours
            if isinstance(given, Bank):
                spread = Uncalibrated(given.cloud.variance)
                image = len(problem.event) > 1
                local = given.local or (Neighbours(given.cloud) if image else Gaussian())
                return given.with_local(local.calibrated(spread)), []
            return (Gaussian() if given is None else given).calibrated(Uncalibrated()), []
        where = _law(problem)
        if where not in self._posteriors:
            self._posteriors[where] = yield from self._make_posterior(problem)
        return self._posteriors[where]

    def _make_posterior(self, problem: Problem) -> Generator[Rows, Tensor, tuple[Bank | Local, list[str]]]:
        """Draw the bank that was not given, measure V(t), and choose the local posterior that was not."""
        plan, posterior = problem.plan, self.posterior
        if isinstance(posterior, Bank | Neighbours):
            samples = posterior.cloud.samples
        else:
            samples = yield from draw_bank(problem, BANK_SIZE if posterior is None else CALIBRATION_SIZE)
            posterior = posterior or bank(samples)
        calibration: Calibration | None = posterior.measured if isinstance(posterior, Bank) else None
        if calibration is None:
            calibration = yield from calibrate(
                samples.to(problem.dtype), plan.path, plan.prediction, plan.preconditioning, plan.sigma_data,
                plan.trained,
            )  # fmt: skip
        if not isinstance(posterior, Bank):
            return posterior.calibrated(calibration), []
        if posterior.local is not None:
            return posterior.with_local(posterior.local.calibrated(calibration)), []
        local, why = automatic(posterior.cloud, plan.path, calibration)
        return posterior.with_local(local), [why]


def _law(problem: Problem) -> tuple[Hashable, ...]:
    """Whose samples they are, and on which path."""
    plan = problem.plan
    return problem.model, problem.event, plan.path, plan.trained, plan.prediction, plan.preconditioning


def _leaning(local: Local, union: Union, tilted: TiltedBank) -> Local:
    """A mixture whose candidates follow the rewarded bank; other posteriors as they are."""
    if not isinstance(local, Mixture) or tilted.flat:
        return local
    return local.leaning(union.cloud.samples.flatten(1), tilted.weights)


def _ready(problem: Problem, target: Target, tilted: TiltedBank, local: Local) -> Generator[Rows, Tensor, DoobTilt]:
    yield from ()
    return DoobTilt(problem, target, tilted, local, LEVEL_PARTICLES)


def _setup_plan(plan: Plan) -> Plan:
    """How banks and levels are drawn: deterministically, in 20 steps."""
    return compile_plan(
        SOLVERS, "dpmpp_2m", path=plan.path, steps=20, prediction=plan.prediction,
        preconditioning=plan.preconditioning, sigma_data=plan.sigma_data, trained=plan.trained,
    )  # fmt: skip


def draw_bank(problem: Problem, size: int) -> Generator[Rows, Tensor, Tensor]:
    """`size` samples [size, *event] of an unconditional model itself, by a deterministic solver."""
    samples, _ = yield from sample(replace(problem, plan=_setup_plan(problem.plan)), Noise(SEED, range(size)))
    return samples
