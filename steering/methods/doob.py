"""Doob's h-transform for black-box rewards: replace D by the reward-weighted posterior mean.

The target is p(x_0) exp(r(x_0) / beta). With h(x, t) = E[exp(r(x_0) / beta) | x_t = x], the score of the tilted
process is S + grad log h, and because grad_x log p(x_0 | x_t) = (alpha / sigma^2) (x_0 - D(x_t)),

    D_h(x_t) = E[x_0 w(x_0) | x_t] / E[w(x_0) | x_t],   w = exp(r / beta),

exactly. So any solver is steered by replacing D; the reward is only ever called forwards, and a posterior that can be
drawn without the network makes steering free of network calls.
"""

from collections.abc import Generator, Hashable, Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from steering.errors import SteeringError
from steering.methods.aimed import Aimed
from steering.methods.correction import DoobTilt
from steering.methods.growth import SAFE_BANK, grown, law, leaning, setup_plan
from steering.numerics.noise import Noise
from steering.posteriors import Bank, Gaussian, Local, Mixture, Neighbours, TiltedBank, Union, automatic, bank
from steering.posteriors.calibration import SEED, Calibration, Uncalibrated, calibrate
from steering.posteriors.mixture import MOST_DIMENSIONS
from steering.posteriors.rollout import Rollout
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, Tilting, sample
from steering.targets.target import Reward, Target

