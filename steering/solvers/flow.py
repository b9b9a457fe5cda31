"""Methods on dx/dt = u(x, t) in the path's own time, as flow matching samples (Lipman et al. 2023, arXiv:2210.02747).

    u = alpha' D + sigma' eps,   eps = (x - alpha D) / sigma

    flow_euler         x_t = x_s + h u_s
    flow_ab2           x_t = x_s + h ((1 + h / 2 h') u_s - h / 2 h' u'),   u', h' those of the step before
    interpolant_ode    x_m = x_s + h / 2 u_s,   x_t = x_s + h u_m,         m the middle of the step
    flow_heun          x' = x_s + h u_s,        x_t = x_s + h / 2 (u_s + u(x', t)),   Euler's step in the last interval

Where alpha and sigma are linear in t (rectified flow, EDM), flow_euler is `euler` and like it exact for a constant D.
On Gaussian data the leading error of the midpoint rule vanishes there, and in rho on every path: order 3 instead of 2.
The grid is uniform in t, which suits paths on which t is bounded; on EDM's ask for another.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

from steering.plans.plan import Course, Solver, Update
from steering.solvers.coordinates import TIME
from steering.solvers.runge_kutta import EULER, HEUN, MIDPOINT, updates


def adams_bashforth(course: Course) -> Iterator[Update]:
    """The two-step method; the first step, without a past, is Euler's, which leaves the order 2."""
    before = None
    for s, t in pairwise(TIME.points(course)):
        h = t.tau - s.tau
        past = 0.0 if before is None else h / (s.tau - before.tau) / 2
        new = h * (1 + past)
        state, slope = (1 + new * s.state, -h * past), (s.state, 0.0)
        width = 1 if before is None else 2
        yield Update(at=s.node, to=t.node, A=(state[:width], slope[:width]), b=(new * s.data, s.data))  # x, u
        before = s


def heun(course: Course) -> Iterator[Update]:
    """Heun's method, but for the last interval: at its end u divides by a sigma that is small, or 0."""
    *_, last, end = course.nodes
    if len(course.nodes) > 2:
        yield from updates(HEUN, TIME, replace(course, nodes=course.nodes[:-1]))
    yield from updates(EULER, TIME, replace(course, nodes=(last, end)))


MATCHING = "Lipman et al. 2023, arXiv:2210.02747"
INTERPOLANTS = "Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797"
IN_TIME = partial(Solver, default_grid="uniform", bounded=True)
SOLVERS = (
    IN_TIME(name="flow_euler", order=1, rows_per_step=1, reference=MATCHING, updates=partial(updates, EULER, TIME)),
    IN_TIME(name="flow_ab2", order=2, rows_per_step=1, reference=MATCHING, updates=adams_bashforth),
    IN_TIME(
        name="flow_heun",
        order=2,
        rows_per_step=2,
        reference=MATCHING,
        updates=heun,
        rows=lambda steps, options: 2 * steps - 1,
    ),
    IN_TIME(
        name="interpolant_ode",
        order=2,
        rows_per_step=2,
        reference=INTERPOLANTS,
        updates=partial(updates, MIDPOINT, TIME),
    ),
)
