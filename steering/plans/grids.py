"""Time grids: where on a path the N + 1 nodes of an N-step plan lie, from t_max down to t_min, both included.

A grid is a name, for some with a number in brackets: "uniform", "karras(5)".

Grids that are even in a function of the log-SNR have no nodes where that is infinite, at an alpha or sigma of 0: they
spread over `Path.levels`, and the path's own end stands in for their first node or is added as the last.

`placements` has the grids that other libraries place their nodes by.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path, whole_grid
from steering.paths.base import float64
from steering.plans import placements

Nodes = Float64[Tensor, " nodes"]


@dataclass(frozen=True)
class Grid:
    """A named grid; `default` is its number where none is given, None if it takes none; low and high are its range.

    With `in_time`, the nodes depend on the path's times alone.
    """

    times: Callable[[Path, int, float], Nodes]
    default: float | None = None
    low: float = 0.0
    high: float = math.inf
    in_time: bool = False


def _fall(first: float | Tensor, last: float | Tensor, steps: int) -> Nodes:
    return torch.linspace(float(first), float(last), steps + 1, dtype=torch.float64)


def _uniform(path: Path, steps: int, _: float) -> Nodes:
    """Uniform in the path's own time."""
    return _fall(path.t_max, path.t_min, steps)


def _quadratic(path: Path, steps: int, _: float) -> Nodes:
    """Uniform in sqrt(t) (Song, Meng & Ermon 2021, arXiv:2010.02502, appendix D)."""
    return _fall(path.t_max**0.5, path.t_min**0.5, steps) ** 2


def _logsnr(path: Path, steps: int, _: float) -> Nodes:
    """Uniform in the log signal-to-noise ratio (Lu et al. 2022, arXiv:2206.00927)."""
    return path.time_of_log_snr(_fall(*path.levels, steps))


def _karras(path: Path, steps: int, power: float) -> Nodes:
    """Uniform in rho^(1/power), rho = sigma / alpha (Karras et al. 2022, arXiv:2206.00364, eq. 5)."""
    first, last = (torch.exp(-float64(level) / power) for level in path.levels)
    return path.time_of_log_snr(-power * torch.log(_fall(first, last, steps)))


def _angle(path: Path, steps: int, _: float) -> Nodes:
    """Uniform in arctan rho, the time of trig flow (Lu & Song 2024, arXiv:2410.11081): short steps where D turns."""
    first, last = (torch.atan(torch.exp(-float64(level))) for level in path.levels)
    return path.time_of_log_snr(-torch.log(torch.tan(_fall(first, last, steps))))


def _shifted(path: Path, steps: int, shift: float) -> Nodes:
    """k t / (1 + (k - 1) t) of uniform t, 0 and 1 the path's ends (Esser et al. 2024, arXiv:2403.03206, eq. 23)."""
    t = _fall(1.0, 0.0, steps)
    return path.t_min + (path.t_max - path.t_min) * shift * t / (1 + (shift - 1) * t)


GRIDS: Mapping[str, Grid] = {
    "uniform": Grid(_uniform, in_time=True),
    "quadratic": Grid(_quadratic, in_time=True),
    "logsnr": Grid(_logsnr),
    "karras": Grid(_karras, default=7.0, low=1.0, high=100.0),
    "angle": Grid(_angle),
    "shifted": Grid(_shifted, default=3.0, low=0.01, high=100.0, in_time=True),
}


def parse(text: str) -> tuple[Grid, float]:
    """A grid and its number; raises `PlanError`."""
    name, bracket, rest = text.partition("(")
    if name not in GRIDS or (bracket and not rest.endswith(")")):
        known = [f"{n}(number)" if g.default else n for n, g in GRIDS.items()]
        raise PlanError(choose("grid", text, [*known, *placements.names()]))
    grid = GRIDS[name]
    if not bracket:
        return grid, grid.default or 0.0
    if grid.default is None:
        able = ", ".join(sorted(n for n, g in GRIDS.items() if g.default is not None))
        raise PlanError(f"grid {name!r} takes no number, got {text!r}; grids that do: {able}")
    try:
        number = float(rest[:-1])
    except ValueError:
        number = math.nan
    if not grid.low <= number <= grid.high:
        raise PlanError(f"grid {name!r}: expected a number in {grid.low:g}..{grid.high:g}, got {rest[:-1]!r}")
    return grid, number


