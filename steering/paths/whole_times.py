"""The times at which a network can be asked whose time input takes whole numbers only.

A network that counts steps knows the levels of those steps and none between. So grids take their nodes from these
levels, and where a solver has to look between two of them, D is that of the nearest one (`plans.predictions`).
"""

import math
from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.paths.base import Path
from steering.paths.time_inputs import time_input

HALVINGS = 60
ROUNDING = 1e-6
"""How far from a whole number a time input may be that is meant to be one."""

Times = Float64[Tensor, " k"]


def whole_times(path: Path, t: Times) -> Times:
    """The time nearest to each of t, counted in the time input `path.whole`, where that is a whole number.

    Times inside t_min..t_max only; t itself where the network takes any time, or there is no whole number inside.
    """
    if not path.whole:
        return t
    low, high = _numbers(path)
    wanted = torch.round(_fed(path, t)).clamp(low, high)
    return t if high < low else _times(path, wanted)


def whole_grid(path: Path, t: Times, begun: bool = False) -> Times:
    """Falling times moved to whole ones, each to one of its own: the nearest that is free.

    As they are where there are fewer whole times than nodes. With `begun`, the first is a state's own time: it stays,
    and the others are moved to whole times below it.
    """
    if not path.whole:
        return t
    if begun:
        return torch.cat([t[:1], _whole(path, t[1:], *_below(path, float(t[0])))])
    return _whole(path, t, *_numbers(path))


def _below(path: Path, t: float) -> tuple[float, float]:
    """The least and the largest whole number that the time input has on the path at times before t."""
    low, high = _numbers(path)
    at, least = _fed(path, torch.tensor([t, path.t_min], dtype=torch.float64)).tolist()
    if at > least:
        return low, min(high, math.ceil(at - ROUNDING) - 1.0)
    return max(low, math.floor(at + ROUNDING) + 1.0), high


def _whole(path: Path, t: Times, low: float, high: float) -> Times:
    """`whole_grid` between two whole numbers."""
    if high - low + 1 < len(t):
        return t
    wanted = torch.round(_fed(path, t)).clamp(low, high).tolist()
    first, last = _fed(path, torch.tensor([path.t_max, path.t_min], dtype=torch.float64)).tolist()
    falls = first > last  # a time input may run the other way
    wanted = wanted if falls else [-each for each in wanted]
    bottom, top = (low, high) if falls else (-high, -low)
    taken = top + 1.0
    for i, each in enumerate(wanted):
        taken = wanted[i] = min(each, taken - 1)
    taken = bottom - 1.0
    for i in reversed(range(len(wanted))):
        taken = wanted[i] = max(wanted[i], taken + 1)
    numbers = torch.tensor(wanted if falls else [-each for each in wanted], dtype=torch.float64)
    return _times(path, numbers)


_formula = lru_cache(time_input)


def _fed(path: Path, t: Tensor) -> Tensor:
    return _formula(path.whole)(path, t)


def _numbers(path: Path) -> tuple[float, float]:
    """The least and the largest whole number that the time input has on the path."""
    low, high = sorted(_fed(path, torch.tensor([path.t_min, path.t_max], dtype=torch.float64)).tolist())
    if not (math.isfinite(low) and math.isfinite(high)):
        return 1.0, 0.0
    return float(math.ceil(low - ROUNDING)), float(math.floor(high + ROUNDING))


def _times(path: Path, numbers: Tensor) -> Times:
    """The times of values of the time input: those of a straight line where it is one, else by halving.

    Which of the two is settled for each value by itself, so that its time does not depend on the others.
    """
    ends = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
    first, last = _fed(path, ends)
    straight = (ends[0] + (numbers - first) / (last - first) * (ends[1] - ends[0])).clamp(ends[0], ends[1])
    met = (_fed(path, straight) - numbers).abs() <= 1e-3 * ROUNDING
    if bool(met.all()):
        return straight
    low, high = torch.full_like(numbers, path.t_min), torch.full_like(numbers, path.t_max)
    rises = last > first
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        before = (_fed(path, middle) < numbers) == rises
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    return torch.where(met, straight, (low + high) / 2)
