"""Searched solver programs: for every step its time, prediction type, order, interpolation and corrector (USF).

A program is what the solver search of USF (Liu et al. 2023, arXiv:2312.07243) looks for: the choices that a fixed
solver makes once, made anew for every step. `steering.solvers.searched` turns one into matrices.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch

from steering.errors import PlanError
from steering.paths import Path

Integrand = Literal["data", "noise", "velocity"]
Variable = Literal["log_snr", "rho", "t", "angle"]
MAX_ORDER = 4


@dataclass(frozen=True)
class Choice:
    """How one step is made.

    Attributes:
        target: what is interpolated over the step: the denoised estimate ("data"), eps ("noise"), or v, the velocity of
            trig flow ("velocity").
        order: evaluations that the interpolation uses, fewer at the start where there are fewer.
        variable: the variable in which the interpolation is a polynomial.
        corrector: whether the next evaluation also corrects this step (UniC), without further rows.
        relaxation: added to the weights of the evaluations, newest first, in parts of the weights' sum; none is exact
            for polynomials. Fitted, it makes up for what polynomials miss in long steps (as the learned coefficients
            of S4S do, arXiv:2502.17423).
    """

    target: Integrand = "data"
    order: int = 2
    variable: Variable = "log_snr"
    corrector: bool = False
    relaxation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.target not in get_args(Integrand) or self.variable not in get_args(Variable):
            raise PlanError(
                f"program: expected a target of {', '.join(get_args(Integrand))} and a variable of "
                f"{', '.join(get_args(Variable))}, got {self.target!r} and {self.variable!r}"
            )
        if not 1 <= self.order <= MAX_ORDER:
            raise PlanError(f"program: expected orders in 1..{MAX_ORDER}, got {self.order!r}")
        if len(self.relaxation) > self.order or not all(map(math.isfinite, self.relaxation)):
            raise PlanError(
                f"program: expected at most {self.order} finite relaxations in a step of order {self.order}, "
                f"got {self.relaxation!r}"
            )


@dataclass(frozen=True)
class Program:
    """One choice a step, and where its nodes lie: fractions of the path's log-SNR range, from 0 (noise) to 1 (data)."""

    fractions: tuple[float, ...]
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        f = self.fractions
        if len(f) != len(self.choices) + 1 or len(f) < 2 or f[0] != 0 or f[-1] != 1:
            raise PlanError(
                f"program: expected fractions from 0 to 1, one more than choices, got {len(f)} for {len(self.choices)}"
            )
        if any(not a < b for a, b in pairwise(f)):
            raise PlanError("program: expected ascending fractions, got them out of order")

    @property
    def steps(self) -> int:
        """Steps, and network rows per sample."""
        return len(self.choices)

    def last(self, steps: int) -> "Program":
        """The program of its last steps alone, whose first have fewer evaluations to use."""
        kept = self.fractions[-steps - 1 :]
        inner = tuple((f - kept[0]) / (1 - kept[0]) for f in kept[1:-1])
        return Program((0.0, *inner, 1.0), self.choices[-steps:])

    def times(self, path: Path) -> tuple[float, ...]:
        """The program's nodes as times of a path."""
        first, last = path.levels
        inner = torch.tensor(self.fractions[1:-1], dtype=torch.float64)
        times = path.time_of_log_snr(first + inner * (last - first))
        return (path.t_max, *times.tolist(), path.t_min)
