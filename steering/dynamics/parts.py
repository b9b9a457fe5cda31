"""Steps that are equal parts of the intervals between a trajectory's times: every time asked for is the end of one."""

from collections.abc import Callable, Generator

import numpy as np

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.course import Course, Floats, Index
from steering.dynamics.problem import Problem
from steering.dynamics.solution import Solution, Status

ROUNDING = 1e-9
"""An interval that is a whole number of dt but for this part is cut into that number."""

Advance = Callable[[Index, Floats, Floats], Generator[Ask, Reply, Floats]]
"""From trajectories and the ends [m] of their steps, which begin at `course.t`, and these steps' lengths [m], to the
states there [m, d]; a trajectory whose state is not finite has failed."""


def parts_of(problem: Problem, spans: Floats) -> Floats:
    """Into how many steps each interval between times [n, T - 1] is cut: as long as `dt` or shorter; one without."""
    if problem.dt is None:
        return np.ones_like(spans)
    return np.maximum(np.ceil(np.abs(spans) / problem.dt.numpy()[:, None] * (1 - ROUNDING)), 1)


def by_parts(course: Course, active: Index, parts: Floats | Index, advance: Advance) -> Program[Solution]:
    """Takes the trajectories, begun, through `parts` [n, T - 1] steps of each of their intervals."""
    spans = np.diff(course.times, axis=1)
    done = np.zeros(course.problem.n)  # steps of the present interval
    while len(active):
        interval = course.count[active] - 1
        start, span, of = course.times[active, interval], spans[active, interval], parts[active, interval]
        nth = done[active] + 1
        end = np.where(nth == of, course.times[active, interval + 1], start + span * (nth / of))
        after = yield from advance(active, end, end - course.t[active])
        finite = np.isfinite(after).all(axis=1)
        course.fail(active[~finite], Status.NOT_FINITE)
        onward = active[finite]
        course.accepted[onward] += 1
        done[onward] = np.where(nth == of, 0, nth)[finite]
        yield from course.reach(onward, end[finite], after[finite])
        going = course.count[onward] < course.times.shape[1]
        over = going & (course.accepted[onward] >= course.problem.max_steps)
        course.fail(onward[over], Status.MAX_STEPS)
        active = onward[going & ~over]
    return course.solution()
