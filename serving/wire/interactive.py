"""The messages of tiltserve.v1.Sampling: a request for samples in, candidates out, scores back, samples last."""

from dataclasses import replace

from google.protobuf.message import DecodeError

from protos.tiltserve.v1 import sampling_pb2, tensor_pb2
from serving.wire import errors, kserve
from serving.wire.answer import Answer
from serving.wire.kserve import InferRequest
from serving.wire.received import Received, unreadable
from serving.wire.tensors import tensor, values

CLIENT = "client"
"""Name of the client's own reward."""
LONGEST_SCORES = 2**16
"""Most bytes of a message of scores, of which there are a thousand or so."""


def with_seed(data: bytes, seed: int) -> bytes:
    """The serialised first message `data` with its `seed` parameter set, as `kserve.with_seed`."""
    sample = sampling_pb2.SampleRequest(parameters={"seed": tensor_pb2.Value(integer=seed)})
    return data + sampling_pb2.InteractiveRequest(sample=sample).SerializeToString()


def with_version(data: bytes, version: str) -> bytes:
    """The serialised first message `data` for one version of its model, as `kserve.with_version`."""
    sample = sampling_pb2.SampleRequest(version=version)
    return data + sampling_pb2.InteractiveRequest(sample=sample).SerializeToString()


def decoded(request: Received) -> InferRequest:
    """The first message of a stream; its reward is the client unless it names another. Raises as `kserve`."""
    return kserve.decode_request(replace(request, parameters={"reward": CLIENT, **request.parameters}))


def bounded(data: bytes) -> bytes:
    """A message after the first as it is; INVALID_ARGUMENT where it is too long for scores."""
    if len(data) > LONGEST_SCORES:
        raise errors.invalid(
            f"reward {CLIENT!r}: expected scores in at most {LONGEST_SCORES} bytes, got a message of {len(data)}"
        )
    return data


def answered(data: bytes) -> sampling_pb2.InteractiveRequest:
    """A message after the first; INVALID_ARGUMENT where it is none, or too long for scores."""
    try:
        return sampling_pb2.InteractiveRequest.FromString(bounded(data))
    except DecodeError:
        raise unreadable(len(data)) from None


def last_reply(model: str, version: str, request_id: str, answer: Answer) -> sampling_pb2.InteractiveReply:
    """The samples and all that comes with them."""
    return sampling_pb2.InteractiveReply(
        samples=sampling_pb2.SampleReply(
            model=model,
            version=version,
            id=request_id,
            parameters=values(answer.parameters),
            outputs={name: tensor(each) for name, each in answer.outputs.items()},
        )
    )
