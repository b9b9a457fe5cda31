"""What draws of a model by its own stochastic sampler leave behind: draws of (x_t, x_0) themselves, at every stage.

A sampler with the noise of the time-reversed process draws x_t from p(x_t) and then x_0 from p(x_0 | x_t), at all t of
its plan at once. So the denoised estimates D_k(t) that draw k passed through, together with where it ended, x0_k, say
how wrong D is at each noise level and in which shapes, for any law the sampler can draw from: under a condition, and
under guidance, whose D is no posterior mean of data. The network is asked for nothing but plain samples.
"""

import math
from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steering.numerics.noise import Noise
from steering.paths import Path
from steering.plans.compile import compile_plan
from steering.plans.plan import Plan, Stage
from steering.sampling.rows import Rows
from steering.sampling.sampler import Guided, Problem, Tilt, guided
from steering.solvers import SOLVERS

IMAGES, VECTORS = 256, 2048
"""Draws of a record. In 32 dimensions 256 leave 19 to 66% of the unsteered distance to the tilted law, 1,024 leave 8
to 12%, 2,048 leave 4 to 11%."""
STEPS = 20
"""Stages of a record."""
MOST_BYTES = 2**28
"""A record of large events keeps fewer levels, so that its residuals stay below this."""
SEED = 0x7117
ON_LEVEL = 1e-6
"""Log-SNRs this close are one level."""
MOST_FALL = 0.9
"""Of a move's mean square to the next one's, beyond the last."""
LEAST = 1e-9
"""The least root mean square that is told from 0."""


@dataclass(frozen=True, eq=False)
class Draws:
    """K draws of one law, and how far their denoised estimates were from where they ended.

    It depends on the model, its condition, guidance and null condition, and on nothing else: stages of another plan are
    between its levels.

    Attributes:
        log_snr: levels [S], increasing: from noise to data.
        rms: root mean square of x_0 - D there [S].
        residuals: what each draw's estimate still had to go, divided by its root mean square, [S - 1, K, d] in float16,
            of which 5e-4 is nothing beside its spread. The last level has none: its estimates are where draws end.
        x0: the draws [K, *event].
    """

    log_snr: Float64[Tensor, " s"]
    rms: Float64[Tensor, " s"]
    residuals: Float[Tensor, "s-1 k d"]
    x0: Float[Tensor, "k *event"]

    @classmethod
    def of(
        cls, log_snr: Float64[Tensor, " s"], denoised: Float[Tensor, "s k d"], x0: Float[Tensor, "k *event"]
    ) -> "Draws":
        """From the denoised estimates of all levels.

        D is a martingale of the time-reversed process, so E |x_0 - D|^2 is the sum of the mean squares of its later
        moves. The sampler ends before the last of them: they go on falling as they did.
        """
        if denoised.shape[:2] != (len(log_snr), len(x0)) or len(x0) < 2 or len(log_snr) < 3:
            raise ValueError(
                f"draws: expected estimates of two draws or more at three levels or more, got {list(denoised.shape)} "
                f"for {len(x0)} draws at {len(log_snr)} levels"
            )
        moves = [_mean_square(later - each) for each, later in zip(denoised[-3:-1], denoised[-2:], strict=True)]
        fall = min(moves[1] / max(moves[0], LEAST**2), MOST_FALL)
        left = moves[1] * fall / (1 - fall)
        square = torch.tensor([_mean_square(denoised[-1] - each) for each in denoised[:-1]], dtype=torch.float64)
        rms = torch.cat([square, torch.zeros(1, dtype=torch.float64)]).add(left).sqrt()
        shapes = [
            ((denoised[-1] - each) / max(float(its) ** 0.5, LEAST)).to(torch.float16)
            for each, its in zip(denoised[:-1], square, strict=True)
        ]
        return cls(log_snr, rms, torch.stack(shapes), x0)

    @property
    def bytes(self) -> int:
        """Held by the tensors."""
        return sum(each.nbytes for each in (self.log_snr, self.rms, self.residuals, self.x0))

    def between(self, log_snr: float) -> tuple[int, float]:
        """(i, w) such that a log-SNR is (1 - w) of level i and w of level i + 1; w is 0 on a level and beyond all."""
        levels = self._levels
        i = bisect_right(levels, log_snr + ON_LEVEL) - 1
        if i < 0 or i == len(levels) - 1 or log_snr <= levels[i] + ON_LEVEL:
            return max(i, 0), 0.0
        return i, (log_snr - levels[i]) / (levels[i + 1] - levels[i])

    def variance(self, path: Path, t: float) -> float:
        """V(t) as measured on the draws; implements `Variance`."""
        return self.rms_at(float(path.log_snr(t))) ** 2

    def rms_at(self, log_snr: float) -> float:
        """Root mean square of x_0 - D, log-linear between levels and constant beyond them."""
        i, w = self.between(log_snr)
        logs = [math.log(max(self._rms[j], LEAST)) for j in (i, min(i + 1, len(self._rms) - 1))]
        return math.exp((1 - w) * logs[0] + w * logs[1])

    @cached_property
    def _levels(self) -> list[float]:
        return self.log_snr.tolist()

    @cached_property
    def _rms(self) -> list[float]:
        return self.rms.tolist()


