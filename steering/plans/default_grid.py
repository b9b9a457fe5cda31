"""The grid of a plan that names none: the solver's own, unless that would far miss the spread of Gaussian data."""

import contextlib
import math
import sys
from collections.abc import Mapping

from steering.errors import PlanError
from steering.paths import Path
from steering.plans import amplification, grids
from steering.plans.ends import nodes_of, through
from steering.plans.plan import Course, End, Solver

FALLBACKS = ("logsnr", "karras", "angle", "uniform", "shifted(3)")
"""Grids to take instead where a solver's own is no good on a path in so few steps."""
TAME = (0.45, 1.65)
"""A solver's own grid is kept if it gives N(m, 1) a standard deviation within this: in few steps, methods of order 1
shrink, and those of higher orders explode."""
TAME_ON_WIDE, WIDE = (0.45, 1.3), 12.0
"""The same on paths of so many log-SNRs, or without an end of them, such as flows, for which grids made for diffusion
are spread too thin."""
TAME_IN_TIME = (0.8, 1.3)
"""The same for grids in time, which know nothing of noise levels: "uniform" from EDM's 80 has no node near data."""
FAINT = 0.7
"""The least standard deviation that a grid in time may give to the second Gaussian."""
BETTER, TAMER = 0.6, 2 / 3
"""A grid's error is how far the logarithms of its spreads of N(m, 1) and N(m, NARROW) are from 0, added up. The grid of
least error replaces the solver's own in two cases: its error is at most the share BETTER of the own grid's; or the own
grid spreads N(m, 1) too far, and on N(m, 1) alone the other grid's error is at most the share TAMER of it."""
NARROW = 0.09
"""The variance of a second Gaussian that grids are compared on: on one alone, errors of opposite signs may cancel."""


def default_grid(
    entry: Solver, path: Path, steps: int, eta: float, options: Mapping[str, float], end: End | None
) -> str:
    """The solver's own grid; where that would far miss the spread of Gaussian data on this path, the best of others.

    Judged from noise to data whichever way the plan goes, so that both ways have the same nodes.
    """
    if entry.updates is None or entry.generates:
        return entry.default_grid

    def off(grid: str) -> tuple[float, float]:
        """Logarithms of a grid's amplification of N(m, 1) and N(m, NARROW)."""
        assert entry.updates is not None
        nodes = nodes_of(entry, grid, path, steps, False, end, None)
        updates = through(entry, Course(path, nodes, eta, options))
        ratios = [amplification.ratio(updates, nodes, variance) for variance in (1.0, NARROW)]
        wide, narrow = (math.log(max(ratio, sys.float_info.min)) for ratio in ratios)
        return wide, narrow

    mine = entry.default_grid
    in_time = grids.parse(mine)[0].in_time
    first, last = path.levels
    wide_path = path.begins_in_noise or path.ends_in_data or last - first > WIDE
    low, high = map(math.log, TAME_IN_TIME if in_time else TAME_ON_WIDE if wide_path else TAME)
    wide, narrow = off(mine)
    if low <= wide <= high and (not in_time or math.log(FAINT) <= narrow <= math.log(TAME[1])):
        return mine
    found = {mine: (wide, narrow)}
    for grid in FALLBACKS:
        with contextlib.suppress(PlanError):  # not on this path
            found[grid] = off(grid)
    errors = {grid: abs(wide) + abs(narrow) for grid, (wide, narrow) in found.items()}
    best = min(errors, key=lambda grid: errors[grid])
    tamer = wide > high and abs(found[best][0]) <= TAMER * wide
    return best if tamer or errors[best] <= BETTER * errors[mine] else mine
