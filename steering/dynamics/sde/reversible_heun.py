"""Reversible Heun for Stratonovich equations: Heun's accuracy at one row a step, with a second state carried along.

Kidger, Foster, Li & Lyons 2021, "Efficient and accurate gradients for neural SDEs", algorithm 1. A step is undone by
one from its end over -h and -dW to rounding, as long as both states are kept; solutions have the first alone.
"""

from collections.abc import Generator

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Solver
from steering.dynamics.sde.laws import States, column
from steering.dynamics.sde.stochastic_heun import check, trapezoid
from steering.dynamics.sde.walk import Evaluate, Slopes, Step, walking


def _step(step: Step, evaluate: Evaluate) -> Generator[Ask, Reply, tuple[States, Slopes | None]]:
    y, first = step.y, step.slopes
    moved = column(step.h, y) * first.drift + first.diffusion.times(step.dw)
    last = yield from evaluate(step.t + step.h, 2 * y - first.at + moved)
    return trapezoid(step, last), last


SOLVER = Solver(
    name="reversible_heun",
    kinds=("sde",),
    order=1,
    weak_order=1,
    adaptive=False,
    rows=1,
    about="reversible Heun for Stratonovich equations (Kidger et al. 2021), one row a step",
    program=walking(_step, lambda problem: check("reversible_heun", problem)),
)
