"""Explicit Runge-Kutta methods on dy/drho = eps (rhoRK of DEIS, Zhang & Chen 2023, arXiv:2204.13902, section 3.3).

    y_j = y_s + h sum_{i<j} a_ji k_i,   k_i = slope of (y_i, tau_s + c_i h),   h = tau_t - tau_s,   the last row: y_t

for any Butcher tableau and any `coordinates` of the flow. `rho_heun` is Heun's method in the last interval too, where
`heun` takes Euler's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from steering.plans.plan import Course, Solver, Update
from steering.solvers.coordinates import RHO, Coordinates, Point


@dataclass(frozen=True)
class Tableau:
    """Fractions c_i of the step, rising from 0 within 0..1; rows a_j of the stages after the first, and last of y_t."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]


EULER = Tableau((0,), ((1,),))
MIDPOINT = Tableau((0, 1 / 2), ((1 / 2,), (0, 1)))
HEUN = Tableau((0, 1), ((1,), (1 / 2, 1 / 2)))
KUTTA3 = Tableau((0, 1 / 2, 1), ((1 / 2,), (-1, 2), (1 / 6, 2 / 3, 1 / 6)))
RK4 = Tableau((0, 1 / 2, 1 / 2, 1), ((1 / 2,), (0, 1 / 2), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6)))


def updates(tableau: Tableau, coordinates: Coordinates, course: Course) -> Iterator[Update]:
    """Before evaluation i, register j holds what is known of x_{i+j}: its share of y_s and of the slopes so far."""
    points = coordinates.points(course)
    inner = {c: coordinates.inside(course, points, c) for c in set(tableau.c) - {0, 1}}
    for step, (s, t) in enumerate(pairwise(points)):
        h = t.tau - s.tau
        ends: dict[float, Point] = {0: s, 1: t}
        stages = [ends[c] if c in ends else inner[c][step] for c in tableau.c]
        targets = [*stages[1:], t]
        for i, at in enumerate(stages):
            rows, data = [], []
            for j, to in enumerate(targets[i:]):
                weight = to.scale * h * tableau.a[i + j][i]
                first, *kept = [to.scale / s.scale] if i == 0 else [0, *(k == j for k in range(len(targets) - i))]
                rows.append((first + weight * at.state, *map(float, kept)))
                data.append(weight * at.data)
            yield Update(at=at.node, to=targets[i].node, A=tuple(rows), b=tuple(data))


def solver(name: str, order: int, tableau: Tableau) -> Solver:
    """A method in rho."""
    reference = "Zhang & Chen 2023, arXiv:2204.13902"
    return Solver(
        name=name,
        order=order,
        rows_per_step=len(tableau.c),
        reference=reference,
        default_grid="karras",
        updates=partial(updates, tableau, RHO),
    )


SOLVERS = (
    solver("rho_midpoint", 2, MIDPOINT),
    solver("rho_heun", 2, HEUN),
    solver("rho_kutta3", 3, KUTTA3),
    solver("rho_rk4", 4, RK4),
)