BANK_SIZE = 4096
LEAST_BANK = 64
BANK_BYTES = 2**28  # of float32: 4,096 latents of 4 x 64 x 64
UNMEASURED = "under conditions: the variance of Gaussian data instead of a measured one, and no bank but a given one"
CALIBRATION_SIZE = 256


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
        if reward_budget is not None and (not isinstance(reward_budget, int) or reward_budget < 1):
            raise SteeringError(f"reward_budget: expected at least 1 reward row per sample, got {reward_budget!r}")
        super().__init__(Target(reward, beta, threshold, key))
        self.particles, self.posterior, self.reward_budget = particles, posterior, reward_budget
        self.refresh = refresh
        self._posteriors: dict[Hashable, tuple[Bank | Local, list[str]]] = {}
        self._tilted: dict[Hashable, tuple[Union, Target, TiltedBank, Local]] = {}

    @property
    def held(self) -> int:
        """Implements `Steering.held`."""
        return self.particles

    @property
    def stage_rows(self) -> int:
        """Network rows of a sample at a stage, at most: roll-outs take some."""
        return 1 + self.particles * self._rollout_rows

    @property
    def stage_evaluations(self) -> int:
        """Implements `Steering.stage_evaluations`."""
        return 1 + self._rollout_rows

    @property
    def _rollout_rows(self) -> int:
        """Network rows of a candidate; 0 if candidates are no roll-outs."""
        local = self.posterior.local if isinstance(self.posterior, Bank) else self.posterior
        return local.steps - 1 if isinstance(local, Rollout) else 0

    def prepare(self, problem: Problem) -> Generator[Rows, Tensor, DoobTilt]:
        """Draw, calibrate, score and grow what is missing, for one problem."""
        self._check_event(problem.event)
        posterior, choices = yield from self._posterior(problem)
        if not isinstance(posterior, Bank):
            return self._tilt(problem, None, posterior, choices, [])
        warnings: list[str] = []
        where = (*law(problem), problem.dtype, bool(problem.condition), self._grows(problem))
        if where not in self._tilted:
            assert posterior.local is not None
            union = yield from self._union(problem, posterior)
            nearest = union.reachable(self.target)
            tilted = TiltedBank.of(union, nearest, problem.dtype)
            self._tilted[where] = union, nearest, tilted, leaning(posterior.local, union, tilted)
        union, nearest, tilted, local = self._tilted[where]
        size = union.effective_size(self.target)
        if union.levels:
            choices = [*choices, f"bank grown by {len(union.levels)} levels to {size:.0f} effective samples"]
        if size < SAFE_BANK:
            warnings.append(
                f"reward {self.name!r} leaves {size:.0f} effective bank samples of {len(union.rewards)}, and under "
                f"{SAFE_BANK} the tilt is biased, under 25 unreliable"
            )
        if nearest is not self.target:
            warnings.append(
                f"no bank sample meets {self.name!r} >= {self.target.threshold:g}: it steers toward "
                f">= {nearest.threshold:g}, the candidates of the last stages further"
            )
        tilt = self._tilt(problem, tilted, local, choices, warnings)
        tilt.log_z = tilted.log_z if nearest is self.target else -torch.inf
        return tilt

    def _check_event(self, event: tuple[int, ...]) -> None:
        """Refuse a posterior of samples of another shape."""
        given = self.posterior
        if isinstance(given, Bank | Neighbours) and tuple(given.cloud.samples.shape[1:]) != event:
            raise SteeringError(
                f"posterior: expected samples of shape {list(event)}, got {list(given.cloud.samples.shape[1:])}"
            )
        if isinstance(given, Mixture) and given.components.means.shape[1] != prod(event):
            raise SteeringError(
                f"posterior: expected samples of {prod(event)} numbers, got {given.components.means.shape[1]}"
            )

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
            bank.scored[key] = yield from target.score(bank.samples, torch.float64)
        union = Union(bank.cloud, bank.scored[key].to(torch.float64), len(bank.samples))
        if not self._grows(problem) or len(bank.samples) <= SAFE_BANK or union.effective_size(target) >= SAFE_BANK:
            return union
        where = (*law(problem), type(bank.local), key, target.beta, target.threshold)
        # stored level by level, so that an interrupted request leaves its finished levels to the others
        while (larger := (yield from grown(problem, target, bank, bank.refreshed.get(where, union)))) is not None:
            if len(larger.levels) > len(bank.refreshed.get(where, union).levels):
                bank.refreshed[where] = larger
        return bank.refreshed.get(where, union)

    def _posterior(self, problem: Problem) -> Generator[Rows, Tensor, tuple[Bank | Local, list[str]]]:
        given = self.posterior
        if given is not None and given.calibration is not None:
            return given, []
        if problem.condition:
            # a bank and a curve belong to one law, which must not depend on a sample's neighbours
            if isinstance(given, Bank):
                spread = Uncalibrated(given.cloud.variance)
                image = len(problem.event) > 1
                local = given.local or (Neighbours(given.cloud) if image else Gaussian())
                return given.with_local(local.calibrated(spread)), [UNMEASURED]
            return (Gaussian() if given is None else given).calibrated(Uncalibrated()), [UNMEASURED]
        where = law(problem)
        if where not in self._posteriors:
            self._posteriors[where] = yield from self._make_posterior(problem)
        return self._posteriors[where]

    def _make_posterior(self, problem: Problem) -> Generator[Rows, Tensor, tuple[Bank | Local, list[str]]]:
        """Draw the bank that was not given, measure V(t), and choose the local posterior that was not."""
        plan, posterior = problem.plan, self.posterior
        if isinstance(posterior, Bank | Neighbours):
            samples = posterior.cloud.samples
        else:
            samples = yield from draw_bank(problem, bank_size(problem.event) if posterior is None else CALIBRATION_SIZE)
            posterior = posterior or bank(samples)
        calibration: Calibration | None = posterior.measured if isinstance(posterior, Bank) else None
        if calibration is None:
            calibration = yield from calibrate(
                samples.to(problem.dtype), plan.path, plan.prediction, plan.preconditioning, plan.sigma_data,
                plan.trained, plan.limit,
            )  # fmt: skip
        if not isinstance(posterior, Bank):
            return posterior.calibrated(calibration), []
        if posterior.local is not None:
            return posterior.with_local(posterior.local.calibrated(calibration)), []
        local, why = automatic(posterior.cloud, plan.path, calibration)
        return posterior.with_local(local), [why]


def bank_size(event: Sequence[int]) -> int:
    """Samples of a bank that is drawn: `BANK_SIZE`, or what fits into `BANK_BYTES`, but at least `LEAST_BANK`."""
    return max(LEAST_BANK, min(BANK_SIZE, BANK_BYTES // (4 * prod(event))))


def draw_bank(problem: Problem, size: int) -> Generator[Rows, Tensor, Tensor]:
    """`size` samples [size, *event] of an unconditional model itself, by a deterministic solver."""
    setup = replace(problem, plan=setup_plan(problem.plan), start_mean=None, show_every=0, show_path=False)
    samples, _ = yield from sample(setup, Noise(SEED, range(size)))
    return samples
