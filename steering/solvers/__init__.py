"""The solver table. A solver is one file of matrices; it exists by being listed here."""

from collections.abc import Mapping

from steering.plan import Solver
from steering.solvers import ddim, dpmpp_2m, euler, heun

_ALL = (ddim.SOLVER, euler.SOLVER, heun.SOLVER, dpmpp_2m.SOLVER)
SOLVERS: Mapping[str, Solver] = {solver.name: solver for solver in _ALL}
