"""Time grids: where on a path the N + 1 nodes of an N-step plan lie, from t_max down to t_min, both included."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError, choose
from steering.paths import Path

Nodes = Float64[Tensor, " nodes"]
KARRAS_RHO = 7.0


def uniform(path: Path, steps: int) -> Nodes:
    """Uniform in the path's own time."""
    return torch.linspace(path.t_max, path.t_min, steps + 1, dtype=torch.float64)


def logsnr(path: Path, steps: int) -> Nodes:
    """Uniform in the log signal-to-noise ratio (Lu et al. 2022, arXiv:2206.00927)."""
    first, last = float(path.log_snr(path.t_max)), float(path.log_snr(path.t_min))
    return path.time_of_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def karras(path: Path, steps: int) -> Nodes:
    """Uniform in rho^(1/7), rho = sigma / alpha (Karras et al. 2022, arXiv:2206.00364, eq. 5)."""
    first, last = (torch.exp(-path.log_snr(t) / KARRAS_RHO) for t in (path.t_max, path.t_min))
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return path.time_of_log_snr(-KARRAS_RHO * torch.log(first + ramp * (last - first)))


GRIDS: Mapping[str, Callable[[Path, int], Nodes]] = {"uniform": uniform, "logsnr": logsnr, "karras": karras}


def nodes(grid: str | Sequence[float], path: Path, steps: int) -> Nodes:
    """The grid's nodes, strictly decreasing; an explicit sequence of steps + 1 times is taken as it is."""
    if isinstance(grid, str):
        if grid not in GRIDS:
            raise PlanError(choose("grid", grid, GRIDS))
        times = GRIDS[grid](path, steps)
        times[0], times[-1] = path.t_max, path.t_min  # exact ends, free of the inverse's rounding
    else:
        times = torch.as_tensor(grid, dtype=torch.float64)
        if times.shape != (steps + 1,):
            raise PlanError(f"an explicit grid for {steps} steps has {steps + 1} times, got {len(times)}")
    if not bool((times.diff() < 0).all()) or times[-1] < path.t_min or times[0] > path.t_max:
        raise PlanError(f"grid times must fall strictly inside [{path.t_min}, {path.t_max}], got {times.tolist()}")
    return times
