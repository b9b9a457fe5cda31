"""Differential equations, recurrent cells and fixed points, as programs that ask for rows of a model.

    solution = steering.dynamics.solve(lambda y, t: -y, torch.ones(1, 2), [0.0, 0.5, 1.0])

States and times are float64 here, whatever the model's graph computes in. A trajectory has the same bits alone, in any
company, and beside trajectories of any other tolerance.
"""

from steering.dynamics.asking import Ask, Part, Program, Reply
from steering.dynamics.fit import Fitted
from steering.dynamics.notebook import fit, ftle
from steering.dynamics.problem import Event, Kind, Problem, Solver, pose
from steering.dynamics.run import solve
from steering.dynamics.sensitivity import Stretching
from steering.dynamics.solution import Solution, Status
from steering.dynamics.table import SOLVERS

__all__ = [
    "SOLVERS",
    "Ask",
    "Event",
    "Fitted",
    "Kind",
    "Part",
    "Problem",
    "Program",
    "Reply",
    "Solution",
    "Solver",
    "Status",
    "Stretching",
    "fit",
    "ftle",
    "pose",
    "solve",
]  # fmt: skip
