"""Observations at irregular times, some of them missing: what drives a controlled equation, or is fed to a map.

See `steering.dynamics.along` for the paths between them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from steering.errors import PlanError, choose

Interpolation = Literal["hermite", "rectilinear"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
_SLACK = 1e-9  # how far beyond its ends a path may be asked for, as a part of its span: times are rounded

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Control:
    """The observations of n trajectories, made by `control`; nothing is missing any more.

    Attributes:
        n: trajectories. There are r rows: n, or 1 for all of them.
        times: [r, L], rising; rows with fewer observations repeat their last.
        values: [r, L, channels].
        counts: observations of each row [r].
        observed: the values as they were last observed [r, L, channels]: missing ones are those before them.
    """

    n: int

    times: Floats
    values: Floats
    observed: Floats
    counts: NDArray[np.int64]
    interpolation: Interpolation

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where trajectories are in the tables."""
        return index if len(self.times) > 1 else np.zeros_like(index)

    def covers(self, low: Tensor, high: Tensor) -> None:
        """Raise `PlanError` unless each row has observations from `low` [n] or before to `high` or after."""
        first, last = self.times[:, 0], self.times[:, -1]
        slack = _SLACK * np.maximum(last - first, np.abs(last) * 1e-3)
        short = (low.numpy() < first - slack) | (high.numpy() > last + slack)
        if short.any():
            row = int(np.flatnonzero(short)[0])
            raise PlanError(
                f"control: expected observations for all of t_eval, from {float(low[row]):g} to {float(high[row]):g}, "
                f"got them from {first[row % len(first)]:g} to {last[row % len(first)]:g} in row {row}"
            )

    def held(self, index: Int64[Tensor, " m"], t: Float64[Tensor, " m"]) -> Float64[Tensor, "m channels"]:
        """The last values observed at times t or before."""
        rows = self.rows(index.numpy())
        span = self.times[rows, -1] - self.times[rows, 0]
        last = place(self.times, self.counts, rows, t.numpy() + _SLACK * span)
        return torch.from_numpy(self.observed[rows, last])


def control(times: Tensor, values: Tensor, interpolation: str = "hermite", *, n: int | None = None) -> Control:
    """Check observations and fill in what is missing.

    Args:
        times: [n, L] or [1, L] for all rows, strictly rising. NaN at a row's end: it has fewer observations.
        values: [n, L, channels], likewise; NaN where a channel was not observed. A channel that never was is 0.
        n: how many rows there are to be; None: as many as there are.

    Raises:
        PlanError: something is not as expected.
    """
    chosen = next((each for each in INTERPOLATIONS if each == interpolation), None)
    if chosen is None:
        raise PlanError(choose("interpolation", interpolation, INTERPOLATIONS))
    if values.ndim != 3 or not values.shape[1] or not values.shape[2]:
        raise PlanError(f"control: expected shape [n, L, channels] with L >= 1, got {list(values.shape)}")
    rows = max(len(times), len(values)) if n is None else n
    if times.ndim != 2 or times.shape[1] != values.shape[1]:
        raise PlanError(f"control_t: expected shape [n, {values.shape[1]}] like control, got {list(times.shape)}")
    for name, given in (("control_t", times), ("control", values)):
        if len(given) not in (1, rows):
            raise PlanError(f"{name}: expected {rows} rows or 1, got {len(given)}")
    kept = max(len(times), len(values))  # all the same: once
    t = times.to(torch.float64).expand(kept, -1).numpy().copy()
    x = values.to(torch.float64).expand(kept, -1, -1).numpy().copy()
    there = ~np.isnan(t)
    counts = there.sum(axis=1)
    gaps = there != (np.arange(t.shape[1]) < counts[:, None])
    if gaps.any() or (counts == 0).any() or np.isinf(t).any():
        row = int(np.flatnonzero(gaps.any(axis=1) | (counts == 0) | np.isinf(t).any(axis=1))[0])
        raise PlanError(f"control_t: expected finite times, and NaN only after a row's last, got others in row {row}")
    if np.isinf(x).any():
        raise PlanError("control: expected finite values, or NaN where one is missing, got infinity")
    turned = ((np.diff(t, axis=1) <= 0) & there[:, 1:]).any(axis=1)
    if turned.any():
        raise PlanError(f"control_t: expected rising times, got others in row {int(np.flatnonzero(turned)[0])}")
    x[~there] = np.nan
    t = np.where(there, t, t[np.arange(kept), counts - 1][:, None])
    observed = _forward(x)
    return Control(rows, t, _between(t, x) if chosen == "hermite" else observed, observed, counts, chosen)


def _seen(x: Floats) -> NDArray[np.int64]:
    """The last place at which each channel was observed, [n, L, channels]; -1 before the first."""
    places = np.where(np.isnan(x), -1, np.arange(x.shape[1])[:, None])
    return np.maximum.accumulate(places, axis=1)


def _forward(x: Floats) -> Floats:
    """Missing values are those before them; before a channel's first they are the first, and 0 if there is none."""
    before = _seen(x)
    after = x.shape[1] - 1 - _seen(x[:, ::-1])[:, ::-1]
    place = np.where(before >= 0, before, np.minimum(after, x.shape[1] - 1))
    return np.nan_to_num(np.take_along_axis(x, place, axis=1), nan=0.0)


def _between(t: Floats, x: Floats) -> Floats:
    """Missing values lie on the line between the observations around them, and are constant outside."""
    before = _seen(x)
    after = x.shape[1] - 1 - _seen(x[:, ::-1])[:, ::-1]
    inside = (before >= 0) & (after < x.shape[1]) & np.isnan(x)
    low, high = np.maximum(before, 0), np.minimum(after, x.shape[1] - 1)
    times = np.broadcast_to(t[..., None], x.shape)
    start, end = np.take_along_axis(times, low, axis=1), np.take_along_axis(times, high, axis=1)
    part = np.divide(times - start, end - start, out=np.zeros_like(x), where=end > start)
    first, last = np.take_along_axis(x, low, axis=1), np.take_along_axis(x, high, axis=1)
    return np.where(inside, first + part * (last - first), _forward(x))


def place(knots: Floats, counts: NDArray[np.int64], rows: NDArray[np.int64], t: Floats) -> NDArray[np.int64]:
    """The last of the first `counts` knots [r, L] of each of `rows` [m] that is at t [m] or before; 0 before them."""
    low, high = np.zeros(len(t), np.int64), counts[rows]
    for _ in range(int(knots.shape[1]).bit_length()):
        middle = (low + high) // 2
        below = knots[rows, np.minimum(middle, knots.shape[1] - 1)] <= t
        going = middle > low
        low, high = np.where(going & below, middle, low), np.where(going & ~below, middle, high)
    return low
