"""Trials of plans: the distance of their end points to the exact flow's, from the same first states."""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steering.numerics.noise import START, Draw, Noise
from steering.plans.compile import compile_plan
from steering.plans.plan import Plan
from steering.plans.program import Choice, Program
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, sample
from steering.search.lockstep import lockstep
from steering.solvers import SOLVERS

REFERENCE_STEPS = 100
REFERENCE = Choice("data", 3, "log_snr", corrector=True)
PACK = 2**22
"""Most numbers in the states of the plans that run together."""


@dataclass(frozen=True, eq=False)
class Trial:
    """First states [n, *event] and where the probability flow takes them."""

    problem: Problem
    noise: Noise
    start: Tensor
    ends: Tensor

    def first(self, n: int) -> "Trial":
        """The trial on its first n states."""
        return Trial(
            self.problem.rows(slice(n)), self.noise[torch.arange(len(self.start))[:n]], self.start[:n], self.ends[:n]
        )

    def run(self, plans: Sequence[Plan]) -> Generator[Rows, Tensor, list[Tensor | None]]:
        """The plans' end points, None where a plan diverges."""
        found: list[Tensor | None] = []
        pack = max(1, PACK // self.start.numel())
        for together in (plans[i : i + pack] for i in range(0, len(plans), pack)):
            samplers = [sample(replace(self.problem, plan=plan), self.noise, x_init=self.start) for plan in together]
            found += [None if end is None else end[0] for end in (yield from lockstep(samplers))]
        return found

    def errors(self, plans: Sequence[Plan]) -> Generator[Rows, Tensor, list[float]]:
        """The plans' root mean square distances to the reference, infinite where a plan diverges."""
        return [self.error(end) for end in (yield from self.run(plans))]

    def error(self, end: Tensor | None) -> float:
        """To nine digits: plans that are one and the same are equally good, in whatever order sums were made."""
        distance = math.inf if end is None else float((end - self.ends).to(torch.float64).square().mean().sqrt())
        return float(f"{distance:.9g}") if math.isfinite(distance) else math.inf


Compiler = Callable[..., Plan]


def compiler(like: Plan) -> Compiler:
    """`compile(solver, steps, grid=..., program=...)` for the path and the network of another plan."""

    def compiled(solver: str, steps: int, **other: object) -> Plan:
        return compile_plan(
            SOLVERS, solver, path=like.path, trained=like.trained, steps=steps, prediction=like.prediction,
            preconditioning=like.preconditioning, sigma_data=like.sigma_data, limit=like.limit,
            **other,  # type: ignore[arg-type]
        )  # fmt: skip

    return compiled


def prepare(problem: Problem, seed: int, indices: range) -> Generator[Rows, Tensor, Trial]:
    """A trial on the first states of these samples of the seed.

    Args:
        problem: with conditions [1, ...] and a mean [1, *event], shared by all samples, where it has any.
    """
    n, noise = len(indices), Noise(seed, indices)
    condition = {name: value.expand(n, *value.shape[1:]) for name, value in problem.condition.items()}
    mean = None if problem.mean is None else problem.mean.expand(n, *problem.event)
    problem = replace(problem, condition=condition, mean=mean)
    start = noise.normal(START, Draw.SOLVER, problem.event, problem.dtype) * problem.plan.nodes[0].sigma
    start = start if mean is None else start + mean
    plan = compiler(problem.plan)(
        "searched", REFERENCE_STEPS, program=Program(even(REFERENCE_STEPS), (REFERENCE,) * REFERENCE_STEPS)
    )
    ends, _ = yield from sample(replace(problem, plan=plan), noise, x_init=start)
    return Trial(problem, noise, start, ends)


def even(steps: int) -> tuple[float, ...]:
    """Fractions with equal gaps."""
    return tuple(i / steps for i in range(steps + 1))
