"""The input tensors of a request for trajectories, checked against the model's card before anything is made of them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from protos.card import Condition
from protos.complaint import unknown
from serving.backends import Array, GraphTensor, shown
from serving.models.adapter import misfit
from serving.models.dynamics import Dynamics, Side
from serving.requests.tensors import came
from serving.rewards import PREFIX
from serving.wire import errors
from serving.wire.kserve import InferRequest
from serving.wire.solving import EACH, MOST_TIMES, MOST_TRAJECTORIES, TIMES, Y0, Solving
from serving.wire.tensors import TEXTS, datatype


@dataclass(frozen=True, eq=False)
class Tensors:
    """The tensors of a request for n trajectories; as `Asked` has them.

    Attributes:
        reward: arguments of the reward.
        others: inputs that pieces read.
    """

    y0: Tensor
    encoded: Mapping[str, Array] | None
    t_eval: Tensor
    each: Mapping[str, float | Tensor]
    condition: Mapping[str, Array]
    reward: Mapping[str, Array]
    others: Mapping[str, Array]


def tensors_of(request: InferRequest, model: Dynamics, parameters: Solving, others: Collection[str]) -> Tensors:
    """The inputs of a request.

    Args:
        others: names of inputs that pieces read.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input, what was expected and what came.
    """
    inputs = request.inputs
    encoder = {each.name: each for each in model.encoder.inputs} if model.encoder is not None else {}
    names = {Y0, TIMES, *EACH, *model.conditions, *encoder, *others}
    for name, value in inputs.items():
        if name not in names and not name.startswith(PREFIX):
            raise errors.invalid(unknown("input", name, names))
        if value.dtype == TEXTS:
            raise errors.invalid(f"input {name!r}: expected numbers, got {came(value)}")
    times = _times(inputs, optional=model.spec.kind == "fixed_point")
    y0, encoded = None, None
    if model.encoder is not None and Y0 not in inputs:
        encoded, rows = _encoded(model.encoder, inputs)
    else:
        if sent := [name for name in encoder if name in inputs and name not in model.conditions]:
            raise errors.invalid(f"input {sent[0]!r}: expected none beside {Y0}, got one")
        y0 = _start(model, inputs)
        rows = len(y0)
    n = _count(rows, times, parameters.samples)
    condition = {name: _condition(model, spec, name, inputs.get(name), n) for name, spec in model.conditions.items()}
    each = _each(inputs, request, parameters, n)
    start = torch.zeros(1, *model.state, dtype=torch.float64) if y0 is None else torch.from_numpy(y0)
    start = start.expand(n, *model.state) if len(start) != n else start
    if encoded is not None:
        encoded = {name: np.broadcast_to(value, (n, *value.shape[1:])) for name, value in encoded.items()}
    reward = {name: value for name, value in inputs.items() if name.startswith(PREFIX)}
    return Tensors(
        start, encoded, torch.from_numpy(times), each, condition, reward,
        {name: inputs[name] for name in others if name in inputs},
    )  # fmt: skip


def _start(model: Dynamics, inputs: Mapping[str, Array]) -> Array:
    """First states [n, *state] in float64; one state may come without its axis."""
    wanted = f"input {Y0!r}: expected FP32 or FP64 {shown(('n', *model.state))}"
    value = inputs.get(Y0)
    if value is None:
        or_else = "" if model.encoder is None else f", or {', '.join(each.name for each in model.encoder.inputs)}"
        raise errors.invalid(f"{wanted}{or_else}, got none")
    if (
        value.dtype not in (np.float32, np.float64)
        or value.shape[1:] != model.state
        or not value.ndim
        or not len(value)
    ):
        raise errors.invalid(f"{wanted}, got {came(value)}")
    return value.astype(np.float64)


def _encoded(encoder: Side, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
    """The encoder's inputs [n, ...] or [1, ...], and n."""
    given = dict[str, Array]()
    for tensor in encoder.inputs:
        wanted = f"input {tensor.name!r}: expected {datatype(tensor.dtype)} {shown(('n', *tensor.row))}"
        value = inputs.get(tensor.name)
        if value is None:
            raise errors.invalid(f"{wanted}, or {Y0} instead, got none")
        if value.ndim == 2 and not tensor.row and value.shape[1] == 1:
            value = value[:, 0]
        same = value.dtype == tensor.dtype or (value.dtype.kind == tensor.dtype.kind == "f" and value.itemsize > 2)
        if not same or not value.ndim or not len(value) or not tensor.fits(value.shape[1:]):
            raise errors.invalid(f"{wanted}, got {came(value)}")
        given[tensor.name] = value
    sizes = {name: len(value) for name, value in given.items()}
    if len({*sizes.values()} - {1}) > 1:
        raise errors.invalid(f"inputs: expected one number of trajectories, got {sizes}")
    return given, max(sizes.values(), default=1)


