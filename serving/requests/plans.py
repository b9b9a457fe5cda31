"""From the parameters of a request to the plan it is sampled by."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

import steering
from serving.models.model import Sampler
from serving.wire import errors, solver_names
from serving.wire.parameters import MOST_STEPS, Parameters
from serving.wire.tensors import Parameter

PATHS = ("edm", "one_sided", "rectified_flow", "sub_vp", "trig_flow", "ve", "vp_cosine", "vp_linear")
"""Paths that any model can be sampled on: they need no arguments and reach any noise level."""
BEGUN = 0.05
"""The part of data beside noise of 1 that a grid may begin with, beyond its path's, without a warning."""


def plan_for(
    model: Sampler, parameters: Parameters, options: Mapping[str, Parameter], grid: Tensor | None = None
) -> steering.Plan:
    """The compiled plan; `options` are those of the solver, `grid` the nodes of an explicit one.

    Raises:
        RequestError: INVALID_ARGUMENT with what was expected and what came.
    """
    path, end = model.path, parameters.end
    try:
        if parameters.path is not None:
            if parameters.path not in PATHS:
                raise steering.PlanError(
                    f"path: expected one of {', '.join(PATHS)} to sample on, got {parameters.path!r}"
                )
            end = end or ("denoise" if path.ends_in_data and not parameters.reverse else None)
            path = steering.paths.reschedule(path.finite, steering.paths.build({"kind": parameters.path}))
        _check_start(parameters)
        if parameters.solver not in steering.solvers and (near := solver_names.instead(parameters.solver)):
            raise steering.PlanError(
                f"solver {parameters.solver!r}: there is none like it here, the nearest is {near!r}"
            )
        if parameters.likelihood is not None:  # its integrator takes the nodes as they are
            path, end = path.finite, "t_min"
        steps, nodes = parameters.steps, _grid(parameters, path, grid)
        if end == "denoise" and isinstance(nodes, tuple) and not (path.ends_in_data and nodes[-1] == path.t_min):
            steps += 1  # from the last node to D
            if len(nodes) > MOST_STEPS:
                raise steering.PlanError(
                    f"grid: expected at most {MOST_STEPS} nodes beside end 'denoise', which adds one, got {len(nodes)}"
                )
        plan = model.plan(
            parameters.solver, steps, path, grid=nodes, eta=parameters.eta, reverse=parameters.reverse,
            program=_program(model, parameters), start_t=parameters.start_t,
            strength=1.0 if parameters.strength is None else parameters.strength, end=end, **options,
        )  # fmt: skip
        _check_times(model, plan)
        return plan
    except ValueError as error:
        raise errors.invalid(str(error)) from None


def interval_of(plan: steering.Plan, parameters: Parameters) -> tuple[float, float] | None:
    """The log-SNRs between which guidance acts; None for everywhere.

    Raises:
        RequestError: INVALID_ARGUMENT for an end above the other.
    """
    low, high = parameters.guidance_low, parameters.guidance_high
    if low is None and high is None:
        return None
    try:
        return steering.units.interval(low, high, parameters.guidance_unit, plan.path)
    except ValueError as error:
        raise errors.invalid(f"guidance_low and guidance_high: {error}") from None


def notes_of(plan: steering.Plan) -> list[str]:
    """Warnings about a plan whose nodes a request gave, and which starts from noise alone."""
    if plan.grid != "explicit" or plan.reverse:
        return []
    first, begin = plan.nodes[0], math.exp(float(plan.path.log_snr(plan.path.t_max)))
    if first.sigma * (begin + BEGUN) >= first.alpha:
        return []
    return [
        f"the grid begins at t={first.t:.4g}, where data have a part of {first.alpha:.2g} beside noise of "
        f"{first.sigma:.2g}, and a start without x_init leaves it out"
    ]


def _check_start(parameters: Parameters) -> None:
    """Refuse two starts, and a start in the middle of a plan in reverse."""
    given = [name for name in ("strength", "start_t") if getattr(parameters, name) is not None]
    if len(given) == 2:
        raise steering.PlanError("strength: expected none beside start_t, got both")
    if given and parameters.reverse:
        raise steering.PlanError(f"{given[0]}: expected none beside reverse, which starts from data, got both")


def _grid(parameters: Parameters, path: steering.Path, grid: Tensor | None) -> str | tuple[float, ...] | None:
    """The grid by name or by its times."""
    if grid is not None:
        return steering.units.explicit(grid, parameters.grid_unit or "t", path, MOST_STEPS + 1)
    if parameters.grid_unit is not None:
        raise steering.PlanError("grid_unit: expected an input grid beside it, got none")
    return parameters.grid


def _check_times(model: Sampler, plan: steering.Plan) -> None:
    """Refuse plans that ask the network at a time of which its time input has no value."""
    stages = (*plan.opening, *plan.stages, *plan.closing)
    t = torch.tensor([stage.denoise.t for stage in stages], dtype=torch.float64)
    fed = steering.paths.time_input(model.card.inputs.time)(model.path, t)
    if not bool(fed.isfinite().all()):
        first = int((~fed.isfinite()).nonzero()[0])
        raise steering.PlanError(
            f"time input {model.card.inputs.time!r}: expected a finite number wherever the network is asked, got "
            f"{float(fed[first])} at t={float(t[first]):g}"
        )


def _program(model: Sampler, parameters: Parameters) -> steering.Program | None:
    """The searched program for this number of steps; None if the solver is not "searched"."""
    if parameters.solver != "searched":
        return None
    if not model.programs:
        raise steering.PlanError(
            f"solver 'searched': expected a searched program beside model {model.name!r}, got none; "
            f"`tiltserve search-plan {model.name}` makes some"
        )
    if parameters.steps not in model.programs:
        there = ", ".join(map(str, sorted(model.programs)))
        raise steering.PlanError(
            f"steps: model {model.name!r} has searched programs for {there} steps, got {parameters.steps}"
        )
    return model.programs[parameters.steps]
