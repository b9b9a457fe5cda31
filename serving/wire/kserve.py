"""Codec between KServe v2 messages, as `tritonclient` speaks them, and plain numpy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from serving.wire import errors
from serving.wire.tensors import DATATYPES, Array, Parameter, TensorSpec, datatype


@dataclass(frozen=True)
class InferRequest:
    """A decoded ModelInferRequest. Arrays are read-only views of the message's bytes; floats are finite."""

    model: str
    version: str = ""
    id: str = ""
    inputs: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def decode_request(request: pb.ModelInferRequest) -> InferRequest:
    """Checks everything that needs no knowledge of the model: datatypes, byte counts, finite numbers.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input or parameter.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise errors.invalid(f"raw_input_contents: expected {len(request.inputs)} (one per input), got {len(raw)}")
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in inputs:
            raise errors.invalid(f"input {tensor.name!r}: expected once, got it twice")
        inputs[tensor.name] = _decode_tensor(tensor, raw[index] if raw else None)
    for output in request.outputs:
        if output.parameters:
            raise errors.invalid(f"output {output.name!r}: parameters are not served, got {_names(output.parameters)}")
    return InferRequest(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        inputs=inputs,
        parameters={name: parameter(name, value) for name, value in request.parameters.items()},
        outputs=[output.name for output in request.outputs],
    )


def parameter(name: str, value: pb.InferParameter) -> Parameter:
    """The value of a request parameter; INVALID_ARGUMENT if it has none or is not finite."""
    which = value.WhichOneof("parameter_choice")
    if which is None:
        raise errors.invalid(f"parameter {name!r}: expected a value, got none")
    plain: Parameter = getattr(value, which)
    if isinstance(plain, float) and not math.isfinite(plain):
        raise errors.invalid(f"parameter {name!r}: expected a finite number, got {plain}")
    return plain


def check_outputs(requested: Iterable[str], available: Iterable[str]) -> list[str]:
    """The outputs to send, all of them if none was asked for. Call it before the work, to refuse a wrong name early."""
    known = list(available)
    names = list(requested) or known
    if len(set(names)) < len(names):
        raise errors.invalid(f"outputs: expected each name once, got {', '.join(names)}")
    for name in names:
        if name not in known:
            raise errors.invalid(f"unknown output {name!r}, expected one of {', '.join(known)}")
    return names


def encode_response(
    model: str,
    version: str,
    request_id: str,
    outputs: Mapping[str, Array],
    parameters: Mapping[str, Parameter],
    requested: Sequence[str] = (),
) -> pb.ModelInferResponse:
    """A response with the requested outputs (all by default) as raw bytes, in the order they were asked for.

    Raises:
        RequestError: INVALID_ARGUMENT for an unknown requested output.
        KeyError: an output's dtype has no KServe name.
    """
    names = check_outputs(requested, outputs)
    return pb.ModelInferResponse(
        model_name=model,
        model_version=version,
        id=request_id,
        parameters={name: _encode_parameter(value) for name, value in parameters.items()},
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=name, datatype=datatype(outputs[name].dtype), shape=outputs[name].shape
            )
            for name in names
        ],
        raw_output_contents=[outputs[name].tobytes() for name in names],
    )


def with_seed(data: bytes, seed: int) -> bytes:
    """The serialised ModelInferRequest `data` with its `seed` parameter set.

    Serialised messages merge when concatenated, so the tensors in `data` need no second encoding.
    """
    return data + pb.ModelInferRequest(parameters={"seed": pb.InferParameter(int64_param=seed)}).SerializeToString()


def model_metadata(
    name: str, versions: Sequence[str], inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]
) -> pb.ModelMetadataResponse:
    """What ModelMetadata answers."""
    return pb.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform="tiltserve",
        inputs=[_encode_spec(spec) for spec in inputs],
        outputs=[_encode_spec(spec) for spec in outputs],
    )


def _decode_tensor(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Array:
    where = f"input {tensor.name!r}"
    if tensor.parameters:
        raise errors.invalid(f"{where}: parameters are not served, got {_names(tensor.parameters)}")
    if tensor.datatype not in DATATYPES:
        raise errors.invalid(f"{where}: expected a datatype among {', '.join(DATATYPES)}, got {tensor.datatype!r}")
    dtype, contents = DATATYPES[tensor.datatype]
    shape = tuple(tensor.shape)
    if any(length < 0 for length in shape):
        raise errors.invalid(f"{where}: expected a shape without negative lengths, got {list(shape)}")
    flat = _from_contents(tensor, dtype, contents) if raw is None else _from_raw(tensor, dtype, raw)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise errors.invalid(f"{where}: expected finite numbers, got NaN or infinity")
    try:
        return flat.reshape(shape)
    except ValueError:  # more axes or a larger product than numpy can hold
        raise errors.invalid(f"{where}: shape {list(shape)} is too large") from None


def _from_raw(tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[np.generic], raw: bytes) -> Array:
    where = f"input {tensor.name!r}"
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(raw) != expected:
        came = f"expected {expected} bytes for {tensor.datatype} {list(tensor.shape)}, got {len(raw)}"
        raise errors.invalid(f"{where}: {came}")
    if tensor.HasField("contents"):
        raise errors.invalid(f"{where}: expected raw bytes or contents, got both")
    if tensor.datatype == "BOOL" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise errors.invalid(f"{where}: expected BOOL bytes of 0 or 1, got others")
    return np.frombuffer(raw, dtype)


def _from_contents(
    tensor: pb.ModelInferRequest.InferInputTensor, dtype: np.dtype[np.generic], contents: str | None
) -> Array:
    where = f"input {tensor.name!r}"
    filled = [each.name for each, _ in tensor.contents.ListFields()]
    expected = math.prod(tensor.shape)
    if contents is None or filled not in ([], [contents]):
        wanted = f"raw bytes{f' or {contents}' if contents else ''}"
        raise errors.invalid(f"{where}: expected {wanted} for {tensor.datatype}, got {', '.join(filled) or 'nothing'}")
    values = getattr(tensor.contents, contents)
    if len(values) != expected:
        raise errors.invalid(f"{where}: expected {expected} values for {list(tensor.shape)}, got {len(values)}")
    try:
        return np.array(values, dtype)
    except OverflowError:
        raise errors.invalid(f"{where}: expected values in the range of {tensor.datatype}, got others") from None


def _encode_parameter(value: Parameter) -> pb.InferParameter:
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=value)


def _encode_spec(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _names(parameters: Mapping[str, object]) -> str:
    return ", ".join(sorted(parameters))
