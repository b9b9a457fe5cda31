"""Euler-Maruyama (Maruyama 1955), and what takes its place for linear and geometric forms (`forms.py`).

The chain that it draws is plain: y_next = y + f(y, t) h + g(y, t) dW, dW normal with variance |h|; `chain` is one step
of it for whoever draws dW otherwise.
"""

from collections.abc import Generator

from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Calculus, Form, Law, Problem, Solver
from steering.dynamics.sde import forms
from steering.dynamics.sde.laws import Amplitude, States, amplitude, column
from steering.dynamics.sde.walk import Evaluate, Slopes, Step, additive, walking
from steering.errors import PlanError


def chain(
    y: States,
    drift: States,
    diffusion: Tensor,
    h: Float64[Tensor, " m"],
    dw: Float64[Tensor, "m k"],
    *,
    noise: Law = "diagonal",
    form: Form = "plain",
    calculus: Calculus = "ito",
) -> States:
    """The next state of each row: where y + drift h + diffusion dW, or its form's step, leads.

    Args:
        y, drift: [m, *state].
        diffusion: as the graph gives it, see `laws.amplitude`, whose `sources` is the k of dw.
        h: the step, negative where time falls.
        dw: normal numbers of variance |h|, of each row and Brownian motion.
    """
    return _next(y, drift, amplitude(noise, diffusion, y), h, dw, form, calculus)


def _next(y: States, f: States, g: Amplitude, h: Tensor, dw: Tensor, form: Form, calculus: Calculus) -> States:
    if form == "linear":
        return forms.linear(y, f, g, h, dw, calculus)
    if form == "geometric":
        return forms.geometric(y, f, g, h, dw, calculus)
    return y + column(h, y) * f + g.times(dw)


def _step(step: Step, evaluate: Evaluate) -> Generator[Ask, Reply, tuple[States, Slopes | None]]:
    yield from ()  # nothing is asked for on the way
    slopes, problem = step.slopes, step.problem
    after = _next(step.y, slopes.drift, slopes.diffusion, step.h, step.dw, problem.form, problem.calculus)
    return after, None


def _check(problem: Problem) -> None:
    if problem.form in ("plain", "langevin") and problem.calculus == "stratonovich" and not additive(problem):
        raise PlanError(
            "solver 'euler_maruyama': expected calculus ito or additive noise, got stratonovich: see stochastic_heun"
        )


SOLVER = Solver(
    name="euler_maruyama",
    kinds=("sde",),
    order=0.5,
    weak_order=1,
    adaptive=False,
    rows=1,
    about="Euler-Maruyama, one row a step; linear and geometric forms by their stable steps, of strong order 1",
    program=walking(_step, _check),
)
