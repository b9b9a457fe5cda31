"""Reading the parameters of a request for trajectories: its own, its solver's, its reward's."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import ValidationError

from protos.complaint import complaint, unknown
from serving.models.dynamics import Dynamics
from serving.requests.dynamics.pieces import default_solver, pieces_of
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.parameters import EVERYWHERE
from serving.wire.solving import Solving
from serving.wire.tensors import Parameter
from steering.dynamics import SOLVERS, Solver

OPTIONS = frozenset(name for solver in SOLVERS.values() for name in solver.options)
"""Parameters that only some solvers take; steering knows their ranges."""


class Parsed(NamedTuple):
    """The parameters of a request in groups.

    Attributes:
        said: names of those that the request has itself.
        options: of the solver.
        reward: arguments of the reward.
    """

    said: frozenset[str]
    parameters: Solving
    solver: Solver
    options: Mapping[str, float]
    reward: Mapping[str, Parameter]


def parse(request: InferRequest, model: Dynamics) -> Parsed:
    """The parameters of a request for trajectories; the card's own are there where it does not say others. A request
    that names another solver than the card's gets none of its options and steps.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the parameter, what was expected and what came.
    """
    kind, card = model.spec.kind, model.spec.solver.said
    usual = card.get("solver", default_solver(model.spec))
    if request.parameters.get("solver", usual) != usual:
        card = {name: each for name, each in card.items() if name in ("rtol", "atol", "max_steps")}
    mine: dict[str, Parameter] = {}
    options: dict[str, Parameter] = {}
    arguments: dict[str, Parameter] = {}
    for name, value in {**card, **request.parameters}.items():
        if name in Solving.model_fields:
            mine[name] = float(value) if name in _NUMBERS and type(value) is int else value
        elif name in OPTIONS:
            options[name] = value
        elif name.startswith(PREFIX):
            arguments[name] = value
        elif name not in EVERYWHERE and not name.startswith("triton_"):
            raise errors.invalid(unknown("parameter", name, [*Solving.model_fields, *OPTIONS, "reward_<argument>"]))
    try:
        parameters = Solving.model_validate(mine)
    except ValidationError as error:
        raise errors.invalid(f"parameter {complaint(error, Solving)}") from None
    served = {name for piece in pieces_of(kind) for name in piece.parameters}
    for name in sorted(parameters.model_fields_set - {*BASE} - served):
        raise errors.invalid(f"parameter {name}: expected none for dynamics of kind {kind}, got one")
    solver = solver_of(parameters.solver or str(usual), kind)
    return Parsed(frozenset(request.parameters), parameters, solver, _numbers(options), arguments)


BASE = ("samples", "seed", "solver", "rtol", "atol", "dt0", "dt", "max_steps", "stream", "reward")
"""Parameters of requests for every kind of dynamics."""
_NUMBERS = ("rtol", "atol", "dt", "dt0", "beta", "threshold")


def solver_of(name: str, kind: str) -> Solver:
    """The solver of a name; INVALID_ARGUMENT with those that there are for a kind of dynamics."""
    found = {each.name: each for each in SOLVERS.values() if kind in each.kinds}
    if name not in found:
        raise errors.invalid(f"{unknown('solver', name, found)} (for dynamics of kind {kind})")
    return found[name]


def _numbers(options: Mapping[str, Parameter]) -> dict[str, float]:
    for name, value in options.items():
        if isinstance(value, str):
            raise errors.invalid(f"parameter {name}: expected a number, got {value!r}")
    return {name: float(value) for name, value in options.items()}
