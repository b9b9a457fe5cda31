"""Inversion: along the probability flow from data to noise and back (Song et al. 2021, arXiv:2010.02502, 4.3 and 5.4).

A plan in reverse takes the same steps with h < 0. It is not the algebraic inverse of the plan, so data -> noise -> data
comes back with an error: of the solver's order in the step, and of one order more for one-step solvers of even order,
whose errors on both ways cancel to leading order. `round_trip` measures it.

The data are taken for states at t_min, where plans end; noise is a state at t_max, of scale sigma(t_max), fit to be an
`x_init`. Of a plan that ends in D, the way is that of its nodes with noise: D has forgotten what led to it.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from steering.errors import PlanError
from steering.numerics.noise import Noise
from steering.plans.compile import compile_plan, deterministic
from steering.plans.plan import Plan
from steering.sampling.rows import Rows
from steering.sampling.sampler import Problem, sample
from steering.solvers import SOLVERS


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Data -> noise -> data.

    Attributes:
        noise, data: [n, *event], the states reached on the way and at the end.
        error: [n] largest difference to the given data over the elements of a sample.
        network_rows: rows evaluated, over both ways and all samples.
    """

    noise: Tensor
    data: Tensor
    error: Float64[Tensor, " n"]
    network_rows: int


def encode(problem: Problem, data: Tensor) -> Generator[Rows, Tensor, Tensor]:
    """The noise [n, *event] that the problem's deterministic plan, of either direction, would make these data of."""
    noise, _ = yield from _travel(problem, data, reverse=True)
    return noise


def decode(problem: Problem, noise: Tensor) -> Generator[Rows, Tensor, Tensor]:
    """The data [n, *event] that the problem's deterministic plan, of either direction, makes of this noise."""
    data, _ = yield from _travel(problem, noise, reverse=False)
    return data


def round_trip(problem: Problem, data: Tensor) -> Generator[Rows, Tensor, RoundTrip]:
    """Encode, decode, and compare."""
    noise, there = yield from _travel(problem, data, reverse=True)
    back, again = yield from _travel(problem, noise, reverse=False)
    error = (back - data).to(torch.float64).abs().flatten(1).amax(dim=1)
    return RoundTrip(noise, back, error, there + again)


def _travel(problem: Problem, x: Tensor, reverse: bool) -> Generator[Rows, Tensor, tuple[Tensor, int]]:
    """The state at the other end, and the rows it took."""
    if tuple(x.shape[1:]) != problem.event:
        raise ValueError(f"expected tensors of shape [n, {', '.join(map(str, problem.event))}], got {list(x.shape)}")
    plan = directed(problem.plan, reverse)
    end, report = yield from sample(replace(problem, plan=plan), Noise(0, range(len(x))), x_init=x)
    return end, report.network_rows


def directed(plan: Plan, reverse: bool) -> Plan:
    """A deterministic plan, or its counterpart through the same nodes in the other direction."""
    check_deterministic(plan)
    if plan.reverse == reverse and plan.end == "t_min":
        return plan
    if plan.solver == "searched":
        what = "one that ends in D" if plan.reverse == reverse else "'searched'"
        raise PlanError(f"plan: expected a solver that runs both ways, such as {_able()}, got {what}")
    times = sorted((node.t for node in plan.nodes if node.sigma > 0), reverse=True)
    if len(times) < 2:
        raise PlanError("plan: expected a step between two states with noise, got one that makes D of the first")
    return compile_plan(
        SOLVERS, plan.solver, path=plan.path, steps=len(times) - 1, prediction=plan.prediction, grid=times,
        preconditioning=plan.preconditioning, sigma_data=plan.sigma_data, trained=plan.trained, reverse=reverse,
        program=None, limit=plan.limit, end=None, **dict(plan.options),
    )  # fmt: skip


def check_deterministic(plan: Plan) -> None:
    """Refuse plans that draw noise, and those whose steps are no table."""
    if plan.uses_noise or plan.direct:
        what = f"draws noise (eta {plan.eta:g})" if plan.uses_noise else "chooses its own steps"
        raise PlanError(f"plan: expected fixed steps without noise, as of {_able()}; got {plan.solver!r}, which {what}")


def _able() -> str:
    """The solvers that run both ways."""
    return ", ".join(sorted(deterministic(SOLVERS)))
