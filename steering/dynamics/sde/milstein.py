"""Milstein's scheme without derivatives: g' g by one more evaluation, at y + f h + g sqrt(h).

Kloeden & Platen 1992, "Numerical solution of stochastic differential equations", equation 11.1.3. Strong order 1 for
additive noise (where it is Euler-Maruyama, and nothing more is evaluated), for scalar noise, and for diagonal noise
whose g_i depends on y_i alone.
"""

from collections.abc import Generator

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.sde.laws import Amplitude, States, column
from steering.dynamics.sde.walk import Evaluate, Slopes, Step, additive, only_plain, walking
from steering.errors import PlanError


def _step(step: Step, evaluate: Evaluate) -> Generator[Ask, Reply, tuple[States, Slopes | None]]:
    y, f, g = step.y, step.slopes.drift, step.slopes.diffusion
    euler = y + column(step.h, y) * f
    after = euler + g.times(step.dw)
    if additive(step.problem):
        return after, None
    root = step.h.abs().sqrt()
    support = yield from evaluate(step.t, euler + g.values * column(root, y))
    squares = step.dw * step.dw - step.h.abs()[:, None]
    change = Amplitude(support.diffusion.values - g.values, g.sources, g.matrix)
    return after + change.times(squares) / column(2 * root, y), None


def _check(problem: Problem) -> None:
    only_plain("milstein")(problem)
    if problem.noise == "general":
        raise PlanError("solver 'milstein': expected additive, diagonal or scalar noise, got general")
    if problem.calculus == "stratonovich" and not additive(problem):
        raise PlanError(
            "solver 'milstein': expected calculus ito or additive noise, got stratonovich: see stochastic_heun"
        )


SOLVER = Solver(
    name="milstein",
    kinds=("sde",),
    order=1,
    weak_order=1,
    adaptive=False,
    rows=2,
    about="Milstein's scheme without derivatives (Kloeden & Platen 11.1.3), two rows a step; no general noise",
    program=walking(_step, _check),
)
