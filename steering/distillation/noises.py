"""The noise that a view is looked at through: one and the same for a whole optimisation, or new at every iteration.

Numbers are a pure function of (seed, number of the view) or (seed, iteration, number of the view): no server has to
keep a tensor. Views of one number share their noise.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from steering.errors import PlanError, choose
from steering.numerics.noise import START, Draw, Noise

Kind = Literal["fixed", "iteration"]
KINDS = get_args(Kind)
MOST_ITERATIONS = 2**31
"""Iterations are in 0..this - 1."""


def normal(kind: str, seed: int, iteration: int, views: Sequence[int], count: int, event: tuple[int, ...]) -> Tensor:
    """Standard normal [count, B, *event] in float64: the first of a larger count are those of a smaller one."""
    if kind not in KINDS:
        raise PlanError(choose("noise", kind, KINDS))
    stage = START if kind == "fixed" else iteration
    drawn = Noise(seed, views).normal(stage, Draw.DISTIL, (count, *event), torch.float64)
    return drawn.transpose(0, 1)


def of_iteration(seed: int, iteration: int, views: Sequence[int]) -> Noise:
    """The source of candidates that steering draws in an iteration: another seed for each of them."""
    key = Noise(seed, [iteration]).uniform(START, Draw.JITTER, 2)[0]
    high, low = (int(float(each) * 2**31) for each in key)
    return Noise(high << 31 | low, views)
