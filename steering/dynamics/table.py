"""The table of solvers. A solver exists by being listed here."""

from collections.abc import Mapping

from steering.dynamics import fixed_points, fixed_steps, fractional, imex, maps, runge_kutta, sde, stiff
from steering.dynamics.along import also_controlled
from steering.dynamics.problem import Solver

_ALL = (
    *map(also_controlled, runge_kutta.SOLVERS),
    *map(also_controlled, stiff.SOLVERS),
    *map(also_controlled, fixed_steps.SOLVERS),
    *imex.SOLVERS,
    *fractional.SOLVERS,
    *sde.SOLVERS,
    maps.SOLVER,
    *fixed_points.SOLVERS,
)
SOLVERS: Mapping[str, Solver] = {solver.name: solver for solver in _ALL}
