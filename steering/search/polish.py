"""Continuous refinement of a program: its gaps and its weights, by Levenberg-Marquardt on the end points.

The end points' distance to the reference is a nonlinear least-squares problem in few numbers: N gaps, and the
relaxations of N steps. A forward-only network has no gradient, but differences of end points give every column of the
Jacobian for one run of the plan each, all of them in lockstep, and Broyden's update (1965) keeps it good for a few
iterations. Fitting a solver's weights to a fine solver's end points is the idea of S4S (Frankel et al. 2025,
arXiv:2502.17423).
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.plans.plan import Plan
from steering.plans.program import Program
from steering.sampling.rows import Rows
from steering.search.moves import from_gaps, gaps
from steering.search.trial import Compiler, Trial, compiler

Vector = Float64[Tensor, " parameters"]
DIFFERENCE = 2e-3
"""Step of the finite differences: float32 networks give three digits of a derivative."""
DIGITS = 9
"""Decimals kept of every number: far below what matters, and above what the order of summation changes."""
LARGEST = 0.5
"""Most that one iteration changes a number."""
REUSED = 4
"""Most iterations with one Jacobian."""
DAMPINGS = (0.1, 1.0, 10.0)


def vector(program: Program) -> Vector:
    """Logarithms of the gaps, then the relaxations of every step's evaluations."""
    numbers = [math.log(gap) for gap in gaps(program)]
    for i, choice in enumerate(program.choices):
        count = min(choice.order, i + 1)
        numbers += (*choice.relaxation, *(0.0,) * count)[:count]
    return torch.tensor(numbers, dtype=torch.float64)


def program_of(numbers: Vector, like: Program) -> Program:
    """The inverse of `vector`, for a program of the same choices."""
    n = like.steps
    relaxations = iter(numbers[n:].tolist())
    choices = [
        replace(choice, relaxation=tuple(next(relaxations) for _ in range(min(choice.order, i + 1))))
        for i, choice in enumerate(like.choices)
    ]
    return from_gaps(torch.exp(numbers[:n] - numbers[:n].max()).tolist(), choices)


def polished(program: Program, trial: Trial, iterations: int, weights: bool) -> Generator[Rows, Tensor, list[Program]]:
    """The programs passed on the way, the last of them the nearest to the trial's reference.

    Args:
        iterations: Jacobians.
        weights: fit relaxations too, not the gaps alone.
    """
    compiled = compiler(trial.problem.plan)
    x, damping = vector(program), 1e-2
    free = len(x) if weights else program.steps
    steps = DIFFERENCE * torch.eye(len(x), dtype=torch.float64)[:free]
    passed = [program]

    def plans(points: Sequence[Vector]) -> list[Plan | None]:
        return [_compiled(compiled, point, program) for point in points]

    (end,) = yield from _ends(trial, plans([x]))
    for _ in range(iterations if end is not None else 0):
        residual = _residual(end, trial)
        columns = yield from _ends(trial, plans([x + step for step in steps]))
        jacobian = torch.stack([_slope(column, residual, trial) for column in columns])
        for _ in range(REUSED):
            normal, slope = jacobian @ jacobian.T, jacobian @ residual
            scale = torch.diag(normal.diagonal() + 1e-9 * normal.diagonal().max())
            moves = [torch.linalg.lstsq(normal + damping * d * scale, -slope).solution for d in DAMPINGS]
            points = [x + torch.nn.functional.pad(m.clamp(-LARGEST, LARGEST), (0, len(x) - free)) for m in moves]
            points = [point.round(decimals=DIGITS) for point in points]
            ends = yield from _ends(trial, plans(points))
            errors = [trial.error(each) for each in ends]
            best = min(range(len(points)), key=errors.__getitem__)
            if not errors[best] < trial.error(end):
                damping *= 10
                break
            move, before = (points[best] - x)[:free], residual
            x, end, residual = points[best], ends[best], _residual(ends[best], trial)
            jacobian += torch.outer(move, residual - before - move @ jacobian) / (move @ move)
            damping = max(damping * DAMPINGS[best], 1e-8)
            passed.append(program_of(x, program))
    return passed


def _compiled(compiled: Compiler, point: Vector, like: Program) -> Plan | None:
    """The plan of a point, None where two nodes fell together."""
    try:
        return compiled("searched", like.steps, program=program_of(point, like))
    except PlanError:
        return None


def _ends(trial: Trial, plans: Sequence[Plan | None]) -> Generator[Rows, Tensor, list[Tensor | None]]:
    ends = iter((yield from trial.run([plan for plan in plans if plan is not None])))
    return [None if plan is None else next(ends) for plan in plans]


def _residual(end: Tensor | None, trial: Trial) -> Float64[Tensor, " numbers"]:
    assert end is not None
    return (end - trial.ends).flatten().to(torch.float64)


def _slope(end: Tensor | None, residual: Tensor, trial: Trial) -> Float64[Tensor, " numbers"]:
    """A column of the Jacobian; nothing where the changed plan diverged, so that the number stays."""
    return torch.zeros_like(residual) if end is None else (_residual(end, trial) - residual) / DIFFERENCE
