"""How many network rows a request is likely to take, from the message alone: cheap, and enough to choose a replica."""

from tritonclient.grpc import service_pb2 as pb

import steering
from serving.requests import likelihood
from serving.requests.parameters import Parameters

_MOST = 2**31


def rows_of(request: pb.ModelInferRequest, *, sampler: bool) -> int:
    """Network rows of a request that need not be valid: what cannot be read counts as its default.

    Args:
        sampler: whether the model draws samples; else the rows are those of its first input.
    """
    if not sampler:
        shape = request.inputs[0].shape if request.inputs else ()
        return min(_MOST, max(1, shape[0])) if shape else 1
    solver = steering.solvers.get(_text(request, "solver", "dpmpp_2m"))
    rows_a_step = solver.rows_per_step if solver is not None else 1
    samples, steps = _number(request, "samples"), _number(request, "steps")
    guided = "guidance" in request.parameters and request.parameters["guidance"].double_param != 1
    doubled = 2 if guided and request.inputs else 1
    rows, together = _stage_rows(request)
    return min(_MOST, -(-samples // together) * rows * steps * rows_a_step * doubled)


def _stage_rows(request: pb.ModelInferRequest) -> tuple[int, int]:
    """Rows of a stage, and how many samples they are for."""
    if "likelihood" in request.parameters:
        return likelihood.rows_per_step(_number(request, "probes")), 1
    method = _text(request, "steering", "doob")
    if method in ("smc", "fk_steering"):
        population = _number(request, "population", 64 if method == "smc" else 16)
        return population, _number(request, "keep", population if method == "smc" else 1)
    if method in ("best_of", "doit"):
        return _number(request, "chains", 1 if method == "doit" else None), 1
    if method == "svdd":
        return _number(request, "candidates"), 1
    if method == "doob" and _text(request, "posterior", "bank") == "rollout":
        return 1 + _number(request, "particles") * _number(request, "rollout_steps"), 1
    return 1, 1


def _text(request: pb.ModelInferRequest, name: str, default: str) -> str:
    return (request.parameters[name].string_param or default) if name in request.parameters else default


def _number(request: pb.ModelInferRequest, name: str, default: int | None = None) -> int:
    """An integer parameter, at least 1."""
    value = request.parameters.get(name)
    given = 0 if value is None else value.int64_param or value.uint64_param
    if given < 1:
        given = Parameters.model_fields[name].default if default is None else default
    return min(given, _MOST)
