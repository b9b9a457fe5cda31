"""A cheap guess of which programs are good: kernel ridge regression on those tried, in the place of USF's network.

Errors spread over orders of magnitude, so their ranks are what is learned. On mixtures it orders unseen programs as
well as a small neural network does, or better, and is a single linear system.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.plans.program import MAX_ORDER, Integrand, Program, Variable

WIDTH = 0.5
"""Squared width of the kernel, for each feature of unit variance."""
RIDGE = 0.02


def features(programs: Sequence[Program]) -> Float64[Tensor, "k features"]:
    """Gaps, nodes, choices and relaxations, step by step; an order counts the evaluations there really are."""
    rows = []
    for program in programs:
        row = list(program.fractions[1:-1])
        for i, (choice, (a, b)) in enumerate(zip(program.choices, pairwise(program.fractions), strict=True)):
            order = min(choice.order, i + 1)
            corrected = choice.corrector and i + 1 < program.steps
            row += [math.log((b - a) * program.steps), float(corrected)]
            row += [float(choice.target == each) for each in get_args(Integrand)]
            row += [float(order > 1 and choice.variable == each) for each in get_args(Variable)]
            row += [float(order == each) for each in range(1, MAX_ORDER + 1)]
            row += [*choice.relaxation, *(0.0,) * MAX_ORDER][:MAX_ORDER]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


class Predictor:
    """Fitted to programs and their errors; `rank` gives lower numbers to better programs."""

    def __init__(self, programs: Sequence[Program], errors: Sequence[float]) -> None:
        x = features(programs)
        self._mean, self._scale = x.mean(dim=0), x.std(dim=0, correction=0) + 1e-3
        self._known = (x - self._mean) / self._scale
        ranks = torch.tensor(errors, dtype=torch.float64).argsort(stable=True).argsort().to(torch.float64)
        kernel = self._kernel(self._known) + RIDGE * torch.eye(len(x), dtype=torch.float64)
        self._weights = torch.linalg.solve(kernel, ranks / len(x) - 0.5)

    def rank(self, programs: Sequence[Program]) -> Float64[Tensor, " k"]:
        return self._kernel((features(programs) - self._mean) / self._scale) @ self._weights

    def _kernel(self, x: Tensor) -> Tensor:
        distance = torch.cdist(x, self._known).square()
        return torch.exp(-distance / (2 * WIDTH * x.shape[1]))


def kendall_tau(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor) -> float:
    """How far two orderings agree: concordant less discordant pairs, in parts of all pairs (Kendall 1938)."""
    a, b = (torch.as_tensor(each, dtype=torch.float64) for each in (a, b))
    upper = torch.ones(len(a), len(a), dtype=torch.bool).triu(1)
    agree = torch.sign(a[:, None] - a) * torch.sign(b[:, None] - b)
    return float(agree[upper].nan_to_num().mean())
