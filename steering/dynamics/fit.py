"""Parameters of a field from observed trajectories, by least squares.

    minimise  sum_i r_i(p)^2,   r = (y(t; p) - observed) / sigma

Levenberg & Marquardt with Nielsen's damping (Madsen, Nielsen & Tingleff 2004, "Methods for non-linear least squares
problems", section 3.2). Columns of the Jacobian are copies of the trajectories with a parameter moved a little: rows of
the model in the same calls. An iteration is one solve, of the next parameters and their columns at once.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from steering.dynamics.asking import Ask, Reply
from steering.dynamics.problem import Problem, Solver
from steering.dynamics.together import together
from steering.errors import PlanError

Floats = NDArray[np.float64]
MOST_PARAMETERS = 256
SHARE, LEAST_DAMPING, MOST_DAMPING = 1e-3, 1e-14, 1e12


@dataclass(frozen=True, eq=False)
class Fitted:
    """What fits best.

    Attributes:
        parameters: where the sum of squares was least.
        deviations: their standard deviations, from the residuals' size and the Jacobian; NaN where the data do not tell
            the parameters apart.
        covariance: likewise.
        cost: half the sum of squares at the start and after each iteration that lowered it.
        converged: a step became smaller than `tolerance`, or the gradient did; else the iterations ran out.
        iterations: solves.
        evaluations: rows of the field.
    """

    parameters: Float64[Tensor, " p"]
    deviations: Float64[Tensor, " p"]
    covariance: Float64[Tensor, "p p"]
    cost: tuple[float, ...]
    converged: bool
    iterations: int
    evaluations: int = 0


def columns(parameters: Floats, lower: Floats, upper: Floats, share: float) -> tuple[Floats, Floats]:
    """The parameters, and a copy for each with it moved (inward at a bound) [p + 1, p]; by how much each was [p]."""
    move = share * np.maximum(np.abs(parameters), 1e-3)
    move = np.where(parameters + move > upper, -move, move)
    copies = parameters + np.concatenate([np.zeros((1, len(parameters))), np.diag(move)])
    return copies, np.diagonal(copies[1:]) - parameters


def least_squares(
    start: Sequence[float] | Floats,
    *,
    lower: Sequence[float] | Floats | None = None,
    upper: Sequence[float] | Floats | None = None,
    share: float = 1e-6,
    tolerance: float = 1e-8,
    max_iterations: int = 50,
) -> Generator[Floats, Floats, Fitted]:
    """Yields parameters [p + 1, p], is sent their residuals [p + 1, m], and returns what fits best.

    Args:
        share: the part of a parameter that its column moves it by.
        tolerance: of the last step, relative to the parameters, and of the gradient, relative to the cost.

    Raises:
        PlanError: bounds or numbers that are not as expected, or residuals of the start that are not finite.
    """
    p = np.array(start, np.float64)
    low = np.full_like(p, -np.inf) if lower is None else np.array(lower, np.float64)
    high = np.full_like(p, np.inf) if upper is None else np.array(upper, np.float64)
    if p.ndim != 1 or not 1 <= len(p) <= MOST_PARAMETERS or low.shape != p.shape or high.shape != p.shape:
        raise PlanError(f"parameters: expected 1..{MOST_PARAMETERS} of them, with as many bounds, got {p.shape}")
    if not (np.isfinite(p) & (low <= p) & (p <= high)).all():
        raise PlanError("parameters: expected finite ones within their bounds at the start")
    if max_iterations < 1 or not 0 < share < 1 or not tolerance > 0:
        raise PlanError("fit: expected max_iterations of at least 1, share in 0..1 and a tolerance above 0")
    copies, moves = columns(p, low, high, share)
    residual, jacobian = _taken((yield copies), moves)
    cost = _cost(residual)
    if not math.isfinite(cost):
        raise PlanError("fit: expected finite trajectories at the first parameters, got NaN")
    costs, damping, raising = [cost], SHARE, 2.0
    iterations, converged = 1, False
    while iterations < max_iterations and not converged:
        gradient = jacobian.T @ residual
        free = ~(((p <= low) & (gradient > 0)) | ((p >= high) & (gradient < 0)))
        size = np.sqrt((jacobian * jacobian).sum(0))
        size[size == 0] = 1.0
        if not free.any() or np.abs(gradient[free] / size[free]).max() <= tolerance * math.sqrt(2 * cost) + 1e-300:
            converged = True
            break
        # (J'J + damping diag(J'J)) step = -J'r, as least squares: squaring J would lose half the digits
        scaled = np.where(free, jacobian / size, 0.0)
        system = np.concatenate([scaled, math.sqrt(damping) * np.eye(len(p))])
        step = np.linalg.lstsq(system, -np.concatenate([residual, np.zeros(len(p))]), rcond=None)[0] / size
        after = np.clip(p + np.where(free, step, 0.0), low, high)
        copies, moves = columns(after, low, high, share)
        new_residual, new_jacobian = _taken((yield copies), moves)
        iterations += 1
        new_cost = _cost(new_residual)
        foreseen = cost - _cost(residual + jacobian @ (after - p))
        small = bool(np.all(np.abs(after - p) <= tolerance * (np.abs(p) + tolerance)))
        if new_cost < cost:
            gain = (cost - new_cost) / foreseen if foreseen > 0 else 1.0
            damping = max(damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), LEAST_DAMPING)
            raising = 2.0
            p, residual, jacobian, cost = after, new_residual, new_jacobian, new_cost
            costs.append(cost)
            converged = small
        else:
            converged = small
            damping, raising = damping * raising, raising * 2
            if damping > MOST_DAMPING:
                break
    covariance = _covariance(residual, jacobian, cost)
    return Fitted(
        torch.from_numpy(p), torch.from_numpy(np.sqrt(np.diagonal(covariance))), torch.from_numpy(covariance),
        tuple(costs), converged, iterations,
    )  # fmt: skip


def _taken(residuals: Floats, moves: Floats) -> tuple[Floats, Floats]:
    """The residual [m] and its Jacobian [m, p]; a column that is not finite tells nothing."""
    jacobian = ((residuals[1:] - residuals[0]) / moves[:, None]).T
    return residuals[0], np.where(np.isfinite(jacobian), jacobian, 0.0)


def _cost(residual: Floats) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        cost = float((residual * residual).sum()) / 2
    return cost if math.isfinite(cost) else math.inf


def _covariance(residual: Floats, jacobian: Floats, cost: float) -> Floats:
    m, p = jacobian.shape
    _, values, right = np.linalg.svd(jacobian, full_matrices=False)
    if m <= p or len(values) < p or values[-1] <= values[0] * np.finfo(np.float64).eps * m:
        return np.full((p, p), np.nan)
    spread: Floats = (right.T / values**2) @ right * (2 * cost / (m - p))
    return spread


def fitting(
    solver: Solver,
    problem: Problem,
    observed: Float64[Tensor, "n T *state"],
    start: Mapping[str, Tensor],
    *,
    sigma: float | Tensor = 1.0,
    lower: Mapping[str, Tensor] | None = None,
    upper: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 50,
) -> Generator[Ask, Reply, tuple[Fitted, Mapping[str, Tensor]]]:
    """Fit conditions of the field that all trajectories have in common.

    Args:
        observed: at the problem's times; NaN where nothing was observed.
        start: first parameters by the name of the condition, of its shape for one trajectory. Rows carry them in
            `extra`.
        sigma: deviation of the observations, a number or of their shape.
        lower, upper: bounds, likewise.

    Returns: the fit, and the parameters by name. A trajectory that fails makes parameters that are not taken.
    """
    if observed.shape != (problem.n, problem.t_eval.shape[1], *problem.state):
        want = [problem.n, problem.t_eval.shape[1], *problem.state]
        raise PlanError(f"observed: expected {want}, got {list(observed.shape)}")
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in start.items()}
    known = observed.isfinite()
    if not values or not bool(known.any()):
        raise PlanError("fit: expected a parameter and an observation at least")
    deviation = torch.as_tensor(sigma, dtype=torch.float64).expand(observed.shape)
    if not bool((deviation[known] > 0).all()):
        raise PlanError("sigma: expected numbers above 0")
    bounds = [
        None if given is None else torch.cat([
            torch.as_tensor(given.get(name, end), dtype=torch.float64).expand_as(value).flatten()
            for name, value in values.items()
        ]).numpy()
        for given, end in ((lower, -math.inf), (upper, math.inf))
    ]  # fmt: skip
    # a column must differ by more than what is uncertain of a trajectory: a solver that chooses its steps leaves rtol
    uncertain = max(4 * torch.finfo(problem.dtype).eps, float(problem.rtol.max()) if solver.adaptive else 0.0)
    share = min(uncertain**0.5, 0.01)
    search = least_squares(
        torch.cat([value.flatten() for value in values.values()]).numpy(), lower=bounds[0], upper=bounds[1],
        share=share, tolerance=tolerance, max_iterations=max_iterations,
    )  # fmt: skip
    rows = 0
    try:
        trial = next(search)
        while True:
            copies = len(trial)
            named = _named(values, torch.from_numpy(trial))
            y0 = problem.y0.unsqueeze(1).expand(-1, copies, *problem.state).contiguous()
            solution = yield from together(solver, problem, y0, named)
            rows += int(solution.evaluations.sum())
            apart = (solution.y.transpose(1, 2).transpose(0, 1) - observed) / deviation  # [k, n, T, *state]
            trial = search.send(apart[:, known].numpy())
    except StopIteration as stop:
        fitted: Fitted = stop.value
    named = {name: value[0] for name, value in _named(values, fitted.parameters[None]).items()}
    return Fitted(**{**vars(fitted), "evaluations": rows}), named


def _named(values: Mapping[str, Tensor], flat: Float64[Tensor, "k p"]) -> dict[str, Tensor]:
    parts = flat.split([value.numel() for value in values.values()], dim=1)
    return {name: part.reshape(-1, *value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}
