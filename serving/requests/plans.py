"""From the parameters of a request to the plan it is sampled by."""

from collections.abc import Mapping

import steering
from serving.models.model import Sampler
from serving.wire import errors
from serving.wire.parameters import Parameters
from serving.wire.tensors import Parameter

PATHS = ("edm", "one_sided", "rectified_flow", "sub_vp", "trig_flow", "ve", "vp_cosine", "vp_linear")
"""Paths that any model can be sampled on: they need no arguments and reach any noise level."""


def plan_for(model: Sampler, parameters: Parameters, options: Mapping[str, Parameter]) -> steering.Plan:
    """The compiled plan; `options` are those of the solver.

    Raises:
        RequestError: INVALID_ARGUMENT with what was expected and what came.
    """
    path = model.path
    try:
        if parameters.path is not None:
            if parameters.path not in PATHS:
                raise steering.PlanError(
                    f"path: expected one of {', '.join(PATHS)} to sample on, got {parameters.path!r}"
                )
            path = steering.paths.reschedule(path, steering.paths.build({"kind": parameters.path}))
        return model.plan(
            parameters.solver, parameters.steps, path, grid=parameters.grid, eta=parameters.eta,
            reverse=parameters.reverse, program=_program(model, parameters), **options,
        )  # fmt: skip
    except ValueError as error:
        raise errors.invalid(str(error)) from None


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
