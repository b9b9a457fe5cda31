"""q(x_0 | x_t) by the network itself: the rest of the time-reversed process, in a few steps, for every candidate.

Exact as the steps grow (the posterior of DOIT's algorithm 1), and as dear: (steps - 1) * candidates network rows a
stage, since all candidates begin at the stage's own state, whose estimate is known. The roll-outs draw noise (eta = 1):
a deterministic one would end where the flow ends, which is no draw of the posterior.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from steering.numerics.noise import Draw, Noise
from steering.plans.compile import compile_plan
from steering.plans.plan import Stage
from steering.posteriors.calibration import Uncalibrated
from steering.posteriors.local import Candidates, Variance
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, evaluate, finite
from steering.solvers import SOLVERS


@dataclass(frozen=True)
class Rollout:
    """`steps` - 1 network rows a candidate: the first step is made with the stage's own denoised estimate."""

    steps: int
    calibration: Variance | None = None

    def calibrated(self, calibration: Variance) -> "Rollout":
        """Implements `Local.calibrated`; its draws do not depend on it."""
        return replace(self, calibration=calibration)

    def draw(
        self,
        problem: Problem,
        stage: Stage,
        x: Float[Tensor, "n d"],
        centre: Float[Tensor, "n d"],
        pairs: int,
        noise: Noise,
    ) -> Generator[Rows, Tensor, Candidates]:
        """Implements `Local.draw`: independent draws, centred, since D is known better than their mean."""
        plan, n, m = problem.plan, len(x), 2 * pairs
        path = plan.path.finite
        if stage.t <= path.t_min:  # correctors look at the end itself
            return Candidates.pairs(torch.zeros(n, pairs, x.shape[1], dtype=x.dtype))
        ends = torch.tensor([min(stage.t, path.t_max), path.t_min], dtype=torch.float64)
        first, last = path.log_snr(ends).tolist()
        between = torch.linspace(first, last, self.steps + 1, dtype=torch.float64)[1:-1]
        times = [stage.t, *path.time_of_log_snr(between).tolist(), path.t_min]
        rest = compile_plan(
            SOLVERS, "ddim", path=plan.path, steps=self.steps, prediction=plan.prediction, grid=tuple(times), eta=1.0,
            preconditioning=plan.preconditioning, sigma_data=plan.sigma_data, trained=plan.trained,
            limit=plan.limit,
        )  # fmt: skip
        rows = torch.arange(n).repeat_interleave(m)
        inner = Noise(noise.seed ^ (stage.index + 1) << 40, [])
        inner.indices = noise.indices[rows] * m + torch.arange(m).repeat(n)
        whole = replace(problem.rows(rows), plan=rest, show_every=0, show_path=False)
        registers, known = ([each[rows].reshape(n * m, *problem.event)] for each in (x, centre))
        for step in rest.stages:
            at_hand = known.pop() if known and step.t == stage.t else None
            denoised = (yield from evaluate(whole, step.denoise, registers[0])) if at_hand is None else at_hand
            z = [inner.normal(step.index, Draw.SOLVER + k, problem.event, x.dtype) for k in range(step.draws)]
            registers = step.advance(registers, denoised, z)
        finite(whole, registers[0])
        return Candidates.centred(registers[0].reshape(n, m, -1))


def rollout(steps: int = 4) -> Rollout:
    """The roll-out posterior; `steps` in 2..100."""
    if not 2 <= steps <= 100:
        raise ValueError(f"rollout: expected steps in 2..100, got {steps}")
    return Rollout(steps, Uncalibrated())
