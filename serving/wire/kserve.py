"""Codec between KServe v2 messages, as `tritonclient` speaks them, and plain numpy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from serving.wire import contents, errors, texts
from serving.wire.fields import tagged
from serving.wire.received import Received, Sent
from serving.wire.solving import CONTROL, CONTROL_TIMES, TIMES
from serving.wire.tensors import BFLOAT16, DATATYPES, TEXTS, Array, Parameter, TensorSpec, datatype, viewed

PLATFORM = "tiltserve"
"""What every model is run by, as clients are told."""
_RAW_OUTPUTS = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
MISSABLE = (CONTROL, CONTROL_TIMES)
"""Inputs of requests for trajectories in which NaN says that something is missing."""
OF_HTTP = ("binary_data_size", "binary_data")
"""Parameters of tensors that mean nothing in gRPC; KServe's own client sends them."""
_ALIGNED = 16
"""Bytes at whose multiples arrays begin, as kernels like it; a view into a message may begin anywhere."""
_A_BYTE_OF_TEXT = 16
"""How much longer than a byte of numbers one of texts may take: a quarter of them may be elements."""
_A_BYTE_OF_CONTENTS = 32
"""How much longer than a raw byte one of contents may take: half of them may begin a field."""


@dataclass(frozen=True)
class InferRequest:
    """A decoded ModelInferRequest. Arrays are read-only views of the message's bytes; floats are finite, except that
    observations beside times (`MISSABLE`) may have NaN where one is missing."""

    model: str
    version: str = ""
    id: str = ""
    inputs: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def decode_request(request: Received) -> InferRequest:
    """Checks everything that needs no knowledge of the model: datatypes, byte counts, finite numbers.

    Raises:
        RequestError: INVALID_ARGUMENT, naming the input or parameter.
    """
    inputs, budget = dict[str, Array](), contents.Budget()
    for sent in request.inputs:
        if sent.name in inputs:
            raise errors.invalid(f"input {sent.name!r}: expected once, got it twice")
        missable = sent.name in MISSABLE and any(each.name == TIMES for each in request.inputs)
        inputs[sent.name] = _decode_tensor(sent, budget, missable)
    for name, extras in request.extras.items():
        _check_extras(f"output {name!r}", extras)
    return InferRequest(
        model=request.model,
        version=request.version,
        id=request.id,
        inputs=inputs,
        parameters={name: parameter(name, value) for name, value in request.parameters.items()},
        outputs=list(request.outputs),
    )


def effort(request: Received) -> int:
    """Bytes of raw tensors that are read in the time that `decode_request` takes, at most, for `aside`."""
    plain = sum(len(sent.raw) * _effort(sent) for sent in request.inputs if sent.raw is not None)
    return plain + _A_BYTE_OF_CONTENTS * sum(len(piece) for sent in request.inputs for piece in sent.contents)


def _effort(sent: Sent) -> int:
    return _A_BYTE_OF_TEXT if sent.datatype == "BYTES" else 1


def parameter(name: str, value: Parameter | None) -> Parameter:
    """The value of a request parameter; INVALID_ARGUMENT if it has none or is not finite."""
    if value is None:
        raise errors.invalid(f"parameter {name!r}: expected a value, got none")
    if isinstance(value, float) and not math.isfinite(value):
        raise errors.invalid(f"parameter {name!r}: expected a finite number, got {value}")
    return value


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
) -> bytes:
    """A serialised ModelInferResponse with the requested outputs (all by default) as raw bytes, in the order they were
    asked for. Their numbers are copied once.

    Raises:
        RequestError: INVALID_ARGUMENT for an unknown requested output.
        KeyError: an output's dtype has no KServe name.
    """
    names = check_outputs(requested, outputs)
    response = pb.ModelInferResponse(
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
    )
    pieces: list[bytes | memoryview] = [response.SerializeToString()]
    for name in names:
        pieces += tagged(_RAW_OUTPUTS, viewed(outputs[name]))
    return b"".join(pieces)


def with_seed(data: bytes, seed: int) -> bytes:
    """The serialised ModelInferRequest `data` with its `seed` parameter set.

    Serialised messages merge when concatenated, so the tensors in `data` need no second encoding.
    """
    return data + pb.ModelInferRequest(parameters={"seed": pb.InferParameter(int64_param=seed)}).SerializeToString()


