"""Every method that servers have, and messages that are right for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2 as pb

from benchmarks._load import infer_body
from protos.tiltserve.v1 import distillation_pb2, fleet_pb2, repository_pb2, sampling_pb2, tensor_pb2
from serving.wire.tensors import tensor

F = np.float32
_SERVICES = (
    pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    sampling_pb2.DESCRIPTOR.services_by_name["Sampling"],
    distillation_pb2.DESCRIPTOR.services_by_name["Distillation"],
    fleet_pb2.DESCRIPTOR.services_by_name["Fleet"],
    fleet_pb2.DESCRIPTOR.services_by_name["ReplicaInternal"],
    repository_pb2.DESCRIPTOR.services_by_name["ReplicaRepository"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
SAMPLER, REWARD, NAN = "rings", "nearness", "nan"
"""Models of `tests/networks.py` that are served: a sampler, a reward for it, and one that is NaN everywhere."""
NETWORK = f"{SAMPLER}.network"
REGION = "fuzzed"


@dataclass(frozen=True)
class Method:
    """A method of a service, and bodies of messages that it takes."""

    path: str
    message: type[Message] = field(repr=False)
    takes_stream: bool
    gives_stream: bool
    bodies: Sequence[bytes] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def parses(self, body: bytes) -> bool:
        """Whether the bytes are a message for it, as protocol buffers' own parser sees it."""
        try:
            self.message.FromString(body)
        except Exception:  # DecodeError, or whatever else a parser does with bytes of this kind
            return False
        return True


def methods(spare: str) -> Mapping[str, Method]:
    """The methods by name.

    Args:
        spare: a model that requests may load and unload; no other is named where one can.
    """
    bodies = _bodies(spare)
    found = [_method(each, bodies.get(each.name, [b""])) for service in _SERVICES for each in service.methods]
    return {each.name: each for each in found}


def _method(descriptor: MethodDescriptor, bodies: Sequence[Message | bytes]) -> Method:
    path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
    made = [each if isinstance(each, bytes) else each.SerializeToString() for each in bodies]
    kind = GetMessageClass(descriptor.input_type)
    return Method(path, kind, descriptor.client_streaming, descriptor.server_streaming, made)


def _bodies(spare: str) -> Mapping[str, Sequence[Message | bytes]]:
    unload = pb.RepositoryModelUnloadRequest(model_name=spare)
    unload.parameters["unload_dependents"].bool_param = True
    trace = pb.TraceSettingRequest(model_name=SAMPLER)
    trace.settings["trace_rate"].value.append("5")
    trace.settings["trace_level"].value.append("TIMESTAMPS")
    log = pb.LogSettingsRequest()
    log.settings["log_info"].bool_param = True
    log.settings["log_format"].string_param = "ISO8601"
    register = pb.SystemSharedMemoryRegisterRequest(name=REGION, key=f"/{REGION}", offset=16, byte_size=64)
    cuda = pb.CudaSharedMemoryRegisterRequest(name=REGION, raw_handle=bytes(64), device_id=0, byte_size=64)
    ask = reflection_pb2.ServerReflectionRequest
    inference = "inference.GRPCInferenceService"
    return {
        "ServerLive": [b""],
        "ServerReady": [b""],
        "ServerMetadata": [b""],
        **{
            name: [kind(name=SAMPLER), kind(name=NETWORK, version="1"), kind(name="no-such-model")]
            for name, kind in (
                ("ModelReady", pb.ModelReadyRequest),
                ("ModelMetadata", pb.ModelMetadataRequest),
                ("ModelConfig", pb.ModelConfigRequest),
                ("ModelStatistics", pb.ModelStatisticsRequest),
            )
        },
        "ModelInfer": inferences(),
        "ModelStreamInfer": [*inferences(), *streamed()],
        "RepositoryIndex": [b"", pb.RepositoryIndexRequest(ready=True)],
        "RepositoryModelLoad": [pb.RepositoryModelLoadRequest(model_name=spare)],
        "RepositoryModelUnload": [unload],
        "SystemSharedMemoryStatus": [b"", pb.SystemSharedMemoryStatusRequest(name=REGION)],
        "SystemSharedMemoryRegister": [register],
        "SystemSharedMemoryUnregister": [pb.SystemSharedMemoryUnregisterRequest(name=REGION)],
        "CudaSharedMemoryStatus": [b"", pb.CudaSharedMemoryStatusRequest(name=REGION)],
        "CudaSharedMemoryRegister": [cuda],
        "CudaSharedMemoryUnregister": [pb.CudaSharedMemoryUnregisterRequest(name=REGION)],
        "TraceSetting": [b"", trace, pb.TraceSettingRequest(model_name=SAMPLER)],
        "LogSettings": [b"", log],
        "SampleInteractive": [sampling_pb2.InteractiveRequest(sample=each) for each in interactive()],
        "Gradient": gradients(),
        "Session": [distillation_pb2.SessionRequest(gradient=each) for each in gradients()],
        "ListModels": [b""],
        "Metrics": [b""],
        "Log": [fleet_pb2.LogLevels(info=True, verbose=1)],
        "LoadModel": [repository_pb2.ChangeModelRequest(name=spare, revision=1)],
        "UnloadModel": [repository_pb2.ChangeModelRequest(name=spare, revision=2**62)],
        "Check": [b"", *(health_pb2.HealthCheckRequest(service=name) for name in (inference, SAMPLER))],
        "Watch": [b"", *(health_pb2.HealthCheckRequest(service=name) for name in (f"{SAMPLER}/1", "x"))],
        "List": [b""],
        "ServerReflectionInfo": [
            ask(list_services=""),
            ask(file_containing_symbol=inference),
            ask(file_by_filename="grpc_service.proto", host="here"),
            ask(all_extension_numbers_of_type=inference),
        ],
    }  # fmt: skip


