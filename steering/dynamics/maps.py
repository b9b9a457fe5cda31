"""Maps from one state to the next: emulators, recurrent cells in continuous time, decoders of fixed-size state.

Without `dt` a map is applied once from each time to the next, and told how long that is: dt [m, 1], which recurrent
cells take (a batch of steps of unequal length [m, T] would mix rows). With `dt` each application is a step of that
length, so the times asked for must be whole numbers of them apart; that is what emulators of fixed steps are served
with. Time in a row "t" is where the step begins. Equal times are no step.

A control's values as they were last observed, at the step's end or before, are the row's "dx": what a recurrent cell
reads, or the forcing of an emulator. `conserve` takes out what a step adds to a weighted sum, see `conserve.py`.
"""

import math
from collections.abc import Generator

import numpy as np
import torch

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.conserve import Conserved
from steering.dynamics.course import Course, Floats, Index
from steering.dynamics.parts import by_parts
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution
from steering.errors import NetworkError, PlanError
from steering.plans.plan import Option

ROUNDING = 1e-6
"""How far from a whole number of dt two times may be, as a part of dt."""


def _program(problem: Problem) -> Program[Solution]:
    course = Course(problem)
    parts = _parts(problem, course.times)
    if problem.control is not None and problem.t_eval.shape[1] > 1:
        problem.control.covers(problem.t_eval[:, 1], problem.t_eval[:, -1])
    conserved = None
    if problem.conserve is not None:
        weights = problem.conserve.reshape(-1).numpy()
        conserved = Conserved(weights, course.y.copy(), bool(problem.options["multiplicative"]))
    active = yield from course.begin()

    def advance(index: Index, end: Floats, step: Floats) -> Generator[Ask, Reply, Floats]:
        after = yield from _applied(course, index, end, step)
        return after if conserved is None else conserved.kept(index, after)

    return (yield from by_parts(course, active, parts, advance))


def _applied(course: Course, active: Index, end: Floats, step: Floats) -> Generator[Ask, Reply, Floats]:
    """The next states [m, d]."""
    extra = {"dt": torch.from_numpy(step)[:, None], "position": torch.from_numpy(course.accepted[active])}
    if course.problem.control is not None:
        extra["dx"] = course.problem.control.held(torch.from_numpy(active), torch.from_numpy(end))
    course.evaluations[active] += 1
    reply = yield course.ask("field", active, course.t[active], course.y[active], **extra)
    if "next" not in reply:
        raise NetworkError(f"field: expected next of a map, got {', '.join(reply)}")
    return course.flat(reply["next"])


def _parts(problem: Problem, times: Floats) -> Index:
    """How often the map is applied between neighbouring times [n, T - 1]."""
    spans = np.diff(times, axis=1)
    if problem.dt is None:
        return np.ones(spans.shape, np.int64)
    if (spans < 0).any():
        row = int(np.flatnonzero((spans < 0).any(axis=1))[0])
        raise PlanError(f"t_eval: expected rising times for a map with steps of dt, got falling ones in row {row}")
    steps = spans / problem.dt.numpy()[:, None]
    whole = np.round(steps)
    off = (np.abs(steps - whole) > ROUNDING) & (whole <= problem.max_steps)
    if off.any():
        row, place = (int(each[0]) for each in off.nonzero())
        raise PlanError(
            f"t_eval: expected times whole numbers of dt {float(problem.dt[row]):g} apart, got {spans[row, place]:g} "
            f"in row {row}"
        )
    return np.clip(whole, 1, problem.max_steps + 1).astype(np.int64)


SOLVER = Solver(
    name="map",
    kinds=("map",),
    order=math.inf,
    adaptive=False,
    rows=1,
    about="the map itself, from each time to the next or in steps of dt",
    options={
        "multiplicative": Option("keep what is conserved by a factor (1), or by adding (0)", 0, high=1, whole=True)
    },
    program=_program,
)
