"""The codec against messages that the real client builds, and against broken ones."""

import contextlib

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc._utils import _get_inference_request

from serving.wire import kserve, received
from serving.wire.errors import RequestError
from serving.wire.tensors import DATATYPES, Parameter, TensorSpec, datatype, raw

DTYPES = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def client_request(arrays, parameters=None, outputs=None) -> pb.ModelInferRequest:
    """The message that tritonclient sends."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), datatype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return _get_inference_request(
        model_name="digits",
        inputs=inputs,
        model_version="1",
        request_id="r1",
        outputs=[triton.InferRequestedOutput(name) for name in outputs or []],
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=0,
        timeout=None,
        parameters=parameters,
    )


def decoded(request: pb.ModelInferRequest | bytes) -> kserve.InferRequest:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return kserve.decode_request(received.infer(data))


def refusal(request: pb.ModelInferRequest | bytes) -> str:
    with pytest.raises(RequestError) as caught:
        decoded(request)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in caught.value.detail
    return caught.value.detail


def tensor(datatype="FP32", shape=(2,), **contents) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="x", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
            )
        ]
    )


@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_arrays_survive_the_trip(dtype, shape, seed):
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    came = decoded(client_request({"x": array}))
    assert (came.model, came.version, came.id) == ("digits", "1", "r1")
    np.testing.assert_array_equal(came.inputs["x"], array, strict=True)
    response = pb.ModelInferResponse.FromString(kserve.encode_response("digits", "1", "r1", {"y": array}, {}))
    np.testing.assert_array_equal(triton.InferResult(response).as_numpy("y"), array, strict=True)


def test_parameters_survive_the_trip():
    sent: dict[str, Parameter] = {"steps": 20, "eta": 0.5, "grid": "karras", "flag": True, "seed": 2**63 - 1}
    came = decoded(client_request({}, sent)).parameters
    assert came == sent
    assert {name: type(came[name]) for name in sent} == {name: type(value) for name, value in sent.items()}
    response = pb.ModelInferResponse.FromString(kserve.encode_response("m", "1", "", {}, sent))
    assert {
        name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in response.parameters.items()
    } == sent


def test_typed_contents_are_read():
    came = decoded(tensor("INT8", (3,), int_contents=[-1, 0, 1])).inputs["x"]
    np.testing.assert_array_equal(came, np.array([-1, 0, 1], np.int8), strict=True)


def test_only_the_requested_outputs_are_sent():
    outputs = {"a": np.zeros(1, np.float32), "b": np.ones(2, np.float32)}
    response = pb.ModelInferResponse.FromString(kserve.encode_response("m", "1", "", outputs, {}, ["b"]))
    assert [output.name for output in response.outputs] == ["b"]
    assert len(response.raw_output_contents) == 1
    with pytest.raises(RequestError, match="unknown output 'c', expected one of a, b"):
        kserve.encode_response("m", "1", "", outputs, {}, ["c"])


def test_a_seed_is_set_without_parsing():
    request = client_request({"x": np.arange(6, dtype=np.float32)}, {"steps": 3, "seed": 1})
    came = decoded(kserve.with_seed(request.SerializeToString(), 7))
    assert came.parameters == {"steps": 3, "seed": 7}
    np.testing.assert_array_equal(came.inputs["x"], np.arange(6, dtype=np.float32))


def test_metadata_gives_names_types_and_shapes():
    spec = TensorSpec("x", "FP32", (-1, 28))
    message = kserve.model_metadata("m", ["1", "2"], [spec], [])
    assert (message.name, list(message.versions)) == ("m", ["1", "2"])
    assert (message.inputs[0].name, message.inputs[0].datatype, list(message.inputs[0].shape)) == (
        "x",
        "FP32",
        [-1, 28],
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_numbers_must_be_finite(bad, dtype):
    assert "'x': expected finite numbers" in refusal(client_request({"x": np.array([0, bad], dtype)}))


def test_byte_count_must_fit_the_shape():
    request = client_request({"x": np.zeros(3, np.float32)})
    request.raw_input_contents[0] = b"\0" * 11
    assert refusal(request) == "input 'x': expected 12 bytes for FP32 [3], got 11"


def test_raw_contents_must_match_the_inputs():
    request = client_request({"x": np.zeros(3, np.float32)})
    request.raw_input_contents.append(b"")
    assert refusal(request) == "raw_input_contents: expected 1 (one per input), got 2"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (tensor("TEXT", (1,), bytes_contents=[b"a"]), "got 'TEXT'"),
        (tensor("BYTES", (2,), bytes_contents=[b"a"]), "expected 2 values for [2], got 1"),
        (tensor("BYTES", (1,), fp32_contents=[1.0]), "expected raw bytes or bytes_contents for BYTES"),
        (tensor("float32"), "got 'float32'"),
        (tensor(shape=(-1,)), "without negative lengths, got [-1]"),
        (tensor(fp32_contents=[1.0]), "expected 2 values for [2], got 1"),
        (tensor(fp64_contents=[1.0, 2.0]), "expected raw bytes or fp32_contents for FP32, got fp64_contents"),
        (tensor("FP16", fp32_contents=[1.0, 2.0]), "expected raw bytes for FP16, got fp32_contents"),
        (tensor("INT8", (1,), int_contents=[300]), "range of INT8"),
        (tensor(shape=(0, 2**62)), "too large"),
        (tensor(shape=(0,) * 70), "too large"),
    ],
)
def test_broken_tensors_are_refused(request_, text):
    assert text in refusal(request_)


def test_bool_bytes_are_checked():
    request = client_request({"x": np.array([True, False])})
    request.raw_input_contents[0] = b"\x01\x02"
    assert "BOOL bytes of 0 or 1" in refusal(request)


def test_an_input_comes_once():
    request = client_request({"x": np.zeros(1, np.float32)})
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    assert refusal(request) == "input 'x': expected once, got it twice"


def test_shared_memory_is_refused():
    request = client_request({"x": np.zeros(1, np.float32)})
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    del request.raw_input_contents[:]
    assert "parameters are not served, got shared_memory_region" in refusal(request)


def test_parameters_must_have_finite_values():
    assert refusal(client_request({}, {"beta": float("nan")})) == "parameter 'beta': expected a finite number, got nan"
    request = client_request({})
    request.parameters["empty"].SetInParent()
    assert refusal(request) == "parameter 'empty': expected a value, got none"


@given(st.binary(max_size=300))
def test_random_bytes_give_a_message_or_a_refusal(data):
    with contextlib.suppress(RequestError):
        decoded(data)


@pytest.mark.parametrize("name", DATATYPES)
def test_outputs_of_every_type_also_where_their_numbers_do_not_lie_one_after_the_other(name: str):
    dtype, _ = DATATYPES[name]
    plain = np.arange(4).reshape(2, 2)
    whole = np.array([[b"a", b""], [b"b", b"c"]], object) if name == "BYTES" else plain.astype(dtype)
    outputs = {"y": whole, "turned": whole.T, "none": whole[:0]}
    response = pb.ModelInferResponse.FromString(kserve.encode_response("m", "1", "", outputs, {}))
    assert {each.datatype for each in response.outputs} == {name}
    assert list(response.raw_output_contents) == [raw(each) for each in outputs.values()]
    np.testing.assert_array_equal(triton.InferResult(response).as_numpy("turned"), whole.T)
