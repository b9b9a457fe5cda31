"""ModelConfig: a model as Triton's own configuration would describe it."""

import json
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb

from serving.fleet.directory import ModelState
from serving.front import router
from serving.front.part import Answer
from serving.front.roster import Roster
from serving.front.router import Route
from serving.wire.kserve import PLATFORM
from serving.wire.parameters import PRIORITIES
from serving.wire.tensors import TensorSpec


class ModelConfigs:
    """The RPC ModelConfig, answered from the front's copy of the directory."""

    extensions = ("model_configuration",)

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.answers: Mapping[str, Answer] = {"ModelConfig": self._answer}

    async def _answer(self, request: pb.ModelConfigRequest) -> Message:
        index = self._roster.index
        model = router.choose(index, request.name, request.version).model
        held = router.held(index, model.name)
        return pb.ModelConfigResponse(config=configuration(model, held))


def configuration(model: ModelState, held: Sequence[Route]) -> model_config_pb2.ModelConfig:
    """The configuration of a model.

    A network takes requests of more rows than `max_batch_size`, and runs them in several calls. Of a sampler that is 0:
    a parameter says how many samples there are, and its tensors need not have as many rows.

    Args:
        held: where it is listed, in any version.
    """
    ready = [each.model for each in held if each.model.state == "READY"]
    batched = model.most_rows > 0
    first, default, last = PRIORITIES
    return model_config_pb2.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=model.backend,
        version_policy=model_config_pb2.ModelVersionPolicy(
            specific=model_config_pb2.ModelVersionPolicy.Specific(
                versions=[int(version) for version in router.versions(ready) if version.isdecimal()]
            )
        ),
        max_batch_size=model.most_rows,
        input=[_input(each, batched) for each in model.inputs],
        output=[
            model_config_pb2.ModelOutput(name=each.name, data_type=_type(each), dims=_dims(each, batched))
            for each in model.outputs
        ],
        dynamic_batching=model_config_pb2.ModelDynamicBatching(
            preferred_batch_size=[model.usual_rows] if batched else [],
            priority_levels=last - first + 1,
            default_priority_level=default,
            default_queue_policy=model_config_pb2.ModelQueuePolicy(allow_timeout_override=True),
        ),
        instance_group=[
            model_config_pb2.ModelInstanceGroup(
                name=model.name,
                count=sum(each.version == model.version for each in ready),
                kind=model_config_pb2.ModelInstanceGroup.Kind.Value(f"KIND_{model.device}"),
            )
        ],
        model_transaction_policy=model_config_pb2.ModelTransactionPolicy(
            decoupled=(model.draws or model.solves) is not None
        ),
        parameters={
            "kind": model_config_pb2.ModelParameter(string_value=model.kind),
            "fingerprint": model_config_pb2.ModelParameter(string_value=model.fingerprint),
            **_defaults(model),
        },
    )


def _defaults(model: ModelState) -> dict[str, model_config_pb2.ModelParameter]:
    """What a request for samples gets where it does not say, as JSON under `defaults`; nothing where it is as usual."""
    if model.draws is None or not model.draws.defaults:
        return {}
    return {"defaults": model_config_pb2.ModelParameter(string_value=json.dumps(dict(model.draws.defaults)))}


def _input(spec: TensorSpec, batched: bool) -> model_config_pb2.ModelInput:
    return model_config_pb2.ModelInput(
        name=spec.name,
        data_type=_type(spec),
        dims=_dims(spec, batched),
        reshape=model_config_pb2.ModelTensorReshape(shape=[]) if spec.column else None,
        optional=spec.optional,
    )


def _dims(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    """The shape without the axis of the batch."""
    return spec.shape[1:] if batched else spec.shape


def _type(spec: TensorSpec) -> int:
    """Triton's name of a datatype."""
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return model_config_pb2.DataType.Value(f"TYPE_{name}")
