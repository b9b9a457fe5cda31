"""Newton's method for the stages of implicit steps, whose Jacobians' columns are rows of the field.

A stage is z = base + h gamma g(t, z). With J = dg/dy, kept from step to step while it serves, each iteration is

    z <- z + (1 - h gamma J)^-1 (base + h gamma g(t, z) - z),

one row (Hairer & Wanner 1996, section IV.8). J is made of d + 1 rows by forward differences. A trajectory's iterations
end for itself.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.controller import relative, scale
from steering.dynamics.course import QUIET, Course, Floats, Index, Mask, moved, sums

MOST = 8
"""Iterations of a stage."""
CLOSE = 0.005
"""What a stage's equation may be off by, of the error allowed for a step."""
SLOW = 0.2
"""A Jacobian by which an iteration leaves more than this part of the error is made anew after the step."""
HALF, QUARTER = 0.5, 0.25


@QUIET
def times(matrix: Floats, vector: Floats) -> Floats:
    """Products [m, d] of matrices [m, d, d] or [d, d] with vectors [m, d], row by row."""
    return sums(matrix * vector[:, None, :])


@QUIET
def inverted(matrices: Floats) -> Floats:
    """Inverses [m, d, d]; NaN for one that has none. LAPACK takes the matrices one by one."""
    try:
        return np.linalg.inv(matrices).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        out = np.full_like(matrices, np.nan)
        for i, matrix in enumerate(matrices):
            try:
                out[i] = np.linalg.inv(matrix)
            except np.linalg.LinAlgError:
                continue
        return out


@dataclass(frozen=True, eq=False)
class Solved:
    """Stages [m, d], which of them were solved, and which met values that are not finite."""

    z: Floats
    solved: Mask
    broken: Mask


class Newton:
    """Jacobians, inverses and rates of convergence of n trajectories."""

    def __init__(self, course: Course, gamma: float, role: str) -> None:
        self.course, self.gamma, self.role = course, gamma, role
        n, d = len(course.t), course.size
        self.jacobian = np.zeros((n, d, d))
        self.inverse = np.zeros((n, d, d))
        self.step = np.full(n, np.nan)
        """The step that `inverse` is for."""
        self.old = np.ones(n, np.bool_)
        """A new Jacobian is due."""
        self.here = np.zeros(n, np.bool_)
        """The Jacobian is that of the present state."""
        self.rate = np.zeros(n)
        """The worst contraction of the step under way."""
        self.trust = np.ones(n)
        """The last theta / (1 - theta), the part of the last change that is still to come."""
        self.epsilon = torch.finfo(course.problem.dtype).eps

    def prepare(self, index: Index, t: Floats, y: Floats, step: Floats) -> Generator[Ask, Reply, None]:
        """Jacobians where they are due, and inverses where they or the step changed."""
        due = self.old[index]
        if due.any():
            yield from self._differences(index[due], t[due], y[due])
        other = index[self.step[index] != step]
        if len(other):
            self.step[index] = step
            part = (self.step[other] * self.gamma)[:, None, None]
            self.inverse[other] = inverted(np.eye(self.course.size) - part * self.jacobian[other])
        self.rate[index] = 0

    def _differences(self, index: Index, t: Floats, y: Floats) -> Generator[Ask, Reply, None]:
        """J_ij = (g_i(y + w_j e_j) - g_i(y)) / w_j; w in proportion to y_j or, near 0, to what passes for 0."""
        problem, (m, d) = self.course.problem, y.shape
        rtol, atol = problem.rtol.numpy()[index][:, None], problem.atol.numpy()[index][:, None]
        size = np.maximum(np.abs(y), np.minimum(atol / np.maximum(rtol, 1e-3), 1.0))
        width = np.where(y < 0, -1.0, 1.0) * self.epsilon**HALF * np.maximum(size, 1e-30)
        shifted = y[:, None, :] + np.concatenate([np.zeros((m, 1, d)), width[:, None, :] * np.eye(d)], axis=1)
        if problem.dtype == torch.float32:  # the step that the field sees
            width = ((y + width).astype(np.float32) - y.astype(np.float32)).astype(np.float64)
        which = np.repeat(index, d + 1)
        self.course.evaluations[index] += d + 1
        reply = yield self.course.ask("field", which, np.repeat(t, d + 1), shifted.reshape(-1, d))
        values = self.course.flat(reply[self.role]).reshape(m, d + 1, d)
        with_respect = _quotients(values, width)
        self.jacobian[index] = with_respect.transpose(0, 2, 1)
        self.old[index], self.here[index], self.step[index], self.trust[index] = False, True, np.nan, 1.0

    def solve(
        self, index: Index, t: Floats, step: Floats, base: Floats, start: Floats, y: Floats
    ) -> Generator[Ask, Reply, Solved]:
        """z of z = base + step gamma g(t, z), from `start`; errors are measured against those allowed at y."""
        problem = self.course.problem
        allowed = scale(problem.rtol.numpy()[index], problem.atol.numpy()[index], y)
        z, part = start.copy(), step * self.gamma
        solved, broken = np.zeros(len(index), np.bool_), np.zeros(len(index), np.bool_)
        change, trust = np.full(len(index), np.inf), np.maximum(self.trust[index], self.epsilon) ** 0.8
        noise = 2 * self.epsilon * relative(y, allowed)
        going = np.arange(len(index))
        for iteration in range(MOST):
            g = yield from self.course.field(index[going], t[going], z[going], self.role)
            delta = times(self.inverse[index[going]], _residual(base[going], part[going], g, z[going]))
            z[going] = moved(z[going], np.ones(len(going)), [delta], (1.0,))
            size = relative(delta, allowed[going])
            finite = np.isfinite(size)
            if iteration:
                theta = _ratio(size, change[going])
                self.rate[index[going]] = np.maximum(self.rate[index[going]], theta)
                trust[going] = theta / np.maximum(1 - theta, 1e-3)
                self.trust[index[going]] = trust[going]
                apart = (theta >= 1) | (theta ** (MOST - 1 - iteration) * trust[going] * size > CLOSE)
            else:
                apart = np.zeros(len(going), np.bool_)
            change[going] = size
            near = finite & ((trust[going] * size <= CLOSE) | (size <= noise[going]))
            solved[going[near]], broken[going[~finite]] = True, True
            going = going[finite & ~near & ~apart]
            if not len(going):
                break
        return Solved(z, solved, broken)

    def again(self, index: Index, solved: Mask) -> Floats:
        """What becomes of steps that were not solved: with a new Jacobian if theirs is old, else a quarter as long."""
        lost = index[~solved]
        self.old[lost] = ~self.here[lost]
        return np.where(solved, 0.0, np.where(self.here[index], QUARTER, 1.0))

    def kept(self, index: Index, kept: Mask) -> None:
        on = index[kept]
        self.here[on] = False
        self.old[on] = self.rate[on] > SLOW


@QUIET
def _quotients(values: Floats, width: Floats) -> Floats:
    return (values[:, 1:] - values[:, :1]) / width[:, :, None]


@QUIET
def _ratio(size: Floats, before: Floats) -> Floats:
    return size / np.maximum(before, 1e-300)


@QUIET
def _residual(base: Floats, part: Floats, g: Floats, z: Floats) -> Floats:
    return base + part[:, None] * g - z
