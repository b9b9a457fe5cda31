"""Runs that can be undone: reversible Heun from a state and its shadow to a state and its shadow.

    y, yh = solve(march(Problem(plan=plan, event=event), x, x), network)          # there, as `run` does
    x, xh = solve(march(Problem(plan=reverse_plan, event=event), y, yh), network)  # and back, up to rounding

A plan in reverse, run on y alone, starts a fresh shadow and comes back only near x; with the old one the way back is
exact (Kidger et al. 2021, arXiv:2105.13493).
"""

import math
from collections.abc import Generator

from torch import Tensor

from steering.errors import PlanError
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, evaluate


def march(problem: Problem, state: Tensor, shadow: Tensor) -> Generator[Rows, Tensor, tuple[Tensor, Tensor]]:
    """State and shadow at the plan's last node from those at its first, [n, *event] each; a fresh shadow is the state.

    Raises:
        PlanError: the plan is not one of solver "reversible_heun".
    """
    plan, mean = problem.plan, problem.mean
    if plan.solver != "reversible_heun":
        raise PlanError(f"march: expected a plan of solver 'reversible_heun', got {plan.solver!r}")
    if plan.end == "denoise" or plan.nodes[-1].alpha == 0:
        raise PlanError(
            "march: expected a plan that ends with data and noise, got one that ends in D or in noise alone"
        )
    y, yh = ((x if mean is None else x - mean).to(problem.dtype) for x in (state, shadow))
    registers, split = [yh], y - yh
    for stage in plan.stages:
        denoised = yield from evaluate(problem, stage.denoise, registers[0])
        registers = stage.advance(registers, denoised)
        if stage.index == 0:  # its update took yh for y too; states scale with hypot(alpha, sigma)
            first, second = plan.nodes[:2]
            ratio = math.hypot(second.alpha, second.sigma) / math.hypot(first.alpha, first.sigma)
            registers = [registers[0] + split * (2 * ratio), registers[1] + split * ratio]
    y, yh = registers
    return (y, yh) if mean is None else (y + mean, yh + mean)
