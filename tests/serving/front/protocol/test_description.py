"""What clients and tools are told of the server and its models, and that it is so."""

from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2

from protos.tiltserve.v1 import distillation_pb2, distillation_pb2_grpc
from serving.engine import scheduler
from serving.wire.parameters import PRIORITIES
from serving.wire.tensors import DATATYPES, tensor
from tests.serving.front.protocol.conftest import Refusal
from tests.serving.live import Live

Client: TypeAlias = Any  # tritonclient has no types
MODELS = ("rings", "rings.network", "stripes", "stripes.network", "nearness")


def config(client: Client, name: str, version: str = "") -> model_config_pb2.ModelConfig:
    return client.get_model_config(name, version).config


def shapes(specs: Any) -> dict[str, tuple[str, list[int]]]:
    return {each.name: (each.datatype, list(each.shape)) for each in specs}


def tensors(specs: Any, rows: int) -> list[triton.InferInput]:
    """Values for the inputs that metadata lists: small whole numbers."""
    made = []
    for each in specs:
        shape = [rows if axis == -1 else axis for axis in each.shape]
        made.append(triton.InferInput(each.name, shape, each.datatype))
        made[-1].set_data_from_numpy(np.ones(shape, DATATYPES[each.datatype][0]))
    return made


def test_a_sampler_lists_all_that_it_takes_and_gives(client: Client):
    metadata = client.get_model_metadata("stripes")
    event = [1, 4, 4]
    assert (metadata.platform, list(metadata.versions)) == ("tiltserve", ["1"])
    assert shapes(metadata.inputs) == {
        "x_init": ("FP32", [-1, *event]),
        "known": ("FP32", [-1, *event]),
        "mask": ("BOOL", event),
        "grid": ("FP64", [-1]),
        "label": ("INT64", [-1]),
        "null_label": ("INT64", [-1]),
        "reward_center": ("FP32", event),
        "reward_direction": ("FP32", event),
        "reward_mask": ("BOOL", event),
        "reward_target": ("FP32", event),
    }
    assert shapes(metadata.outputs) == {
        "samples": ("FP32", [-1, *event]),
        "rewards": ("FP32", [-1]),
        "log_likelihood": ("FP32", [-1]),
        "standard_error": ("FP32", [-1]),
        "denoised": ("FP32", [-1, *event]),
        "states": ("FP32", [-1, 2, *event]),
    }


def test_every_listed_input_of_a_sampler_is_taken(client: Client):
    """Each by itself or with what it needs, in the shape and type that are listed."""
    n, event = 2, (1, 4, 4)
    values: dict[str, np.ndarray[Any, Any]] = {
        "x_init": np.ones((n, *event), np.float32),
        "known": np.ones((n, *event), np.float32),
        "mask": np.ones(event, bool),
        "grid": np.array([0.99, 0.5, 0.01]),
        "label": np.array([1, 2]),
        "null_label": np.array([0, 0]),
    }
    values |= {f"reward_{name}": np.ones(event, np.float32) for name in ("center", "direction", "target")}
    values["reward_mask"] = np.ones(event, bool)
    asked: list[tuple[tuple[str, ...], dict[str, object]]] = [
        (("x_init",), {}),
        (("known", "mask"), {}),
        (("grid",), {}),
        (("label", "null_label"), {"guidance": 2.0}),
        (("reward_center",), {"reward": "quadratic"}),
        (("reward_direction",), {"reward": "linear"}),
        (("reward_target", "reward_mask"), {"reward": "masked_match"}),
    ]
    listed = shapes(client.get_model_metadata("stripes").inputs)
    assert {name for names, _ in asked for name in names} == listed.keys()
    for names, parameters in asked:
        inputs = [triton.InferInput(name, list(values[name].shape), listed[name][0]) for name in names]
        for each in inputs:
            each.set_data_from_numpy(values[each.name()])
        steps = {} if "grid" in names else {"steps": 2}
        result = client.infer(
            "stripes", inputs, parameters={"samples": n, "posterior": "gaussian", **steps, **parameters}
        )
        assert result.as_numpy("samples").shape == (n, *event)


@pytest.mark.parametrize("name", MODELS)
def test_configuration_and_metadata_agree(client: Client, name: str):
    told, metadata = config(client, name), client.get_model_metadata(name)
    batch = [-1] if told.max_batch_size else []
    for ours, theirs in ((told.input, metadata.inputs), (told.output, metadata.outputs)):
        assert [(each.name, [*batch, *each.dims]) for each in ours] == [(e.name, list(e.shape)) for e in theirs]
        types = [model_config_pb2.DataType.Name(each.data_type) for each in ours]
        assert types == [f"TYPE_{each.datatype}" for each in theirs]
    assert (told.name, told.platform, told.backend) == (name, "tiltserve", "onnxruntime")
    (group,) = told.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert list(told.version_policy.specific.versions) == [1]
    assert told.model_transaction_policy.decoupled is (name in ("rings", "stripes"))
    assert told.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert all(0 < size <= told.max_batch_size for size in told.dynamic_batching.preferred_batch_size)
    assert told.parameters["kind"].string_value == ("sampler" if name in ("rings", "stripes") else "network")


