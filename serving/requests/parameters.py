"""Reading the parameters of a request: what is the sampler's, its solver's, its reward's, and how it is served."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import ValidationError

import steering
from protos.complaint import complaint, unknown
from serving.engine.scheduler import DEFAULT, LAST
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.defaults import completed
from serving.wire.kserve import InferRequest
from serving.wire.parameters import EVERYWHERE, Parameters
from serving.wire.tensors import SINGLE, Parameter

OPTIONS = frozenset(name for solver in steering.solvers.values() for name in solver.options)
"""Parameters that only some solvers take; steering knows their ranges."""


@dataclass(frozen=True)
class Terms:
    """How a request is served: parameters of every model.

    Attributes:
        priority: 1 (first) .. 9 (last).
        deterministic: bytes must not depend on other requests, even if the backend's rows do; see `determinism`.
    """

    priority: int = DEFAULT
    deterministic: bool = False


def terms_of(request: InferRequest) -> Terms:
    """The terms in a request's parameters; raises INVALID_ARGUMENT, naming the parameter."""
    priority = request.parameters.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= LAST:
        raise errors.invalid(
            f"parameter priority: expected an integer in 1..{LAST}, or 0 for {DEFAULT}, got {priority!r}"
        )
    deterministic = request.parameters.get("deterministic", False)
    if not isinstance(deterministic, bool):
        raise errors.invalid(f"parameter deterministic: expected a valid boolean, got {deterministic!r}")
    return Terms(priority or DEFAULT, deterministic or request.parameters.get("trajectory") is True)


def parse(
    request: InferRequest, defaults: Mapping[str, Parameter] = MappingProxyType({})
) -> tuple[Parameters, dict[str, Parameter], dict[str, Parameter]]:
    """The request's parameters in three groups: its own, options of its solver, arguments of its reward.

    Args:
        defaults: the model's own, for what the request does not say.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the parameter, what was expected and what came.
    """
    mine: dict[str, Parameter] = {}
    options: dict[str, Parameter] = {}
    arguments: dict[str, Parameter] = {}
    for name, value in request.parameters.items():
        if name in Parameters.model_fields:
            mine[name] = value
        elif name in OPTIONS:
            if isinstance(value, float) and abs(value) > SINGLE:
                raise errors.invalid(f"parameter {name}: expected a number of at most {SINGLE:g}, got {value:g}")
            options[name] = value
        elif name.startswith(PREFIX):
            arguments[name] = value
        elif name not in EVERYWHERE and not name.startswith("triton_"):
            raise errors.invalid(unknown("parameter", name, [*Parameters.model_fields, *OPTIONS, "reward_<argument>"]))
    try:
        parameters = Parameters.model_validate(mine)
    except ValidationError as error:
        raise errors.invalid(f"parameter {complaint(error, Parameters)}") from None
    return *completed(parameters, options, defaults), arguments
