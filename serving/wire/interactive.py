"""The messages of tiltserve.v1.Sampling: a request for samples in, candidates out, scores back, samples last."""

from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import sampling_pb2
from serving.wire import errors
from serving.wire.answer import Answer
from serving.wire.tensors import tensor, values

CLIENT = "client"
"""Name of the client's own reward."""


def sample_request(message: sampling_pb2.InteractiveRequest) -> sampling_pb2.SampleRequest:
    """What the first message of a stream asks for; INVALID_ARGUMENT where it is another message."""
    if message.WhichOneof("kind") != "sample":
        raise errors.invalid(f"expected sample as the first message, got {message.WhichOneof('kind') or 'none'}")
    return message.sample


def infer_request(message: sampling_pb2.InteractiveRequest) -> pb.ModelInferRequest:
    """The first message of a stream as a ModelInfer request; its reward is the client unless it names another.

    Raises:
        RequestError: INVALID_ARGUMENT if it is another message, or a parameter is a tensor.
    """
    sample = sample_request(message)
    parameters = {"reward": pb.InferParameter(string_param=CLIENT)}
    for name, value in sample.parameters.items():
        kind = value.WhichOneof("kind")
        if kind == "tensor":
            raise errors.invalid(f"parameter {name!r}: expected no tensor, which goes into inputs, got one")
        parameters[name] = pb.InferParameter(**({_PARAMETERS[kind]: getattr(value, kind)} if kind else {}))
    inputs = sorted(sample.inputs.items())
    return pb.ModelInferRequest(
        model_name=sample.model,
        model_version=sample.version,
        id=sample.id,
        parameters=parameters,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype=each.datatype or "FP32", shape=each.shape)
            for name, each in inputs
        ],
        raw_input_contents=[each.data for _, each in inputs],
    )


_PARAMETERS = {"flag": "bool_param", "integer": "int64_param", "number": "double_param", "text": "string_param"}


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