SHORT = 3
"""Up to so many steps, a step would be too many for the way from the cleanest level to the data."""


def evaluated(grid: str, path: Path, steps: int, begun: bool = False) -> Nodes:
    """The nodes [steps] at which a plan asks the network that goes on from the last of them to D, strictly decreasing.

    The last one is t_min or, where no noise is left there, the node before: on grids in time the last but one on the
    way to t_min, on others the cleanest of `Path.levels`. In few steps it is the last but one on all grids.
    `begun` as in `nodes`.
    """
    if (placed := placements.parse(grid)) is not None:
        return _asked(placed, path, steps, begun)
    named, number = parse(grid)
    if steps <= SHORT or (path.ends_in_data and named.in_time):
        return nodes(grid, path, steps, begun)[:-1]
    clean = path.finite.t_min
    return _ends(named.times(path, steps - 1, number), path.t_max, clean, path, begun)


def nodes(grid: str | Sequence[float], path: Path, steps: int, begun: bool = False) -> Nodes:
    """The grid's nodes, strictly decreasing; an explicit sequence of steps + 1 times is taken as it is.

    With `begun`, t_max stays a node even where the network takes whole times only: it is a state's own time.
    """
    if isinstance(grid, str):
        if (placed := placements.parse(grid)) is not None:
            return _closed(_asked(placed, path, steps, begun), path)
        named, number = parse(grid)
        return _ends(named.times(path, steps, number), path.t_max, path.t_min, path, begun)
    return explicit(grid, path, steps + 1, f"{steps} steps")


def _asked(placed: placements.Placed, path: Path, steps: int, begun: bool) -> Nodes:
    """Where a placement asks the network, [steps]."""
    if begun:
        raise PlanError(f"grid {placed.text!r}: expected another grid beside start_t: it has its own first node")
    times = placed.asked(path, steps)
    for i, end in ((0, path.t_max), (-1, path.t_min)):  # free of rounding
        times[i] = end if abs(float(times[i]) - end) <= ROUNDING else times[i]
    if not path.t_min <= float(times[-1]) <= float(times[0]) <= path.t_max:
        raise PlanError(
            f"grid {placed.text!r}: expected times in {path.t_min:g}..{path.t_max:g} in {steps} steps, got "
            f"{float(times[0]):g}..{float(times[-1]):g}"
        )
    return _checked(whole_grid(path, times), path)


ROUNDING = 1e-9
"""Of a placement's first and last time."""


def _closed(asked: Nodes, path: Path) -> Nodes:
    """The nodes of a plan that ends in the state at t_min, where a row would change nothing and is left out."""
    if float(asked[-1]) > path.t_min:
        return torch.cat([asked, asked.new_tensor([path.t_min])])
    if len(asked) < 2:
        raise PlanError(f"grid: expected two or more steps to end in the state at {path.t_min:g}, got 1")
    return asked


def explicit(grid: Sequence[float], path: Path, count: int, what: str) -> Nodes:
    """Times given one by one; `what` they are for needs so many."""
    times = torch.as_tensor(grid, dtype=torch.float64)
    if times.shape != (count,):
        raise PlanError(f"an explicit grid for {what} has {count} times, got {len(times)}")
    return _checked(times, path)


def _ends(times: Nodes, first: float, last: float, path: Path, begun: bool) -> Nodes:
    """With exact ends, free of the inverse's rounding, and at times that the network takes."""
    times[0], times[-1] = first, last
    return _checked(whole_grid(path, times, begun), path)


def _checked(times: Nodes, path: Path) -> Nodes:
    falls = [True, *(times.diff() < 0).tolist()]
    inside = ((times >= path.t_min) & (times <= path.t_max)).tolist()
    for i, fine in enumerate(zip(falls, inside, strict=True)):
        if not all(fine):
            raise PlanError(
                f"grid times must fall strictly inside [{path.t_min}, {path.t_max}], got {float(times[i]):.9g} at {i}"
                + (f" after {float(times[i - 1]):.9g}" if i else "")
            )
    return times