def inferences() -> list[bytes]:
    """Serialised ModelInferRequests that are answered: raw bytes and contents, plain and steered, of every kind."""
    x = np.linspace(-2, 2, 8, dtype=F).reshape(4, 2)
    contents = pb.ModelInferRequest(model_name=NETWORK, model_version="1", id="contents")
    for name, values, shape in (("x", x.ravel(), (4, 2)), ("t", np.full(4, 0.5, F), (4,))):
        contents.inputs.add(name=name, datatype="FP32", shape=shape).contents.fp32_contents.extend(values.tolist())
    contents.outputs.add(name="x0")
    return [
        infer_body(SAMPLER, {"samples": 2, "steps": 3, "seed": 1}),
        infer_body(SAMPLER, {"samples": 2, "steps": 3, "seed": 2, "reward": REWARD, "reward_mode": 3, "beta": 0.5}),
        infer_body(SAMPLER, {"steps": 2, "seed": 3, "reward": "linear"}, {"reward_direction": np.ones(2, F)}),
        infer_body(SAMPLER, {"samples": 4, "steps": 2, "seed": 4, "solver": "ddim"}, {"x_init": x}),
        infer_body(NETWORK, {}, {"x": x, "t": np.full(4, 0.5, F)}),
        infer_body(REWARD, {}, {"x": x, "mode": np.arange(4)}),
        contents.SerializeToString(),
    ]


def streamed() -> list[bytes]:
    """Serialised ModelInferRequests that have several responses on a stream."""
    return [
        infer_body(SAMPLER, {"samples": 2, "steps": 4, "seed": 5, "preview_every": 1}),
        infer_body(SAMPLER, {"samples": 4, "steps": 3, "seed": 6, "stream_samples": True}),
        infer_body(SAMPLER, {"samples": 2, "steps": 4, "seed": 7, "trajectory": True}),
    ]


def gradients() -> list[distillation_pb2.GradientRequest]:
    """Requests for gradients that are answered, of every mode, plain and tilted."""
    value, x = tensor_pb2.Value, tensor(np.linspace(-2, 2, 8, dtype=F).reshape(4, 2))
    half = tensor(np.zeros((1, 2), np.float16))
    schedule = distillation_pb2.Schedule
    kinds: list[dict[str, Any]] = [
        {"input": x, "iteration": 3},
        {"input": half, "mode": "cds", "iteration": 0, "schedule": schedule(t1=[0.5], t2=[0.25]), "clip": 2.0},
        {"input": x, "mode": "ism", "iteration": 9, "schedule": schedule(preset="refine", i_end=20)},
        {
            "input": x, "mode": "reward_sds", "iteration": 1, "noises": 4, "reward": REWARD,
            "reward_arguments": {"mode": value(integer=3)},
        },
        {
            "input": x, "iteration": 2, "reward": "linear", "beta": 0.5, "posterior": "gaussian",
            "reward_arguments": {"direction": value(tensor=tensor(np.ones(2, F)))},
        },
    ]  # fmt: skip
    alone = [distillation_pb2.GradientRequest(model=SAMPLER, id="mine", seed=1, **each) for each in kinds]
    weighted = distillation_pb2.WeightedModel
    several = [weighted(model=SAMPLER, weight=0.5), weighted(model=SAMPLER, version="1")]
    return [*alone, distillation_pb2.GradientRequest(models=several, input=x, iteration=4)]


def interactive() -> list[sampling_pb2.SampleRequest]:
    """First messages of SampleInteractive."""
    value = tensor_pb2.Value
    return [
        sampling_pb2.SampleRequest(
            model=SAMPLER, id="mine", parameters={"samples": value(integer=2), "steps": value(integer=2)}
        ),
        sampling_pb2.SampleRequest(
            model=SAMPLER,
            parameters={"steps": value(integer=2), "seed": value(integer=1), "posterior": value(text="gaussian")},
        ),
    ]