def _times(inputs: Mapping[str, Array], *, optional: bool) -> Array:
    """Times [T] or [n, T] in float64; the solver checks their order. Optional ones are a single 0."""
    value = inputs.get(TIMES)
    wanted = f"input {TIMES!r}: expected FP64 or FP32 [T] or [n, T] with T in 1..{MOST_TIMES}"
    if value is None and optional:
        return np.zeros(1)
    if value is None:
        raise errors.invalid(f"{wanted}, got none")
    if value.dtype not in (np.float32, np.float64) or value.ndim not in (1, 2):
        raise errors.invalid(f"{wanted}, got {came(value)}")
    if not 1 <= value.shape[-1] <= MOST_TIMES or not len(value):
        raise errors.invalid(f"{wanted}, got {came(value)}")
    return value.astype(np.float64)


def _count(rows: int, times: Array, samples: int | None) -> int:
    """How many trajectories there are, by all that says so."""
    said = {"y0": rows} | ({TIMES: len(times)} if times.ndim == 2 else {})
    said |= {} if samples is None else {"samples": samples}
    found = {each for each in said.values() if each != 1}
    if len(found) > 1:
        raise errors.invalid(f"inputs: expected one number of trajectories, got {said}")
    n = max(found, default=1)
    if n > MOST_TRAJECTORIES:
        raise errors.invalid(f"inputs: expected at most {MOST_TRAJECTORIES} trajectories, got {n}")
    return n


def _each(inputs: Mapping[str, Array], request: InferRequest, parameters: Solving, n: int) -> dict[str, float | Tensor]:
    """Numbers for all trajectories, or for each."""
    each = dict[str, float | Tensor]()
    for name in EACH:
        value, said = inputs.get(name), getattr(parameters, name)
        if value is None:
            if said is not None:
                each[name] = said
            continue
        if name in request.parameters:
            raise errors.invalid(f"{name}: expected it as an input or as a parameter, got both")
        if value.dtype not in (np.float32, np.float64) or value.shape not in ((n,), (n, 1), (1,)):
            raise errors.invalid(
                f"input {name!r}: expected FP64 [{n}], a number for each trajectory, got {came(value)}"
            )
        each[name] = torch.from_numpy(value.astype(np.float64).reshape(-1)).expand(n)
    return each


def _condition(model: Dynamics, spec: Condition, name: str, value: Array | None, n: int) -> Array:
    """A condition or a parameter of the field, [n, ...]."""
    if value is None:
        if (null := spec.null_rows) is None:
            raise errors.invalid(f"condition {name!r}: expected {spec.dtype} {_rows(n, spec.shape)}, got none")
        value = null
    floats = spec.dtype.startswith("float") and value.dtype in (np.float32, np.float64)
    if value.ndim == 2 and not spec.shape and value.shape[1] == 1:
        value = value[:, 0]
    fits = value.ndim and len(value) in (n, 1) and spec.fits(value.shape[1:])
    if not fits or not (floats or value.dtype == spec.dtype):
        longest = f", -1 for 1..{spec.most}" if spec.free else ""
        raise errors.invalid(
            f"condition {name!r}: expected {spec.dtype} {_rows(n, spec.shape)}{longest}, got {came(value)}"
        )
    if why := spec.fault(value) or misfit(model.input(name).dtype, value):
        raise errors.invalid(f"condition {name!r}: {why}")
    return np.broadcast_to(value, (n, *value.shape[1:]))


def _rows(n: int, row: tuple[int, ...]) -> str:
    return str([n, *row]) if n == 1 else f"{[n, *row]} or {[1, *row]}"


def check_size(n: int, times: int, row: Sequence[GraphTensor | tuple[tuple[int, ...], int]], longest: int) -> int:
    """Bytes of the states that the answer has, of so many trajectories and times.

    Args:
        row: shapes of what is sent of one state, with the bytes of one of their numbers; a length that varies counts 1.

    Raises:
        RequestError: INVALID_ARGUMENT where they fit into no answer.
    """
    bytes_each = 0
    for each in row:
        shape, size = (each.row, each.dtype.itemsize) if isinstance(each, GraphTensor) else each
        bytes_each += math.prod(axis or 1 for axis in shape) * size
    if (whole := n * times * bytes_each) > longest:
        raise errors.invalid(
            f"{TIMES}: expected an answer of at most {longest} bytes, got {n} trajectories at {times} times of "
            f"{bytes_each} bytes: {whole}"
        )
    return whole
