"""Anderson's acceleration (Anderson 1965; Walker & Ni 2011): the mixture of the last states with the least residual.

The weights a of the last m pairs (z, f(z)) minimise |sum a_i (f_i - z_i)| with sum a_i = 1, and the next state is
sum a_i (z_i + beta (f_i - z_i)). Each trajectory has a history of its own. The m equations are solved by Gauss-Jordan
elimination of all trajectories at once, number by number, so that a trajectory's bits are its own.
"""

import numpy as np

from steering.dynamics.course import QUIET, Floats, Index, Mask, sums
from steering.dynamics.fixed_points.search import searching
from steering.dynamics.problem import Problem, Solver
from steering.plans.plan import Option

_RIDGE = 1e-12
"""Added to the equations' diagonal, as a part of its greatest number: residuals become alike."""


class _Anderson:
    def __init__(self, problem: Problem, size: int) -> None:
        self.memory, self.beta = int(problem.options["memory"]), problem.options["mixing"]
        n = problem.n
        self.states = np.zeros((n, self.memory, size))
        self.residuals = np.zeros((n, self.memory, size))
        self.products = np.zeros((n, self.memory, self.memory))
        self.seen = np.zeros(n, np.int64)

    @QUIET
    def next(self, index: Index, z: Floats, f: Floats) -> Floats:
        residual = f - z
        place = self.seen[index] % self.memory
        self.states[index, place], self.residuals[index, place] = z, residual
        self.seen[index] += 1
        seen = self.seen[index][:, None]
        used: Mask = np.arange(self.memory)[None] < seen
        for k in range(self.memory):  # memory is scarcer than time: not [m, memory, d] at once
            product = np.where(used[:, k], sums(self.residuals[index, k] * residual), 0)
            self.products[index, place, k] = product
            self.products[index, k, place] = product
        weights = _weights(self.products[index], used)
        after = np.zeros_like(z)
        for k in range(self.memory):
            share = weights[:, k, None]
            after += share * (self.states[index, k] + self.beta * self.residuals[index, k])
        finite = np.asarray(np.isfinite(after).all(axis=1))
        return np.where(finite[:, None], after, f)


@QUIET
def _weights(products: Floats, used: Mask) -> Floats:
    """a [m, k] with sum 1 that minimise a^T G a, G the products [m, k, k] of residuals; 0 where not used."""
    count = products.shape[1]
    diagonal = np.diagonal(products, axis1=1, axis2=2)
    scale = np.where(used, diagonal, 0).max(axis=1)
    scale = np.where(scale > 0, scale, 1)
    matrix = products / scale[:, None, None]
    matrix[:, np.arange(count), np.arange(count)] += np.where(used, _RIDGE, 1)
    right = used.astype(np.float64)
    for k in range(count):  # a symmetric positive definite matrix needs no pivots
        factor = matrix[:, :, k] / matrix[:, k, k, None]
        factor[:, k] = 0
        right -= factor * right[:, k, None]
        matrix -= factor[:, :, None] * matrix[:, k, None, :]
    solved = right / np.diagonal(matrix, axis1=1, axis2=2)
    total = np.zeros(len(solved))
    for k in range(count):
        total = total + solved[:, k]
    return np.where(used, solved / total[:, None], 0)


SOLVER = Solver(
    name="anderson",
    kinds=("fixed_point",),
    order=1,
    adaptive=True,
    about="Anderson's acceleration of a fixed-point iteration (Walker & Ni 2011), one row an iteration",
    options={
        "memory": Option("states that are mixed; 1 is the plain iteration", 5, low=1, high=20, whole=True),
        "mixing": Option("how much of the residual is added to the mixture", 1.0, low=1e-3, high=1.0),
    },
    program=searching(_Anderson),
)
