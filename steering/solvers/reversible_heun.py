"""Reversible Heun (Kidger et al. 2021, arXiv:2105.13493, algorithm 1) on dy/dtau = v: every step can be undone exactly.

    yh_t = 2 y_s - yh_s + h v_s,   v_t = v(yh_t, t),   y_t = y_s + h (v_s + v_t) / 2,   h = tau_t - tau_s

One row a step, and one more for the first slope. With -h and from (y_t, yh_t) it leads back to (y_s, yh_s), up to
rounding: see `steering.reversible`. It damps nothing: where solutions contract by a factor, y - yh grows by it. Hence
ANGLE coordinates, in which data of variance 1 keep their size; in RHO the size falls from rho_max.
"""

from collections.abc import Iterator
from itertools import pairwise

from steering.plans.plan import Course, Solver, Update
from steering.solvers.coordinates import ANGLE


def updates(course: Course) -> Iterator[Update]:
    """Registers: x of yh, and x of y with the half of its next slope that is known."""
    points = ANGLE.points(course)
    steps = [0.0, *(t.tau - s.tau for s, t in pairwise(points)), 0.0]
    for i, (at, to) in enumerate(zip(points, [*points[1:], points[-1]], strict=True)):
        ratio = to.scale / at.scale
        weight = to.scale * (steps[i] + steps[i + 1])
        full, half = (weight * at.state, weight * at.data), (weight / 2 * at.state, weight / 2 * at.data)
        if i == 0:  # yh = y = x
            yield Update(at=at.node, to=to.node, A=((ratio + full[0],), (ratio + half[0],)), b=(full[1], half[1]))
        elif to is not at:
            rows = (full[0] - ratio, 2 * ratio), (half[0], ratio)
            yield Update(at=at.node, to=to.node, A=rows, b=(full[1], half[1]))
        else:  # y, yh
            yield Update(at=at.node, to=to.node, A=((half[0], 1.0), (1.0, 0.0)), b=(half[1], 0.0))


SOLVER = Solver(
    name="reversible_heun",
    order=2,
    rows_per_step=1,
    reference="Kidger et al. 2021, arXiv:2105.13493",
    default_grid="logsnr",
    updates=updates,
    bounded=True,
)
