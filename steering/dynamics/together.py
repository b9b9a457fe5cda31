"""Several copies of each trajectory, solved with the same steps.

Copies that start, or whose parameters lie, a little apart are subtracted. Each by itself they would choose other steps,
and the difference of their errors, of the size of the tolerance, would be divided by the small distance. So the k
copies of a trajectory are one trajectory with a state of [k, *state], and its rows are k rows of the model.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution
from steering.errors import PlanError


def no_copies(solver: Solver) -> str:
    """Why a solver is none for copies; empty if it is one."""
    if solver.matrices or solver.memory or "ode" not in solver.kinds:
        return f"solver {solver.name!r}: expected an explicit one, whose copies can share steps"
    return ""


def together(
    solver: Solver, problem: Problem, y0: Tensor, extra: Mapping[str, Tensor] | None = None
) -> Program[Solution]:
    """Solve from y0 [n, k, *state] instead of the problem's; y of the solution is [n, T, k, *state].

    Args:
        extra: further inputs of the copies' rows, [k, ...] by role.

    Raises:
        PlanError: the solver or the problem is none for copies.
    """
    if why := no_copies(solver):
        raise PlanError(why)
    if problem.events:
        raise PlanError("events: expected none, where trajectories are compared with their neighbours")
    copies = y0.shape[1]
    program = solver.program(replace(problem, y0=y0, step_graph=False))
    return _spread(program, copies, dict(extra or {}))


def _spread(program: Program[Solution], copies: int, extra: Mapping[str, Tensor]) -> Generator[Ask, Reply, Solution]:
    try:
        ask = next(program)
        while True:
            if ask.part == "saved":
                first = ask.y[:, 0]
                reply = yield Ask("saved", ask.index, first, ask.t, ask.extra)
                ask = program.send(reply)
                continue
            m = len(ask)
            mine = {name: value.repeat(m, *(1,) * (value.ndim - 1)) for name, value in extra.items()}
            theirs = {name: value.repeat_interleave(copies, 0) for name, value in ask.extra.items()}
            reply = yield Ask(
                ask.part,
                ask.index.repeat_interleave(copies),
                ask.y.flatten(0, 1),
                ask.t.repeat_interleave(copies),
                {**theirs, **mine},
            )
            ask = program.send({role: value.unflatten(0, (m, copies)) for role, value in reply.items()})
    except StopIteration as stop:
        solution: Solution = stop.value
        return replace(solution, evaluations=solution.evaluations * copies)


def widths(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Distances for central differences of a field of this type: cube root of its precision, times the size of y."""
    return torch.finfo(dtype).eps ** (1 / 3) * y.abs().clamp(min=1.0)
