"""The messages of ModelStreamInfer: a ModelInferResponse or an error, and which place a response has among those of its
request."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServicerContext
from tritonclient.grpc import service_pb2 as pb

from serving.wire import errors
from serving.wire.fields import BYTES, fields, tagged
from serving.wire.parameters import STREAMED
from serving.wire.solving import CHUNK, STREAM
from serving.wire.tensors import Parameter

AS_STATUS = ("triton_grpc_error", "true")
"""Metadata of a stream whose first error is to be its status, as Triton reads it."""
FINAL = "triton_final_response"
EMPTY_FINAL = "triton_enable_empty_final_response"
_RESPONSE = 2  # of a ModelStreamInferResponse


class Place(NamedTuple):
    """Where a response is among those of its request.

    Attributes:
        first: the number of its first sample.
        stage: of a preview, or the number of a pair of a path or of states of trajectories, from 1; infinity for
            finished samples, which come after the previews of the same ones.
        kept: it must not be dropped.
    """

    first: float
    stage: float
    final: bool = False
    kept: bool = False

    @property
    def preview(self) -> bool:
        """Whether a later one may take its place."""
        return self.stage < math.inf and not self.kept

    @property
    def order(self) -> tuple[float, float]:
        """Rises from one response of a request to the next."""
        return self.first, self.stage


NOTHING = Place(-1, 0)
"""Before the first response."""


def place(response: bytes) -> Place:
    """The place of a serialised ModelStreamInferResponse; its tensors are not looked at.

    Raises:
        RequestError: INTERNAL where it is none.
    """
    found: dict[str, Parameter] = {}
    try:
        for outer in fields(memoryview(response)):
            for each in fields(outer.value) if (outer.number, outer.kind) == (_RESPONSE, BYTES) else ():
                if (each.number, each.kind) == (4, BYTES) and len(each.value) < 64:  # the names below are shorter
                    entry = pb.ModelInferResponse.FromString(each.whole).parameters
                    found |= {name: value.bool_param or value.int64_param for name, value in entry.items()}
    except DecodeError:
        raise errors.internal(f"expected a response of a stream, got {len(response)} bytes that do not parse") from None
    stage = found.get("stage", found.get("pair", found.get(CHUNK, math.inf)))
    kept = "pair" in found or CHUNK in found
    return Place(float(found.get("first", 0)), float(stage), bool(found.get(FINAL)), kept)


def wrapped(response: bytes) -> bytes:
    """A serialised ModelInferResponse as a serialised ModelStreamInferResponse."""
    return b"".join(tagged(_RESPONSE, response))


def failed(error: errors.RequestError, model: str, request_id: str) -> bytes:
    """The last response to a request that failed, a serialised ModelStreamInferResponse.

    The text begins with the status, as that of an error of another call does once tritonclient makes a string of it.
    """
    response = pb.ModelInferResponse(model_name=model, id=request_id)
    response.parameters[FINAL].bool_param = True
    return pb.ModelStreamInferResponse(
        error_message=f"[{grpc.StatusCode.__name__}.{error.code.name}] {error.detail}", infer_response=response
    ).SerializeToString()


def as_status(context: ServicerContext) -> bool:
    """Whether the client asks for the first error as the stream's status."""
    return AS_STATUS in tuple(context.invocation_metadata() or ())


def at_once(parameters: Collection[str]) -> bool:
    """Whether a request of those parameters has no response before its last one."""
    return not any(name in parameters for name in (*STREAMED, STREAM))


def check(parameters: Mapping[str, Parameter]) -> None:
    """Refuse a value of `triton_enable_empty_final_response` that Triton refuses. It changes nothing: the last response
    always holds the answer, and empty ones are for models whose last response does not."""
    value = parameters.get(EMPTY_FINAL, False)
    if not isinstance(value, bool):
        raise errors.invalid(f"parameter {EMPTY_FINAL!r}: expected a boolean, got {value!r}")
