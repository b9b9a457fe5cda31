"""How far neighbours of a trajectory drift apart: finite-time Lyapunov exponents of a flow.

    lambda_i(t) = log s_i / |t - t_0|,   s_1 >= s_2 >= ... the singular values of dy(t) / dy(t_0)

The first is the FTLE, whose ridges are coherent structures (Haller 2015, Annual Review of Fluid Mechanics 47, 137;
Shadden, Lekien & Marsden 2005, Physica D 212, 271). The derivative is of central differences: each point takes 2 d + 1
rows where a trajectory takes one, d numbers of its state, all with the same steps.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.solution import Solution
from steering.dynamics.together import no_copies, together, widths
from steering.errors import PlanError

LARGEST = 64
"""Numbers of a state."""


def unsuited(solver: Solver, size: int, events: bool) -> str:
    """Why a problem whose states are of `size` numbers has no exponents; empty if it has."""
    if size > LARGEST:
        return f"sensitivity: expected states of at most {LARGEST} numbers, got {size}"
    if events:
        return "sensitivity: expected no events beside it, got some"
    return no_copies(solver)


@dataclass(frozen=True, eq=False)
class Stretching:
    """Attributes: the trajectories; their exponents, the greatest first, NaN at the first time and after a failure."""

    solution: Solution
    exponents: Float64[Tensor, "n T d"]


def stretching(solver: Solver, problem: Problem, width: float | None = None) -> Generator[Ask, Reply, Stretching]:
    """Solve, with neighbours at `width` on both sides of every coordinate; None: as its precision asks.

    Raises:
        PlanError: a state of too many numbers, events, or a solver that is not explicit.
    """
    n, d = problem.n, problem.y0[0].numel()
    if why := unsuited(solver, d, bool(problem.events)):
        raise PlanError(why)
    if width is not None and not 0 < width < float("inf"):
        raise PlanError(f"width: expected a number above 0, got {width:g}")
    y0 = problem.y0.reshape(n, 1, d)
    apart = widths(y0, problem.dtype) if width is None else torch.full_like(y0, width)
    moves = torch.diag_embed(apart[:, 0])
    copies = torch.cat([y0, y0 + moves, y0 - moves], dim=1)
    solution = yield from together(solver, problem, copies.reshape(n, 2 * d + 1, *problem.state))
    y = solution.y.flatten(3) if problem.state else solution.y[..., None]
    ahead, behind = y[:, :, 1 : d + 1], y[:, :, d + 1 :]
    between = (copies[:, 1 : d + 1] - copies[:, d + 1 :]).diagonal(dim1=1, dim2=2)  # as rounded
    gradient = (ahead - behind) / between[:, None, :, None]
    span = (problem.t_eval - problem.t_eval[:, :1]).abs()
    finite = gradient.isfinite().all(-1).all(-1) & (span > 0)
    values = np.linalg.svd(torch.where(finite[..., None, None], gradient, 1.0).numpy(), compute_uv=False)
    exponents = torch.from_numpy(np.log(np.maximum(values, 1e-300))) / span.clamp(min=1e-300)[..., None]
    own = replace(
        solution, y=solution.y[:, :, 0], y_event=solution.y_event[:, :, 0], y_last=solution.y_last[:, 0]
    )  # fmt: skip
    return Stretching(own, torch.where(finite[..., None], exponents, torch.nan))
