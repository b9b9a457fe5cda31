"""The parameters of a request for samples: names, types and ranges, the wire contract."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import steering
from protos.complaint import complaint, unknown
from serving.engine.scheduler import DEFAULT, LAST
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.tensors import Parameter

EVERYWHERE = ("timeout", "priority", "deterministic")
"""Parameters of every model: the front and the engine read them."""
OPTIONS = frozenset(name for solver in steering.solvers.values() for name in solver.options)
"""Parameters that only some solvers take; steering knows their ranges."""


STEERING = (
    "steering", "reward", "beta", "threshold", "particles", "posterior", "rollout_steps", "refresh", "reward_budget",
    "population", "keep", "inner", "potential", "chains", "candidates", "preset",
)  # fmt: skip
"""Parameters of how samples are steered, and toward what."""


class Parameters(BaseModel):
    """The parameters of a request for samples, with their ranges (the wire contract)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    samples: Annotated[int, Field(ge=1, le=4096)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    solver: str = "dpmpp_2m"
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    grid: str | None = None
    eta: Annotated[float, Field(ge=0)] | None = None
    path: str | None = None
    reverse: bool = False
    guidance: float = 1.0
    likelihood: Literal["data", "sampler"] | None = None
    probes: Annotated[int, Field(ge=2, le=256)] = 4
    reward: str | None = None
    beta: Annotated[float, Field(gt=0)] = 1.0
    threshold: float | None = None
    particles: Annotated[int, Field(ge=2, le=1024, multiple_of=2)] = 32
    steering: str | None = None
    posterior: Literal["bank", "gaussian", "mixture", "neighbours", "rollout"] | None = None
    rollout_steps: Annotated[int, Field(ge=2, le=100)] = 4
    refresh: bool | None = None
    reward_budget: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    population: Annotated[int, Field(ge=2, le=256)] | None = None
    keep: Annotated[int, Field(ge=1, le=256)] | None = None
    inner: Literal["doob", "none"] = "doob"
    potential: Literal["twisted", "difference", "max", "sum"] | None = None
    chains: Annotated[int, Field(ge=1, le=1024)] = 8
    candidates: Annotated[int, Field(ge=1, le=256)] = 8
    preset: str | None = None


@dataclass(frozen=True)
class Terms:
    """How a request is served, whatever it asks for.

    Attributes:
        priority: 1 (first) .. 9 (last).
        deterministic: bytes must not depend on the requests beside it, also where the backend's rows do.
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
    return Terms(priority or DEFAULT, deterministic)


def parse(request: InferRequest) -> tuple[Parameters, dict[str, Parameter], dict[str, Parameter]]:
    """The request's own parameters, those that are options of its solver, and those that are arguments of its reward.

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
            options[name] = value
        elif name.startswith(PREFIX):
            arguments[name] = value
        elif name not in EVERYWHERE and not name.startswith("triton_"):
            raise errors.invalid(unknown("parameter", name, [*Parameters.model_fields, *OPTIONS, "reward_<argument>"]))
    try:
        return Parameters.model_validate(mine), options, arguments
    except ValidationError as error:
        raise errors.invalid(f"parameter {complaint(error, Parameters)}") from None
