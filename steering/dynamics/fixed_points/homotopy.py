"""Fixed points as rest points of z' = f(z) - z, solved as an ODE (Ding, Cui, Wang & Shao 2023, "Two sides of the same
coin: bridging deep equilibrium models and neural ODEs via homotopy continuation").

It converges where every eigenvalue of f's Jacobian has a real part below 1, also where the iteration itself turns ever
faster away (eigenvalues near -2, say). The ODE is solved by `tsit5` over pseudo-times 0..1, 1..3, 3..7 and so on, with
the tolerances asked for; after each span residuals are measured.
"""

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.course import Index
from steering.dynamics.fixed_points.search import Search
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.runge_kutta import SOLVERS
from steering.dynamics.solution import Solution, Status

_SOLVE = next(solver for solver in SOLVERS if solver.name == "tsit5").program


def _program(problem: Problem) -> Program[Solution]:
    search = Search(problem)
    active = yield from search.begin()
    while len(active):
        yield from _flowed(search, active)
        active = yield from search.settled(active)
    return search.solution()


def _flowed(search: Search, active: Index) -> Generator[Ask, Reply, None]:
    """Follow the flow until each trajectory has converged or failed; spans double."""
    span, course, steps = 1.0, search.course, np.zeros(search.problem.n, np.int64)
    while True:
        _, going = yield from search.measured(active)
        over = going & (steps[active] >= search.problem.max_steps)
        course.fail(active[over], Status.NOT_CONVERGED)
        active = active[going & ~over]
        if not len(active):
            return
        solution = yield from _span(search, active, span)
        steps[active] += (solution.accepted + solution.rejected).numpy()
        course.evaluations[active] += solution.evaluations.numpy()
        course.accepted[active] += solution.accepted.numpy()
        course.rejected[active] += solution.rejected.numpy()
        search.z[active] = solution.y_last.reshape(len(active), -1).numpy()
        failed = (solution.status != Status.OK).numpy()
        course.status[active[failed]] = np.where(
            solution.status.numpy()[failed] == Status.MAX_STEPS, Status.NOT_CONVERGED, solution.status.numpy()[failed]
        )
        active = active[~failed]
        if not len(active):
            return
        span *= 2


def _span(search: Search, active: Index, span: float) -> Program[Solution]:
    """z' = f(z) - z of some trajectories."""
    problem, index = search.problem, torch.from_numpy(active)
    state = torch.from_numpy(search.z[active]).reshape(-1, *problem.state)
    inner = replace(
        problem,
        kind="ode",
        y0=state,
        t_eval=torch.tensor([0.0, span], dtype=torch.float64).expand(len(active), 2).contiguous(),
        rtol=problem.rtol[index],
        atol=problem.atol[index],
        dt0=None if problem.dt0 is None else problem.dt0[index],
        dt=None,
        indices=problem.indices[index],
        show=False,
    )
    steps = _SOLVE(inner)
    time = torch.from_numpy(search.time)
    try:
        ask = next(steps)
        while True:
            rows = index[ask.index]
            reply = yield replace(ask, index=rows, t=time[rows])
            ask = steps.send({"drift": reply["next"].to(torch.float64).reshape(ask.y.shape) - ask.y})
    except StopIteration as stop:
        solution: Solution = stop.value
        return solution


SOLVER = Solver(
    name="homotopy",
    kinds=("fixed_point",),
    order=5,
    adaptive=True,
    about="the flow z' = f(z) - z to its rest (Ding et al. 2023), by tsit5; also where the iteration itself diverges",
    program=_program,
)