@pytest.mark.parametrize("name", ["rings.network", "stripes.network", "nearness"])
def test_a_network_runs_as_many_rows_as_it_says_and_more(client: Client, name: str):
    metadata, most = client.get_model_metadata(name), config(client, name).max_batch_size
    assert 1 < most <= 256  # where larger calls cost a row no less, as far as was measured
    for rows in (1, most, most + 1):
        result = client.infer(name, tensors(metadata.inputs, rows))
        for each in metadata.outputs:
            assert list(result.as_numpy(each.name).shape) == [rows if axis == -1 else axis for axis in each.shape]


def test_one_number_a_row_may_come_as_a_column(client: Client):
    """Triton's tools leave the first axis out, and cannot make a tensor without any."""
    inputs = config(client, "rings.network").input
    assert [(each.name, list(each.dims), each.HasField("reshape")) for each in inputs] == [
        ("x", [2], False),
        ("t", [1], True),
    ]
    x, answers = np.ones((3, 2), np.float32), []
    for shape in ([3], [3, 1]):
        sent = [triton.InferInput("x", [3, 2], "FP32"), triton.InferInput("t", shape, "FP32")]
        sent[0].set_data_from_numpy(x)
        sent[1].set_data_from_numpy(np.full(shape, 0.5, np.float32))
        answers.append(client.infer("rings.network", sent).as_numpy("x0"))
    np.testing.assert_array_equal(*answers)


def test_a_tool_that_asks_for_every_output_gets_those_that_there_are(client: Client):
    """As perf_analyzer does, of a sampler without an input."""
    names = [each.name for each in client.get_model_metadata("rings").outputs]
    wanted = [triton.InferRequestedOutput(name) for name in names]
    got = client.infer("rings", [], outputs=wanted, parameters={"steps": 2}).get_response()
    assert [each.name for each in got.outputs] == ["samples"]
    steered = {"steps": 2, "reward": "nearness", "reward_mode": 1, "particles": 4}
    got = client.infer("rings", [], outputs=wanted, parameters=steered).get_response()
    assert [each.name for each in got.outputs] == ["samples", "rewards"]


def test_priorities_are_the_engines():
    assert PRIORITIES == (scheduler.FIRST, scheduler.DEFAULT, scheduler.LAST)


def test_unknown_models_and_versions(client: Client, refusal: Refusal):
    assert refusal(lambda: config(client, "dogs"))[0] == "NOT_FOUND"
    assert refusal(lambda: config(client, "rings", "7")) == (
        "NOT_FOUND",
        "model 'rings': unknown version '7', expected one of 1",
    )


def test_a_configuration_becomes_json(client: Client):
    """As tools read it."""
    whole = client.get_model_config("rings.network", as_json=True)["config"]
    assert json_format.ParseDict(whole, model_config_pb2.ModelConfig()) == config(client, "rings.network")


def test_extensions_are_those_that_work(live: Live, client: Client):
    """Each is used here."""

    def reload() -> object:
        client.unload_model("nan", unload_dependents=True)
        client.load_model("nan")
        return client.is_model_ready("nan") or None

    def gradient() -> object:
        with grpc.insecure_channel(live.address) as channel:
            views = tensor(np.zeros((1, 2), np.float32))
            asked = distillation_pb2.GradientRequest(model="rings", iteration=0, input=views)
            return distillation_pb2_grpc.DistillationStub(channel).Gradient(asked)

    uses = {
        "parameters": lambda: client.infer("rings", [], parameters={"steps": 2}),
        "schedule_policy": lambda: client.infer("rings", [], parameters={"steps": 2}, priority=1, timeout=10**7),
        "model_configuration": lambda: client.get_model_config("rings"),
        "statistics": lambda: client.get_inference_statistics("rings"),
        "model_repository": lambda: client.get_model_repository_index().models,
        "model_repository(unload_dependents)": reload,
        "system_shared_memory": client.get_system_shared_memory_status,
        "logging": client.get_log_settings,
        "trace": lambda: client.get_trace_settings(),
        "distillation": gradient,
    }
    assert set(client.get_server_metadata().extensions) == uses.keys()
    for use in uses.values():
        assert use() is not None
