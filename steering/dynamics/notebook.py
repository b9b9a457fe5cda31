"""Studies of a field that is a function of this process: sensitivities, and fits of its parameters."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steering.dynamics.fit import Fitted, fitting
from steering.dynamics.problem import Problem, Solver, pose
from steering.dynamics.run import Field, answering
from steering.dynamics.sensitivity import Stretching, stretching
from steering.dynamics.table import SOLVERS
from steering.errors import PlanError, choose
from steering.sampling.rows import answered


def ftle(
    field: Field,
    y0: Tensor,
    t_eval: Tensor | Sequence[float],
    *,
    solver: str = "tsit5",
    rtol: float = 1e-8,
    atol: float = 1e-8,
    width: float | None = None,
    condition: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Stretching:
    """Finite-time Lyapunov exponents of dy/dt = field(y, t, **condition) from y0 [n, *state] to each of the times.

        ridges = ftle(field, points, [0.0, 15.0]).exponents[:, -1, 0]

    See `sensitivity`, and `solve` for the arguments.
    """
    chosen, problem = _posed(solver, y0, t_eval, rtol, atol, dtype)
    return answered(stretching(chosen, problem, width), answering(problem, field, condition=condition))


def fit(
    field: Field,
    y0: Tensor,
    t_eval: Tensor | Sequence[float],
    observed: Tensor,
    start: Mapping[str, Tensor],
    *,
    sigma: float | Tensor = 1.0,
    lower: Mapping[str, Tensor] | None = None,
    upper: Mapping[str, Tensor] | None = None,
    solver: str = "tsit5",
    rtol: float = 1e-8,
    atol: float = 1e-8,
    tolerance: float = 1e-8,
    max_iterations: int = 50,
    condition: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Fitted, Mapping[str, Tensor]]:
    """Fit arguments of field(y, t, **condition, **parameters) to trajectories observed [n, T, *state], NaN where not.

        fitted, parameters = fit(lambda y, t, rate: -rate * y, y0, times, seen, {"rate": torch.ones(1)})

    The field is given a parameter of shape [*s] as rows [m, *s]. See `fit.fitting`, and `solve` for the arguments.
    """
    chosen, problem = _posed(solver, y0, t_eval, rtol, atol, dtype)
    program = fitting(
        chosen, problem, observed, start, sigma=sigma, lower=lower, upper=upper, tolerance=tolerance,
        max_iterations=max_iterations,
    )  # fmt: skip
    return answered(program, answering(problem, field, condition=condition))


def _posed(
    solver: str, y0: Tensor, t_eval: Tensor | Sequence[float], rtol: float, atol: float, dtype: torch.dtype
) -> tuple[Solver, Problem]:
    if solver not in SOLVERS:
        raise PlanError(choose("solver", solver, SOLVERS))
    return SOLVERS[solver], pose(SOLVERS[solver], y0, t_eval, rtol=rtol, atol=atol, dtype=dtype)
