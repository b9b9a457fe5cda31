"""Coefficients of explicit Runge-Kutta methods.

k_1 = f(t, y),   k_i = f(t + c_i h, y + h sum_{j < i} a_ij k_j),   y' = y + h sum_i b_i k_i
"""

from dataclasses import dataclass

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """Attributes: order of y'; a: rows of stages 2, 3, ..., of 1, 2, ... entries; c: their times; b: weights."""

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row


EULER = Tableau(1, (), (), (1.0,))
HEUN = Tableau(2, (1.0,), ((1.0,),), (0.5, 0.5))
"""The explicit trapezoidal rule (Heun 1900)."""
RK4 = Tableau(4, (0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical method (Kutta 1901)."""
