"""Nesterov's acceleration of a fixed-point iteration, with restarts: momentum along the last step.

z_next = f_k + k / (k + 3) (f_k - f_{k-1}), Nesterov 1983 as Su, Boyd & Candès 2016 write it ("acceleration dynamics"):
for f a gradient step z - s grad g(z) of a convex g, g falls as 1 / k^2 where the plain iteration's falls as 1 / k.
Momentum begins anew when it points against the residual (O'Donoghue & Candès 2015) or the residual has grown, which
makes the rate linear, of the square root of the condition number, where g is strongly convex. Iterations that turn
(negative eigenvalues) gain nothing from momentum: see `anderson`.
"""

import numpy as np

from steering.dynamics.course import QUIET, Floats, Index, sums
from steering.dynamics.fixed_points.search import searching
from steering.dynamics.problem import Problem, Solver
from steering.plans.plan import Option


class _Nesterov:
    def __init__(self, problem: Problem, size: int) -> None:
        self.before = np.zeros((problem.n, size))
        self.age = np.zeros(problem.n, np.int64)  # iterations since momentum began
        self.last = np.full(problem.n, np.inf)  # squared residuals where each was before
        self.restart = bool(problem.options["restart"])

    @QUIET
    def next(self, index: Index, z: Floats, f: Floats) -> Floats:
        step = f - self.before[index]
        age = self.age[index]
        if self.restart:
            residual = f - z
            size = sums(residual * residual)
            age = np.where((sums(residual * step) < 0) | (size > self.last[index]), 0, age)
            self.last[index] = size
        momentum = np.where(age > 0, age / (age + 3), 0)
        self.before[index], self.age[index] = f, age + 1
        return f + np.where(momentum[:, None] > 0, momentum[:, None] * step, 0)


SOLVER = Solver(
    name="nesterov",
    kinds=("fixed_point",),
    order=1,
    adaptive=True,
    about="Nesterov's acceleration (Su, Boyd & Candès 2016), for iterations that descend; one row an iteration",
    options={"restart": Option("begin momentum anew where it does harm (1), or never (0)", 1, high=1, whole=True)},
    program=searching(_Nesterov),
)
