"""What the nodes of a grid and the ends of an interval may be given in: times, noise levels, log-SNRs."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path

Unit = Literal["t", "sigma", "rho", "logsnr"]
"""The path's time t; its sigma(t); the noise level rho = sigma / alpha; log(alpha / sigma) = -log(rho).

What EDM and the solvers of variance-preserving models in diffusers call sigma is rho; that of flow matching is t.
"""
UNITS = get_args(Unit)
HALVINGS = 80
LEAST = 1e-5
"""Log-SNR from one node to the next: multistep solvers extrapolate by quotients of their distances."""
SLACK, SINGLE = 1e-5, 2.5e-7
"""Relative distances that are taken for an end of the path: beyond it, and within, where it is single precision's."""


def times(values: Sequence[float] | Tensor, unit: str, path: Path) -> Float64[Tensor, " k"]:
    """Path times of values in a unit, which may lie outside of the path; NaN for those that have no time.

    Raises:
        PlanError: an unknown unit.
    """
    if unit not in UNITS:
        raise PlanError(choose("unit", unit, UNITS))
    given = torch.as_tensor(values, dtype=torch.float64)
    if unit == "t":
        return given
    if unit == "sigma":
        return _of_sigma(given, path)
    log_snr = given if unit == "logsnr" else -torch.log(given)
    ends = path.log_snr(torch.tensor([path.t_max, path.t_min], dtype=torch.float64))
    found = path.time_of_log_snr(log_snr.clamp(ends[0], ends[1]))
    # a path may have no times beyond its ends
    slack = SLACK * ends.abs().clamp(min=1.0)
    off = (log_snr < ends[0] - slack[0]) | (log_snr > ends[1] + slack[1]) | log_snr.isnan()
    return torch.where(off, torch.nan, found)


def log_snr(value: float, unit: str, path: Path) -> float:
    """The log-SNR of a value in a unit; -inf for noise beyond the path's end, inf for data beyond the other."""
    if unit == "logsnr":
        return value
    if unit == "rho":
        return -math.log(value) if value > 0 else math.inf
    ends = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
    low, high = (path.sigma(ends) if unit == "sigma" else ends).tolist()
    if not low * (1 - SLACK) <= value <= high * (1 + SLACK):
        return -math.inf if value > high else math.inf
    time = float(times([value], unit, path)[0])
    return float(path.log_snr(min(max(time, path.t_min), path.t_max)))


def interval(low: float | None, high: float | None, unit: str, path: Path) -> tuple[float, float]:
    """Log-SNRs between two values in a unit, the noisier first; None is an open end.

    Raises:
        PlanError: an unknown unit, or low not below high.
    """
    if unit not in UNITS:
        raise PlanError(choose("unit", unit, UNITS))
    if low is not None and high is not None and not low < high:
        raise PlanError(f"interval: expected two values of {unit}, the lower first, got {low:g} and {high:g}")
    noisy, clean = (low, high) if unit == "logsnr" else (high, low)
    return (
        -math.inf if noisy is None else log_snr(noisy, unit, path),
        math.inf if clean is None else log_snr(clean, unit, path),
    )


def explicit(values: Sequence[float] | Tensor, unit: str, path: Path, most: int) -> tuple[float, ...]:
    """An explicit grid as path times, from noise to data.

    Raises:
        PlanError: fewer than 2 or more than `most` nodes, one that is not finite or outside of the path, or two that do
            not fall from noise to data or lie too close.
    """
    given = torch.as_tensor(values, dtype=torch.float64)
    if given.ndim != 1 or not 2 <= len(given) <= most:
        raise PlanError(f"grid: expected 2..{most} nodes in one row, got {list(given.shape)}")
    if not bool(given.isfinite().all()):
        raise PlanError("grid: expected finite nodes, got NaN or infinity")
    found = times(given, unit, path)
    for end, value, sign in zip((path.t_max, path.t_min), _ends(unit, path), (1, -1), strict=True):
        if not math.isfinite(value):  # no node can be given there
            continue
        scale = max(abs(value), 1.0) if unit == "logsnr" else abs(value)
        beyond = (given - value) * (-sign if unit == "logsnr" else sign)
        found = torch.where((beyond >= -SINGLE * scale) & (beyond <= SLACK * scale), end, found)
    if bool((off := found.isnan() | (found < path.t_min) | (found > path.t_max)).any()):
        first = int(off.nonzero()[0])
        raise PlanError(f"grid: expected nodes in {_range(unit, path)}, got {float(given[first]):.9g} at {first}")
    if bool((rising := found.diff() >= 0).any()):
        first = int(rising.nonzero()[0])
        said = f"{float(given[first]):.9g} and then {float(given[first + 1]):.9g} at {first + 1}"
        raise PlanError(f"grid: expected {unit} strictly from noise to data, {_range(unit, path)}, got {said}")
    if bool((close := path.log_snr(found).diff() < LEAST).any()):
        first = int(close.nonzero()[0])
        said = f"{float(given[first]):.9g} and then {float(given[first + 1]):.9g} at {first + 1}"
        raise PlanError(f"grid: expected nodes at least {LEAST:g} of log-SNR apart, got {said}")
    return tuple(found.tolist())


def _range(unit: str, path: Path) -> str:
    """A path's ends in a unit, the noise first."""
    first, last = _ends(unit, path)
    return f"{first:.9g}..{last:.9g}"


def _ends(unit: str, path: Path) -> tuple[float, float]:
    """A path's ends in a unit, the noise first."""
    ends = torch.tensor([path.t_max, path.t_min], dtype=torch.float64)
    log_snr = path.log_snr(ends)
    in_unit = {"t": ends, "sigma": path.sigma(ends), "logsnr": log_snr, "rho": torch.exp(-log_snr)}
    first, last = in_unit[unit].tolist()
    return first, last


def _of_sigma(sigma: Float64[Tensor, " k"], path: Path) -> Float64[Tensor, " k"]:
    """The times at which sigma(t), which rises, has these values, by halving; NaN outside of the path."""
    low, high = torch.full_like(sigma, path.t_min), torch.full_like(sigma, path.t_max)
    least, most = path.sigma(low), path.sigma(high)
    off = (sigma < least * (1 - SLACK)) | (sigma > most * (1 + SLACK)) | sigma.isnan()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = path.sigma(middle) < sigma
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(off, torch.nan, high)