def with_version(data: bytes, version: str) -> bytes:
    """The serialised ModelInferRequest `data` for one version of its model, as `with_seed`."""
    return data + pb.ModelInferRequest(model_version=version).SerializeToString()


def with_times(reply: bytes, times: str) -> bytes:
    """The serialised ModelInferResponse with a parameter `server_timing`, as `with_seed`."""
    parameters = {"server_timing": pb.InferParameter(string_param=times)}
    return reply + pb.ModelInferResponse(parameters=parameters).SerializeToString()


def model_metadata(
    name: str, versions: Sequence[str], inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]
) -> pb.ModelMetadataResponse:
    """What ModelMetadata answers."""
    return pb.ModelMetadataResponse(
        name=name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_encode_spec(spec) for spec in inputs],
        outputs=[_encode_spec(spec) for spec in outputs],
    )


def _decode_tensor(sent: Sent, budget: contents.Budget, missable: bool) -> Array:
    where = f"input {sent.name!r}"
    _check_extras(where, sent.extras)
    if sent.datatype not in DATATYPES:
        raise errors.invalid(f"{where}: expected a datatype among {', '.join(DATATYPES)}, got {sent.datatype!r}")
    if any(length < 0 for length in sent.shape):
        raise errors.invalid(f"{where}: expected a shape without negative lengths, got {list(sent.shape)}")
    flat = _from_contents(sent, budget) if sent.raw is None else _from_raw(sent, sent.raw)
    floats = not missable and (flat.dtype.kind == "f" or flat.dtype == BFLOAT16)
    if floats and not np.isfinite(flat).all():
        raise errors.invalid(f"{where}: expected finite numbers, got NaN or infinity")
    try:
        whole = flat.reshape(sent.shape)
    except ValueError:  # a larger product than numpy can hold
        raise errors.invalid(f"{where}: shape {list(sent.shape)} is too large") from None
    return whole if whole.ctypes.data % _ALIGNED == 0 else whole.copy()


def _check_extras(where: str, extras: Iterable[str]) -> None:
    """Refuse parameters of a tensor, but for those that clients of HTTP and gRPC alike send for HTTP's sake."""
    if refused := [each for each in extras if each not in OF_HTTP]:
        raise errors.invalid(f"{where}: parameters are not served, got {', '.join(refused)}")


def _from_raw(sent: Sent, data: memoryview) -> Array:
    where, (dtype, _) = f"input {sent.name!r}", DATATYPES[sent.datatype]
    if sent.contents:
        raise errors.invalid(f"{where}: expected raw bytes or contents, got both")
    if dtype == TEXTS:
        try:
            return texts.split(data, math.prod(sent.shape))
        except ValueError as error:
            raise errors.invalid(f"{where}: BYTES {list(sent.shape)}: {error}") from None
    expected = math.prod(sent.shape) * dtype.itemsize
    if len(data) != expected:
        came = f"expected {expected} bytes for {sent.datatype} {list(sent.shape)}, got {len(data)}"
        raise errors.invalid(f"{where}: {came}")
    if sent.datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise errors.invalid(f"{where}: expected BOOL bytes of 0 or 1, got others")
    return np.frombuffer(data, dtype)


def _from_contents(sent: Sent, budget: contents.Budget) -> Array:
    where, (dtype, wanted) = f"input {sent.name!r}", DATATYPES[sent.datatype]
    try:
        filled = contents.packed(sent.contents, budget)
    except DecodeError as error:
        raise errors.invalid(f"{where}: contents: {error}") from None
    expected = math.prod(sent.shape)
    if wanted is None or [*filled] not in ([], [wanted]):
        served = f"raw bytes{f' or {wanted}' if wanted else ''}"
        raise errors.invalid(f"{where}: expected {served} for {sent.datatype}, got {', '.join(filled) or 'nothing'}")
    came = contents.count(wanted, filled.get(wanted, ()))
    if came != expected:
        raise errors.invalid(f"{where}: expected {expected} values for {list(sent.shape)}, got {came}")
    try:
        values = contents.values(wanted, filled.get(wanted, ()))
    except DecodeError as error:
        raise errors.invalid(f"{where}: {wanted}: {error}") from None
    if dtype.kind in "iu" and len(values):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max  # type: ignore[type-var]
        if values.min() < low or values.max() > high:
            raise errors.invalid(f"{where}: expected values in the range of {sent.datatype}, got others")
    return values.astype(dtype, copy=False)


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