def enough(event: Sequence[int]) -> int:
    """Draws of a record of events of this shape."""
    return IMAGES if len(event) > 1 else VECTORS


def record(problem: Problem, draws: int | None = None, seed: int = SEED) -> Generator[Rows, Tensor, Draws]:
    """Draw from the law of a problem's first sample: its condition, guidance and null. Yields network rows, 20 a draw.

    A pure function of the model, that law and the seed: the plan is one of its own, on the problem's path. Without a
    number of `draws` there are `enough`.
    """
    draws = enough(problem.event) if draws is None else draws
    rows = torch.zeros(draws, dtype=torch.int64)
    alike = problem.rows(rows) if problem.condition else problem
    plan = recording_plan(problem.plan)
    whole = replace(alike, plan=plan, dtype=torch.float32, show_every=0, show_path=False)
    stages = _kept(plan, problem.event, draws)
    keeping = _Keeping(frozenset(stage.index for stage in stages))
    x0, _ = yield from guided(whole, Noise(seed, range(draws)), keeping.ready(), None)
    return Draws.of(_levels(stages), torch.stack(keeping.denoised), x0)


def levels(problem: Problem, draws: int) -> Float64[Tensor, " s"]:
    """The log-SNRs [S] of what `record` makes of a problem, of so many draws."""
    return _levels(_kept(recording_plan(problem.plan), problem.event, draws))


def recording_plan(plan: Plan) -> Plan:
    """How draws are recorded: by the time-reversed process, in 20 steps."""
    return compile_plan(
        SOLVERS, "sde_dpmpp_2m", path=plan.path, steps=STEPS, prediction=plan.prediction,
        preconditioning=plan.preconditioning, sigma_data=plan.sigma_data, trained=plan.trained, limit=plan.limit,
        end=plan.end,
    )  # fmt: skip


def _kept(plan: Plan, event: tuple[int, ...], draws: int) -> list[Stage]:
    """The stages of a recording plan whose estimates are kept."""
    stages = [stage for stage in plan.stages if math.isfinite(stage.update.at.log_snr)]
    most = max(3, MOST_BYTES // (2 * draws * math.prod(event)))
    if len(stages) > most:
        stages = [stages[round(i * (len(stages) - 1) / (most - 1))] for i in range(most)]
    return stages


def _levels(stages: list[Stage]) -> Float64[Tensor, " s"]:
    return torch.tensor([stage.update.at.log_snr for stage in stages], dtype=torch.float64)


def _mean_square(x: Tensor) -> float:
    return float(x.to(torch.float64).square().mean())


class _Keeping(Tilt):
    """Keeps the denoised estimates [n, d] of some stages, and changes none."""

    def __init__(self, stages: frozenset[int]) -> None:
        self.stages = stages
        self.denoised: list[Tensor] = []

    def ready(self) -> Generator[Rows, Tensor, "_Keeping"]:
        yield from ()
        return self

    def steer(self, stage: Stage, x: Tensor, denoised: Tensor, noise: Noise) -> Generator[Rows, Tensor, Guided]:
        """Implements `Tilt.steer`."""
        yield from ()
        if stage.index in self.stages:
            self.denoised.append(denoised.flatten(1))
        return Guided(denoised)
