"""From a request for a plain network to a program: one evaluation of the graph's own inputs."""

import math
from collections.abc import Sequence

import numpy as np

from protos.complaint import unknown
from serving.backends import Array, GraphTensor, shown
from serving.engine.task import Evaluation, Routine, Task
from serving.models.model import PlainModel
from serving.requests.tensors import came
from serving.wire import errors, texts
from serving.wire.answer import Answer
from serving.wire.channels import LONGEST_ANSWER
from serving.wire.kserve import InferRequest
from serving.wire.parameters import EVERYWHERE
from serving.wire.tensors import BFLOAT16, TEXTS, held, named


def plain_task(request: InferRequest, model: PlainModel, longest: int = LONGEST_ANSWER) -> Task:
    """Plain inference: all of the graph's own inputs, with one batch size. The answer has `longest` bytes at most."""
    for name in request.parameters:
        if name not in EVERYWHERE and not name.startswith("triton_"):
            raise errors.invalid(f"model {model.name!r} is a plain network and takes no parameters, got {name!r}")
    tensors = {each.name: each for each in model.network.backend.inputs}
    for name in request.inputs:
        if name not in tensors:
            raise errors.invalid(unknown("input", name, tensors))
    given = {name: _row_by_row(tensors[name], _typed(tensors[name], value)) for name, value in request.inputs.items()}
    for name, tensor in tensors.items():
        expected = f"input {name!r}: expected {_type(tensor)} {shown(('n', *tensor.row))}"
        if name not in given:
            raise errors.invalid(f"{expected}, got none")
        value = given[name]
        if value.dtype != tensor.dtype or not value.ndim or not tensor.fits(value.shape[1:]) or len(value) < 1:
            raise errors.invalid(f"{expected}, got {came(value)}")
    # what all rows share may come once
    sizes = {name: len(value) for name, value in given.items() if tensors[name].shared is None or len(value) > 1}
    if len(set(sizes.values())) > 1:
        raise errors.invalid(f"inputs: expected one batch size, got {sizes}")
    rows = next(iter(sizes.values()), 1)
    outputs = {each.name: each for each in model.network.backend.outputs}
    names = tuple(request.outputs) or tuple(outputs)
    _check_answer([outputs[name] for name in names], rows, longest)
    for name, value in given.items():
        if why := model.out_of_range(name, value):
            raise errors.invalid(f"input {name!r}: {why}")
    given = {name: np.broadcast_to(value, (rows, *value.shape[1:])) for name, value in given.items()}

    def program() -> Routine:
        results = yield Evaluation(model.network, given, names, rows)
        answer = {name: _told(outputs[name], result) for name, result in zip(names, results, strict=True)}
        return Answer(answer, {"fingerprint": model.fingerprint})

    size = sum(map(held, request.inputs.values()))
    return Task(
        model=model.name, program=program(), network_rows=rows, network=model.network, rows_at_once=rows, bytes=2 * size
    )


def _check_answer(outputs: Sequence[GraphTensor], rows: int, longest: int) -> None:
    """Refuse outputs that do not fit into a message, as far as their shapes say: an axis that varies counts as 1."""
    row = sum(math.prod(axis or 1 for axis in each.row) * each.dtype.itemsize for each in outputs)
    if rows * row > longest:
        raise errors.invalid(
            f"inputs: expected at most {longest // row} rows, whose outputs fit into an answer of "
            f"{longest} bytes, got {rows}"
        )


def _type(tensor: GraphTensor) -> str:
    """A type as errors name it."""
    return "bfloat16" if tensor.bfloat16 else named(tensor.dtype)


def _typed(tensor: GraphTensor, value: Array) -> Array:
    """An input as the backend takes it: bfloat16 in float32, and texts as Python's."""
    if value.dtype == BFLOAT16 and tensor.bfloat16:
        return value.astype(np.float32)
    if value.dtype == TEXTS and tensor.dtype == TEXTS:
        try:
            return texts.decoded(value)
        except UnicodeDecodeError as error:
            raise errors.invalid(f"input {tensor.name!r}: expected texts in UTF-8, got {error.reason}") from None
    return value


def _told(tensor: GraphTensor, value: Array) -> Array:
    """An output as the graph gives it."""
    if tensor.bfloat16:
        return value.astype(BFLOAT16)
    return texts.encoded(value) if value.dtype == TEXTS else value


def _row_by_row(tensor: GraphTensor, value: Array) -> Array:
    """An input [n, *row]; one that the graph takes once for all rows may also come in the graph's own shape, and one of
    a number a row as a column [n, 1]: so Triton's tools send it."""
    if tensor.shared is not None and value.shape == tensor.shared:
        return value.reshape(1, *(axis or 0 for axis in tensor.row))
    if not tensor.row and value.ndim == 2 and value.shape[1] == 1:
        return value.reshape(-1)
    return value
