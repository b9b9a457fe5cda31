"""Asking a server with an unmodified Triton client."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from serving.wire import channels

Parameter = bool | int | float | str


class CallError(Exception):
    """A call that the server refused or that did not reach it: `status` is gRPC's name for it, `detail` one line."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class Inferred:
    """One answer: output arrays and response parameters by name; seconds, as the client saw it."""

    outputs: dict[str, NDArray[Any]]
    parameters: dict[str, Parameter]
    seconds: float


@dataclass(frozen=True)
class Drawn:
    """samples: float32 [n, *event]; rewards: float32 [n], None for plain samples; seconds: as the client saw it."""

    samples: NDArray[np.float32]
    rewards: NDArray[np.float32] | None
    parameters: dict[str, Parameter]
    seconds: float


def connect(address: str) -> InferenceServerClient:
    """A client of the server at `address` (host:port)."""
    return InferenceServerClient(address, channel_args=channels.to_server(address))


def tensors(inputs: Mapping[str, NDArray[Any]]) -> list[InferInput]:
    """Arrays by name as the inputs of a request."""
    made = []
    for name, value in inputs.items():
        tensor = InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


def inferred(result: InferResult, seconds: float = 0.0) -> Inferred:
    """What a result of tritonclient's holds."""
    response = result.get_response()
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
    }
    return Inferred({each.name: result.as_numpy(each.name) for each in response.outputs}, parameters, seconds)


def infer(
    address: str,
    model: str,
    parameters: Mapping[str, Parameter] | None = None,
    inputs: Mapping[str, NDArray[Any]] | None = None,
    timeout: float | None = None,
) -> Inferred:
    """One ModelInfer at `address` (host:port) over a connection of its own; `timeout` in seconds.

    Raises:
        CallError: it failed.
    """
    start = time.perf_counter()
    try:
        with connect(address) as client:
            result = client.infer(
                model, tensors(inputs or {}), parameters=dict(parameters or {}), client_timeout=timeout
            )
    except InferenceServerException as error:
        raise _call_error(error) from None
    return inferred(result, time.perf_counter() - start)


def draw(
    address: str,
    model: str,
    parameters: Mapping[str, Parameter],
    inputs: Mapping[str, NDArray[Any]] | None = None,
    timeout: float | None = None,
) -> Drawn:
    """One ModelInfer of a sampler at `address` (host:port); `timeout` in seconds. `CallError` if it fails."""
    reply = infer(address, model, parameters, inputs, timeout)
    if "samples" not in reply.outputs:
        there = ", ".join(reply.outputs)
        raise CallError("INVALID_ARGUMENT", f"expected a sampler with an output samples, got {model} with {there}")
    return Drawn(reply.outputs["samples"], reply.outputs.get("rewards"), reply.parameters, reply.seconds)


def event_shape(address: str, model: str, timeout: float | None = None) -> tuple[int, ...]:
    """The shape of one sample, from ModelMetadata; `CallError` if the call fails or the model is no sampler."""
    try:
        with connect(address) as client:
            metadata = client.get_model_metadata(model, client_timeout=timeout)
    except InferenceServerException as error:
        raise _call_error(error) from None
    for output in metadata.outputs:
        if output.name == "samples":
            return tuple(output.shape)[1:]
    outputs = ", ".join(output.name for output in metadata.outputs)
    raise CallError("INVALID_ARGUMENT", f"expected a sampler with an output samples, got {model} with {outputs}")


def _call_error(error: InferenceServerException) -> CallError:
    status = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
    return CallError(status, " ".join((error.message() or "no detail").split()))
