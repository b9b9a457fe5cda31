"""Equations with Caputo's fractional derivative of order alpha in 0..1: D^alpha y = f(t, y).

    y(t) = y(0) + 1 / Gamma(alpha) int_0^t (t - s)^(alpha - 1) f(s, y(s)) ds

What is more than a step ago is remembered by exponentials: t^(alpha - 1) / Gamma(alpha) = sum_j c_j exp(-g_j t) to
`kernel` on all distances from the shortest step to the whole span, by the trapezoidal rule in log g (Beylkin & Monzon
2010, Applied and Computational Harmonic Analysis 28, 131). Each has the memory of a number, not of the path:

    m_j <- exp(-g_j h) m_j + int_0^h exp(-g_j (h - s)) f ds,   f linear within a step,

exactly. The last step has the kernel itself. Two rows a step: predictor and corrector. Of order 2 where f is
smooth along the solution, and 1 + alpha where it is not: y grows as t^alpha at the start, where short steps pay.
"""

import math
from collections.abc import Generator

import numpy as np

from steering.dynamics.asking import Ask, Program, Reply
from steering.dynamics.course import QUIET, Course, Floats, Index
from steering.dynamics.parts import by_parts, parts_of
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution
from steering.plans.plan import Option

MEMORY = 256
"""Exponentials at most; some 110 for steps of a ten-thousandth of the span."""
SERIES = 1e-3
"""Where g h is less, the integrals' weights are by their series."""


def exponentials(alpha: float, shortest: float, span: float, tolerance: float) -> tuple[Floats, Floats]:
    """Weights c and rates g of the kernel, to a relative `tolerance` on shortest..span.

    The rule's nodes below tolerance / span, which are constants there, are one node of rate 0: their geometric sum.
    """
    spacing = 1 / (1.2 * math.log10(1 / tolerance) / math.pi + 0.4)
    low, high = math.log(tolerance / span), math.log(4 * math.log(1 / tolerance) / shortest)
    count = min(int((high - low) / spacing) + 1, MEMORY - 1)
    nodes = [low + spacing * k for k in range(count)]
    factor = spacing / (math.gamma(alpha) * math.gamma(1 - alpha))
    ratio = math.exp(-(1 - alpha) * spacing)
    rest = factor * math.exp((1 - alpha) * low) * ratio / (1 - ratio)
    weights = [rest, *(factor * math.exp((1 - alpha) * node) for node in nodes)]
    return np.array(weights), np.array([0.0, *(math.exp(node) for node in nodes)])


@QUIET
def _weights(rates: Floats, step: Floats) -> tuple[Floats, Floats, Floats]:
    """exp(-g h), and the weights of f at a step's start and end in int_0^h exp(-g (h - s)) f ds, [m, k] each."""
    x, h = rates * step[:, None], step[:, None]
    whole = np.where(x < SERIES, 1 - x / 2 + x * x / 6 - x * x * x / 24, -np.expm1(-x) / x)
    end = np.where(x < SERIES, 0.5 - x / 6 + x * x / 24 - x * x * x / 120, (1 - whole) / x)
    return np.exp(-x), h * (whole - end), h * end


def program(problem: Problem) -> Program[Solution]:
    alpha, tolerance = problem.options["alpha"], problem.options["kernel"]
    course, n = Course(problem), problem.n
    active = yield from course.begin()
    spans = np.diff(course.times, axis=1)
    parts = parts_of(problem, spans)
    steps = np.abs(spans) / parts
    sums = [exponentials(alpha, float(row[row > 0].min()), float(np.abs(whole).sum()), tolerance) if (row > 0).any()
            else (np.zeros(1), np.ones(1)) for row, whole in zip(steps, spans, strict=True)]  # fmt: skip
    most = max(len(weights) for weights, _ in sums)
    weight, rate = np.zeros((n, most)), np.ones((n, most))  # of rows with fewer: nothing is added, and after the rest
    for i, (c, g) in enumerate(sums):
        weight[i, : len(c)], rate[i, : len(g)] = c, g
    memory = np.zeros((n, course.size, most))
    start, slope = course.y.copy(), np.zeros_like(course.y)
    inside = 1 / math.gamma(alpha + 2)
    if len(active):
        slope[active] = yield from course.field(active, course.t[active], course.y[active])

    def advance(index: Index, end: Floats, step: Floats) -> Generator[Ask, Reply, Floats]:
        last = np.array([h**alpha for h in step.tolist()])[:, None] * inside
        fading, at_start, at_end = _weights(rate[index], step)
        past = start[index] + (memory[index] * (weight[index] * fading)[:, None, :]).cumsum(axis=2)[:, :, -1]
        before = slope[index]
        after, ahead = past, before
        for _ in range(2):
            after = past + last * (alpha * before + ahead)
            ahead = yield from course.field(index, end, after)
        memory[index] = (
            memory[index] * fading[:, None, :]
            + before[:, :, None] * at_start[:, None, :]
            + ahead[:, :, None] * at_end[:, None, :]
        )
        slope[index] = ahead
        after = past + last * (alpha * before + ahead)
        after[~np.isfinite(ahead).all(axis=1)] = np.nan
        return after

    return (yield from by_parts(course, active, parts, advance))


SOLVERS = (
    Solver(
        name="fractional",
        kinds=("ode",),
        order=1,
        adaptive=False,
        rows=2,
        forward=True,
        memory=MEMORY,
        about="D^alpha y = f with Caputo's derivative, memory by exponentials, two rows a step of dt",
        options={
            "alpha": Option("order of the derivative", 0.5, 0.01, 0.999),
            "kernel": Option("relative error of the memory's kernel", 1e-8, 1e-12, 1e-2),
        },
        program=program,
    ),
)
