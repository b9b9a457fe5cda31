"""The times of a chain's steps."""

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from steering.errors import PlanError

MOST = 100_000
ROUNDING = 1e-9


def nodes(t_eval: Float64[Tensor, " T"], dt: float | None) -> tuple[Float64[Tensor, " steps+1"], Int64[Tensor, " T"]]:
    """Nodes dt apart from the first time on, and at every time that is asked for; and which of them these are.

    Args:
        t_eval: rising.
        dt: longest step; None: one step from each time to the next.
    """
    if t_eval.ndim != 1 or len(t_eval) < 2 or not bool(t_eval.isfinite().all()):
        raise PlanError(f"t_eval: expected two finite times or more, got {list(t_eval.shape)}")
    if not bool((t_eval.diff() > 0).all()):
        raise PlanError("t_eval: expected rising times beside steering")
    if dt is None:
        return t_eval, torch.arange(len(t_eval))
    if not (math.isfinite(dt) and dt > 0):
        raise PlanError(f"dt: expected a finite number > 0, got {dt!r}")
    span = float(t_eval[-1] - t_eval[0])
    if span / dt > MOST:
        raise PlanError(f"dt: expected at most {MOST} steps, got {span / dt:.0f}")
    regular = t_eval[0] + dt * torch.arange(1, math.ceil(span / dt), dtype=torch.float64)
    near = (regular[:, None] - t_eval[None]).abs().amin(dim=1) <= ROUNDING * dt if len(regular) else regular.bool()
    times = torch.cat([regular[~near], t_eval]).sort().values
    return times, torch.searchsorted(times, t_eval)
