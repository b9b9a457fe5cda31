"""Every datatype of the protocol, there and back through networks that give what they take."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import ml_dtypes
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from serving.wire import kserve, received, texts
from serving.wire.errors import RequestError
from tests.serving.front.protocol.conftest import Refusal
from tests.serving.live import Live, running

Client: TypeAlias = Any  # tritonclient has no types
Array: TypeAlias = NDArray[Any]

ONNX = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16, "BYTES": TensorProto.STRING,
}  # fmt: skip
VALUES: dict[str, Array] = {
    "BOOL": np.array([[True, False], [False, False], [True, True]]),
    "UINT8": np.array([[0, 255], [1, 2], [3, 4]], np.uint8),
    "UINT16": np.array([[0, 65535], [1, 2], [3, 4]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1], [1, 2], [3, 4]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1], [1, 2], [3, 4]], np.uint64),
    "INT8": np.array([[-128, 127], [1, 2], [3, 4]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1], [1, 2], [3, 4]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1], [1, 2], [3, 4]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1], [1, 2], [3, 4]], np.int64),
    "FP16": np.array([[0.1, -65504], [1e-7, 2], [3, 4]], np.float16),
    "FP32": np.array([[0.1, -3e38], [1e-45, 2], [3, 4]], np.float32),
    "FP64": np.array([[0.1, -1e308], [5e-324, 2], [3, 4]]),
    "BF16": np.array([[0.1, -3e38], [1e-40, 2], [3, 4]], ml_dtypes.bfloat16),
    "BYTES": np.array([[b"", "ü€".encode()], [b"a" * 1000, b"\0"], [b"3", b"x y"]], object),
}
CONTENTS = {
    "BOOL": "bool", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "INT8": "int",
    "INT16": "int", "INT32": "int", "INT64": "int64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes",
}  # fmt: skip


def write(root: Path, name: str, inputs: dict[str, tuple[int, list[Any]]]) -> None:
    """A network that gives each input as the output `<name>_out`."""
    takes, gives = (
        [helper.make_tensor_value_info(each + end, kind, ["n", *row]) for each, (kind, row) in inputs.items()]
        for end in ("", "_out")
    )
    graph = helper.make_graph([helper.make_node("Identity", [n], [f"{n}_out"]) for n in inputs], name, takes, gives)
    (root / name / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, root / name / "1" / "model.onnx")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    root = tmp_path_factory.mktemp("types")
    for name, kind in ONNX.items():
        write(root, name.lower(), {"x": (kind, [2])})
    write(root, "mixed", {"text": (TensorProto.STRING, []), "number": (TensorProto.FLOAT, [3])})
    with running(root) as live:
        yield live


@pytest.fixture
def client(typed: Live) -> Iterator[Client]:
    with triton.InferenceServerClient(typed.address) as made:
        yield made


def given(name: str, datatype: str, value: Array) -> triton.InferInput:
    tensor = triton.InferInput(name, list(value.shape), datatype)
    tensor.set_data_from_numpy(value)
    return tensor


def equal(got: Array, sent: Array) -> None:
    assert got.shape == sent.shape
    assert got.dtype == sent.dtype
    assert got.tolist() == sent.tolist()


@pytest.mark.parametrize("datatype", ONNX)
def test_raw_contents(client: Client, datatype: str):
    model, value = datatype.lower(), VALUES[datatype]
    metadata = client.get_model_metadata(model)
    assert {each.datatype for each in (*metadata.inputs, *metadata.outputs)} == {datatype}
    result = client.infer(model, [given("x", datatype, value)])
    assert result.get_response().outputs[0].datatype == datatype
    equal(result.as_numpy("x_out"), value)


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_contents(typed: Live, datatype: str):
    value = VALUES[datatype]
    request = pb.ModelInferRequest(model_name=datatype.lower())
    tensor = request.inputs.add(name="x", datatype=datatype, shape=value.shape)
    getattr(tensor.contents, f"{CONTENTS[datatype]}_contents").extend(value.flatten().tolist())
    with grpc.insecure_channel(typed.address) as channel:
        response = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    equal(triton.InferResult(response).as_numpy("x_out"), value)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_have_raw_contents_only(typed: Live, datatype: str):
    request = pb.ModelInferRequest(model_name=datatype.lower())
    request.inputs.add(name="x", datatype=datatype, shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    with grpc.insecure_channel(typed.address) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected raw bytes" in caught.value.details()


def test_a_bfloat16_network_takes_float32_too(client: Client):
    """As it is computed in float32: what a client does not round, the answer does."""
    value = np.array([[1.001, 2.0]], np.float32)
    result = client.infer("bf16", [given("x", "FP32", value)])
    equal(result.as_numpy("x_out"), value.astype(ml_dtypes.bfloat16))


def test_texts_beside_numbers(client: Client):
    text, number = np.array([b"one", b"two"], object), np.arange(6, dtype=np.float32).reshape(2, 3)
    for shape in ([2], [2, 1]):
        result = client.infer("mixed", [given("text", "BYTES", text.reshape(shape)), given("number", "FP32", number)])
        equal(result.as_numpy("text_out"), text)
        equal(result.as_numpy("number_out"), number)


@pytest.mark.parametrize(
    ("datatype", "sent", "value", "text"),
    [
        ("INT16", "INT32", VALUES["INT32"], "input 'x': expected int16 [n, 2], got int32 [3, 2]"),
        ("BYTES", "FP32", VALUES["FP32"], "input 'x': expected BYTES [n, 2], got float32 [3, 2]"),
        ("FP32", "BYTES", VALUES["BYTES"], "input 'x': expected float32 [n, 2], got BYTES [3, 2]"),
        ("FP32", "BF16", VALUES["BF16"], "input 'x': expected float32 [n, 2], got bfloat16 [3, 2]"),
        ("BF16", "FP16", VALUES["FP16"], "input 'x': expected bfloat16 [n, 2], got float16 [3, 2]"),
        ("BYTES", "BYTES", np.array([[b"\xff", b""]], object), "expected texts in UTF-8, got invalid start byte"),
        ("BF16", "BF16", np.array([[np.nan, 1]], ml_dtypes.bfloat16), "expected finite numbers"),
    ],
)
def test_other_types_are_refused(client: Client, refusal: Refusal, datatype: str, sent: str, value: Array, text: str):
    code, line = refusal(lambda: client.infer(datatype.lower(), [given("x", sent, value)]))
    assert code == "INVALID_ARGUMENT"
    assert text in line


def test_a_sampler_takes_no_texts(live: Live, refusal: Refusal):
    with triton.InferenceServerClient(live.address) as client:
        for name in ("x_init", "reward_direction", "reward_mode"):
            inputs = [given(name, "BYTES", np.array([b"1", b"2"], object))]
            parameters = {"reward": "linear"} if name.startswith("reward") else {}
            code, line = refusal(partial(client.infer, "rings", inputs, parameters=parameters))
            assert (code, line) == ("INVALID_ARGUMENT", f"input {name!r}: expected numbers, got BYTES [2]")


def hostile(raw: bytes, *shape: int) -> Callable[[], object]:
    message = pb.ModelInferRequest(model_name="bytes", raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="BYTES", shape=shape)
    data = message.SerializeToString()
    return lambda: kserve.decode_request(received.infer(data))


@pytest.mark.parametrize(
    ("raw", "shape", "text"),
    [
        (b"\xff\xff\xff\xff", (1,), "element 0: expected 4294967295 bytes, as it says, got 0"),
        (b"\x04\0\0\0abc", (1,), "element 0: expected 4 bytes, as it says, got 3"),
        (b"\x01\0\0\0ab", (1,), "expected 1 elements, got 1 bytes after them"),
        (b"\x01\0\0\0a\0\0", (1,), "expected 1 elements, got 2 bytes after them"),
        (b"\x04\0\0\0abcd", (2,), "expected 2 elements, got 1 and 0 bytes more"),
        (b"\0\0", (1,), "expected 1 elements of 4 bytes or more, got 2 bytes"),
        (b"", (2**62, 2**62), f"expected at most {texts.MOST} elements"),
        (b"\0" * 4 * (texts.MOST + 1), (texts.MOST + 1,), f"expected at most {texts.MOST} elements, got 1048577"),
    ],
)
def test_texts_that_do_not_fit_their_bytes(raw: bytes, shape: tuple[int, ...], text: str):
    with pytest.raises(RequestError) as caught:
        hostile(raw, *shape)()
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.detail


def test_a_million_empty_texts(typed: Live, client: Client, refusal: Refusal):
    """They are read beside the event loop, which answers others meanwhile."""
    value = np.full((texts.MOST // 2, 2), b"", object)
    begin = time.monotonic()
    assert refusal(lambda: client.infer("fp32", [given("x", "BYTES", value)]))[0] == "INVALID_ARGUMENT"
    assert time.monotonic() - begin < 20
    assert client.is_server_live()
