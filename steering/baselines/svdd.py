"""SVDD (Li et al. 2024, arXiv:2408.08252, alg. 1): candidates for every step's noise, one chosen by its value.

    y_m ~ p(x_t | x_s),  m = 1..M,     chosen with probability softmax(v(y_m) / beta),   v(y) = r(D(y))

The chosen candidate's D serves the next stage, so a sample takes 1 + M (N - 1) network rows. As M grows a step follows
p(x_t | x_s) exp(v / beta), which is the tilted kernel where v differs from beta log h by a constant and D(x_t) is
expected to be D(x_s): on steps of first order, such as `ddim` with eta 1. Multistep plans end short of the tilt.
"""

from collections import Counter
from collections.abc import Generator, Hashable

import torch
from torch import Tensor

from steering.errors import SteeringError, UnsuitableError
from steering.methods.aimed import Aimed
from steering.numerics.noise import Draw, Noise
from steering.numerics.resampling import systematic
from steering.numerics.weights import effective_size, softmax
from steering.plans.plan import Plan
from steering.sampling.rows import Rows, metered
from steering.sampling.sampler import Drawing, Problem, Report, Start, evaluate, first_state, unsteerable
from steering.targets.target import Reward, Target


class Svdd(Aimed):
    """Steering toward p(x_0) exp(reward(x_0) / beta) by choice among candidates. The plan must draw noise.

    Args:
        reward: scores denoised estimates and samples, [B, *event] -> [B].
        beta: temperature > 0 of the choice; smaller is greedier.
        candidates: M, at least 1.
        threshold: condition on reward >= threshold instead; beta is then not used.
        key: identifies the reward, see `Target`.
    """

    def __init__(
        self,
        reward: Reward,
        beta: float = 1.0,
        candidates: int = 8,
        *,
        threshold: float | None = None,
        key: Hashable = None,
    ) -> None:
        if not isinstance(candidates, int) or candidates < 1:
            raise SteeringError(f"candidates: expected an integer >= 1, got {candidates!r}")
        super().__init__(Target(reward, beta, threshold, key))
        self.candidates = candidates

    @property
    def held(self) -> int:
        """Implements `Steering.held`."""
        return self.candidates

    @property
    def stage_rows(self) -> int:
        """Network rows of a sample at a stage, at most."""
        return self.candidates

    def unsuitable(self, plan: Plan) -> str:
        """Why it cannot draw by a plan; empty if it can."""
        if plan.uses_noise:
            return ""
        return (
            f"solver {plan.solver!r} with eta {plan.eta:g} draws no noise to choose among: "
            "expected eta above 0, such as sde_dpmpp_2m or ddim with eta 1"
        )

    def draw(self, problem: Problem, noise: Noise, x_init: Start | None) -> Drawing:
        """Implements `Steering.draw`."""
        if why := unsteerable(problem.plan, problem.mean is not None) or self.unsuitable(problem.plan):
            raise UnsuitableError(why)
        report, meter = Report(), Counter[str]()
        x = yield from metered(self._march(problem, noise, first_state(problem, noise, None, x_init), report), meter)
        report.count(meter)
        return x, report

    def _march(self, problem: Problem, noise: Noise, x: Tensor, report: Report) -> Generator[Rows, Tensor, Tensor]:
        stages, n, m = problem.plan.stages, len(x), self.candidates
        whose, registers = torch.arange(n).repeat_interleave(m), [x]
        wide, sizes = problem.rows(whose), []
        denoised = yield from evaluate(problem, stages[0].denoise, x)
        for stage, following in zip(stages, [*stages[1:], None], strict=True):
            yield from problem.shown(stage, denoised)
            if not (stage.update.C and any(stage.update.C[0])):  # nothing to choose
                shape, first = problem.event, Draw.SOLVER
            else:
                shape, first = (m, *problem.event), Draw.CANDIDATES
            z = [noise.normal(stage.index, first + k, shape, x.dtype) for k in range(stage.draws)]
            if first == Draw.SOLVER:
                registers = stage.advance(registers, denoised, z)
                if following is not None:
                    denoised = yield from evaluate(problem, following.denoise, registers[0])
                continue
            moved = stage.advance([r[whose] for r in registers], denoised[whose], [each.flatten(0, 1) for each in z])
            ahead = moved[0]
            if following is not None:
                ahead = yield from evaluate(wide, following.denoise, moved[0])
            rewards = (yield from self.target.score(ahead)).reshape(n, m)
            report.no_hit += int((~self.target.hit(rewards)).sum())
            weights = softmax(self.target.log_weights(rewards))
            sizes.append(effective_size(weights))
            uniform = noise.uniform(stage.index, Draw.PICK, 1)
            chosen = systematic(weights, uniform, 1).squeeze(1) + torch.arange(n) * m
            registers, denoised = [r[chosen] for r in moved], ahead[chosen]
            report.rewards = rewards.flatten()[chosen] if following is None else None
        report.ess = torch.stack(sizes)
        report.methods["select"] = len(sizes) * n
        if report.rewards is None:
            report.rewards = yield from self.target.score(registers[0])
        return registers[0]
