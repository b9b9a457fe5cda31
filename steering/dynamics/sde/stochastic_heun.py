"""Heun's scheme for Stratonovich equations: trapezoids over a predicted state, two rows a step.

Rümelin 1982, "Numerical treatment of stochastic differential equations". Strong order 1 where noise commutes (additive,
scalar, diagonal with g_i of y_i alone), else 1/2.
"""

from collections.abc import Generator

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.sde.laws import Amplitude, States, column
from steering.dynamics.sde.walk import Evaluate, Slopes, Step, additive, only_plain, walking
from steering.errors import PlanError


def _step(step: Step, evaluate: Evaluate) -> Generator[Ask, Reply, tuple[States, Slopes | None]]:
    y, first = step.y, step.slopes
    predicted = y + column(step.h, y) * first.drift + first.diffusion.times(step.dw)
    return trapezoid(step, (yield from evaluate(step.t + step.h, predicted))), None


def trapezoid(step: Step, last: Slopes) -> States:
    """The state after a step whose slopes are the means of those at both ends."""
    first = step.slopes
    g = first.diffusion
    mean = Amplitude((g.values + last.diffusion.values) / 2, g.sources, g.matrix)
    return step.y + column(step.h / 2, step.y) * (first.drift + last.drift) + mean.times(step.dw)


def check(name: str, problem: Problem) -> None:
    only_plain(name)(problem)
    if problem.calculus == "ito" and not additive(problem):
        raise PlanError(
            f"solver {name!r}: expected calculus stratonovich or additive noise, got ito: see euler_maruyama, milstein"
        )


SOLVER = Solver(
    name="stochastic_heun",
    kinds=("sde",),
    order=1,
    weak_order=1,
    adaptive=False,
    rows=2,
    about="Heun's scheme for Stratonovich equations (Rümelin 1982), two rows a step",
    program=walking(_step, lambda problem: check("stochastic_heun", problem)),
)
