"""Arrays as tensors of KServe v2 and of tiltserve.v1, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from protos.tiltserve.v1 import tensor_pb2
from tiltserve.errors import InvalidArgument

Array = NDArray[Any]
Parameter = bool | int | float | str


def scalar(name: str, value: Any) -> Parameter:
    """A value of Python or numpy, or an array of one number, as a parameter; raises `InvalidArgument`."""
    if not isinstance(value, bool | int | float | str) and not dimensions(name, value):
        value = np.asarray(value).item()  # of numpy, or a tensor of torch
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # not a kind of numpy's or of an enumeration
    raise InvalidArgument(f"{name}: expected a number, a truth value or a text, got {type(value).__name__}")


def dimensions(name: str, value: Any) -> int:
    """How many axes numpy gives a value, 0 for a number; raises `InvalidArgument` for lists of different lengths."""
    try:
        return np.ndim(value)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{name}: expected an array, got {type(value).__name__}: {error}") from None


def array(name: str, value: Any) -> Array:
    """Whatever numpy makes of a value, in row-major order; raises `InvalidArgument` where that is no array of numbers
    or texts."""
    try:
        made = np.asarray(value, order="C")
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{name}: expected an array, got {type(value).__name__}: {error}") from None
    if made.dtype.kind == "U":
        made = made.astype(np.object_)  # as texts of any length
    if np_to_triton_dtype(made.dtype) is None:
        raise InvalidArgument(f"{name}: expected numbers, truth values or texts, got {made.dtype}")
    return made


def texts(name: str, value: Any) -> Array:
    """A text or a sequence of texts as an array [n] of bytes; raises `InvalidArgument`."""
    given = [value] if isinstance(value, str | bytes) else value
    try:
        made = [each if isinstance(each, bytes) else each.encode() for each in given]
    except (TypeError, AttributeError):
        raise InvalidArgument(f"{name}: expected a text or a list of texts, got {type(value).__name__}") from None
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name}: expected a text, got half of a character at {error.start}") from None
    if not made:
        raise InvalidArgument(f"{name}: expected a text or a list of texts, got none")
    return np.array(made, np.object_)


def cast(name: str, value: Any, datatype: str) -> Array:
    """A value as an array of a KServe datatype; raises `InvalidArgument` where numbers would be lost."""
    made, dtype = array(name, value), np.dtype(triton_to_np_dtype(datatype) or np.float32)
    if made.dtype == dtype:
        return made
    fits = np.can_cast(made.dtype, dtype, "same_kind")
    with np.errstate(all="ignore"):
        done = made.astype(dtype) if fits else made
    if not fits or (dtype.kind in "iu" and not np.array_equal(done, made)):
        got = np.array2string(made, threshold=4) if made.ndim < 2 else list(made.shape)  # one line
        raise InvalidArgument(f"{name}: expected {datatype}, got {made.dtype} {got}")
    return done


def infer_request(
    model: str,
    version: str,
    request_id: str,
    parameters: Mapping[str, Parameter],
    inputs: Mapping[str, Array],
    outputs: Any = (),
) -> pb.ModelInferRequest:
    """A request with its tensors as raw bytes."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, value in parameters.items():
        fill(request.parameters[name], name, value)
    for name, given in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(given.dtype), shape=given.shape)
        request.raw_input_contents.append(_raw(given))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _raw(given: Array) -> bytes:
    """An array's bytes as KServe has them, each text with its length before it."""
    return b"".join(serialize_byte_tensor(given).ravel()) if given.dtype.kind in "OSU" else given.tobytes()


def fill(message: pb.InferParameter, name: str, value: Parameter) -> None:
    """Set a parameter's value; raises `InvalidArgument` for a whole number of more than 64 bits."""
    field = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
    try:
        setattr(message, field, value)
    except ValueError:
        raise InvalidArgument(f"{name}: expected a number of 64 bits, got {value!r}") from None


def outputs_of(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The output tensors by name, as arrays of their own."""
    result = InferResult(response)
    return {each.name: np.array(result.as_numpy(each.name)) for each in response.outputs}


def parameters_of(response: pb.ModelInferResponse) -> dict[str, Parameter]:
    return {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in response.parameters.items()}


def tensor(value: Array) -> tensor_pb2.Tensor:
    """An array as a message of tiltserve.v1."""
    return tensor_pb2.Tensor(
        datatype=np_to_triton_dtype(value.dtype),
        shape=value.shape,
        data=_raw(value.astype(value.dtype.newbyteorder("<"), copy=False)),
    )


def of_tensor(message: tensor_pb2.Tensor) -> Array:
    """The array of a message of tiltserve.v1, read-only."""
    if message.datatype == "BYTES":
        return deserialize_bytes_tensor(message.data).reshape(message.shape)
    dtype = np.dtype(triton_to_np_dtype(message.datatype or "FP32")).newbyteorder("<")
    return np.frombuffer(message.data, dtype).reshape(message.shape)


def value(name: str, given: Parameter) -> tensor_pb2.Value:
    """A parameter as a message of tiltserve.v1."""
    message, field = tensor_pb2.Value(), {bool: "flag", int: "integer", float: "number", str: "text"}[type(given)]
    try:
        setattr(message, field, given)
        return message
    except ValueError:
        raise InvalidArgument(f"{name}: expected a number of 64 bits, got {given!r}") from None


def of_value(message: tensor_pb2.Value) -> Parameter:
    given: Parameter = getattr(message, message.WhichOneof("kind"))
    return given
