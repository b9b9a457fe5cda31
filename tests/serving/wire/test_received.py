"""Requests as they came: bounded, without being built, and the same as a parser of protocol buffers reads them."""

import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import sampling_pb2, tensor_pb2
from serving.wire import contents, interactive, kserve, received
from serving.wire.aside import SMALL
from serving.wire.errors import RequestError
from serving.wire.fields import fields, varints
from tests.serving.wire.test_kserve import refusal

Request = pb.ModelInferRequest
MANY = 2_000_000


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def part(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def one_input(*parts: bytes, name: bytes = b"x", datatype: bytes = b"FP32") -> bytes:
    return part(5, part(1, name) + part(2, datatype) + b"".join(parts))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_numbers_of_variable_length(numbers: list[int]):
    assert varints(b"".join(map(varint, numbers))).tolist() == numbers


def test_numbers_across_blocks():
    numbers = np.random.default_rng(0).integers(0, 2**63, 400_000).tolist()
    assert varints(b"".join(map(varint, numbers))).tolist() == numbers


@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff", b"\xff" * 11 + b"\x01", b"\xff" * 3_000_000])
def test_numbers_without_an_end(data: bytes):
    with pytest.raises(DecodeError):
        varints(data)


CONTENTS = {
    "bool_contents": [True, False, True],
    "int_contents": [-(2**31), -1, 0, 2**31 - 1],
    "int64_contents": [-(2**63), -1, 0, 2**63 - 1],
    "uint_contents": [0, 2**32 - 1],
    "uint64_contents": [0, 2**64 - 1],
    "fp32_contents": [0.5, -1e30],
    "fp64_contents": [0.5, -1e300],
}


@pytest.mark.parametrize(("name", "numbers"), CONTENTS.items())
def test_contents_are_what_a_parser_reads(name: str, numbers: list[float]):
    data = pb.InferTensorContents(**{name: numbers}).SerializeToString()
    pieces = contents.packed([memoryview(data), memoryview(data)], contents.Budget())
    assert list(pieces) == [name]
    assert contents.count(name, pieces[name]) == 2 * len(numbers)
    assert contents.values(name, pieces[name]).tolist() == pytest.approx(2 * numbers)


def test_small_contents_may_take_long():
    empty = one_input(part(3, b"\x00"), part(5, b"\x32\x00" * 2000))
    raw = one_input(part(3, b"\x08")) + part(7, bytes(32))
    assert kserve.effort(received.infer(empty)) > SMALL
    assert kserve.effort(received.infer(raw)) == 32


def test_contents_need_not_be_packed():
    loose = b"".join(b"\x18" + varint(number) for number in (3, 300, 2**64 - 1))
    packed = pb.InferTensorContents(int64_contents=[7]).SerializeToString()
    request = received.infer(one_input(part(3, b"\x04"), part(5, loose), part(5, packed), datatype=b"INT64"))
    assert kserve.decode_request(request).inputs["x"].tolist() == [3, 300, -1, 7]


BOUNDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "axes": (
        lambda: Request(inputs=[Request.InferInputTensor(name="x", shape=[1] * MANY)]).SerializeToString(),
        f"input 'x': a shape of {MANY} axes is too large, expected at most 64",
    ),
    "axes, each a field": (lambda: one_input(b"\x18\x01" * MANY), "at most 8192 fields, got more"),
    "a parameter's name": (
        lambda: Request(parameters={"p" * 2**24: pb.InferParameter(bool_param=True)}).SerializeToString(),
        "expected names of at most 1024 bytes",
    ),
    "a shorter one": (
        lambda: Request(parameters={"p" * 2000: pb.InferParameter(bool_param=True)}).SerializeToString(),
        "parameters: expected names of at most 1024 characters, got one of 2000",
    ),
    "an input's name": (lambda: one_input(name=b"p" * 2**24), "got one of 16777216"),
    "an input's name without end": (lambda: one_input(name=b"\xff" * 2**24), "got one of 16777216 bytes"),
    "an input's type": (lambda: one_input(datatype=b"p" * 2**24), "got one of 16777216 bytes"),
    "the model's name": (lambda: Request(model_name="p" * 2000).SerializeToString(), "model_name: expected names"),
    "a text": (
        lambda: Request(parameters={"reward": pb.InferParameter(string_param="(" * 2**20)}).SerializeToString(),
        "texts of at most 65536",
    ),
    "all texts": (
        lambda: Request(
            parameters={f"triton_{i}": pb.InferParameter(string_param="a" * 60_000) for i in range(20)}
        ).SerializeToString(),
        "at most 1048576 bytes beside the tensors",
    ),
    "parameters": (
        lambda: Request(
            parameters={f"p{i}": pb.InferParameter(bool_param=True) for i in range(1025)}
        ).SerializeToString(),
        "parameters: expected at most 1024, got 1025",
    ),
    "empty inputs": (lambda: part(5, b"") * MANY, "at most 8192 fields"),
    "a few more inputs": (lambda: part(5, b"") * 1025, "inputs: expected at most 1024, got 1025"),
    "outputs": (lambda: part(6, b"") * 1025, "outputs: expected at most 1024, got 1025"),
    "raw contents": (lambda: part(7, b"") * MANY, "at most 8192 fields"),
    "unknown fields": (lambda: b"\xf8\x07\x01" * MANY, "at most 8192 fields"),
    "an input's parameters": (lambda: one_input(part(4, b"") * MANY), "at most 8192 fields"),
    "an output's parameters": (lambda: part(6, part(2, b"") * MANY), "got a field of"),
    "contents, each a field": (
        lambda: one_input(part(3, varint(MANY)), part(5, b"\x18\x01" * MANY), datatype=b"INT64"),
        "at most 65536 that are not",
    ),
    "contents of many inputs": (
        lambda: b"".join(
            one_input(part(3, varint(3000)), part(5, b"\x18\x01" * 3000), name=varint(i), datatype=b"INT64")
            for i in range(30)
        ),
        "at most 65536 that are not in all inputs",
    ),
    "fields without a number in many inputs": (
        lambda: b"".join(
            one_input(part(3, b"\x00"), part(5, b"\x32\x00" * 60_000), name=b"i%d" % i) for i in range(1024)
        ),
        "at most 65536 that are not in all inputs",
    ),
    "empty texts": (
        lambda: one_input(part(3, varint(MANY)), part(5, b"\x42\x00" * MANY), datatype=b"BYTES"),
        "at most 65536 that are not",
    ),
    "contents without end": (
        lambda: one_input(part(3, b"\x01"), part(5, part(3, b"\x01" + b"\xff" * MANY)), datatype=b"INT64"),
        "got a longer one or half of one",
    ),
    "no text": (lambda: one_input(name=b"\xff\xfe"), "do not parse"),
    "groups": (lambda: b"\x0b" * MANY, "do not parse"),
    "half a field": (lambda: part(5, b"x" * 100)[:-1], "do not parse"),
    "a length beyond the end": (lambda: b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "do not parse"),
}


@pytest.mark.parametrize(("make", "text"), BOUNDS.values(), ids=BOUNDS)
def test_bounds_come_first(make: Callable[[], bytes], text: str):
    data = make()
    took = []
    for _ in range(3):  # a collection of the whole test process's garbage may fall into one of them
        began = time.thread_time()
        assert text in refusal(data)
        took.append(time.thread_time() - began)
    assert min(took) < 1  # milliseconds, on a machine with nothing else to do


def sample(**given: object) -> bytes:
    return sampling_pb2.InteractiveRequest(
        sample=sampling_pb2.SampleRequest(**given)  # type: ignore[arg-type]
    ).SerializeToString()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (sample(inputs={"x": tensor_pb2.Tensor(shape=[1] * MANY)}), f"a shape of {MANY} axes is too large"),
        (sample(inputs={"x" * 2**24: tensor_pb2.Tensor()}), "got one of 16777216 bytes"),
        (sample(inputs={"x": tensor_pb2.Tensor(datatype="p" * 2**24)}), "got one of 16777216 bytes"),
        (sample(parameters={"p" * 2**20: tensor_pb2.Value(flag=True)}), "expected names of at most 1024 bytes"),
        (sample(parameters={"p": tensor_pb2.Value(tensor=tensor_pb2.Tensor(data=b"a" * 2**20))}), "got a field of"),
        (sample(parameters={"p": tensor_pb2.Value(tensor=tensor_pb2.Tensor())}), "parameter 'p': expected no tensor"),
        (part(1, part(5, b"") * MANY), "at most 8192 fields"),
        (part(1, part(4, b"") * MANY), "at most 8192 fields"),
        (part(1, b"") * MANY, "at most 8192 fields"),
        (part(2, part(2, b"\0" * MANY)), "expected sample as the first message, got scores"),
        (b"", "expected sample as the first message, got none"),
        (b"\x0a\xff", "do not parse"),
    ],
    ids=[
        "axes",
        "input",
        "type",
        "name",
        "large tensor",
        "tensor",
        "inputs",
        "parameters",
        "samples",
        "scores",
        "nothing",
        "half",
    ],
)
def test_streams_have_the_same_bounds(data: bytes, text: str):
    with pytest.raises(RequestError) as caught:
        received.sample(data)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.detail


def test_a_stream_begins_with_what_a_request_has():
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    data = sample(
        model="m",
        version="2",
        id="r",
        parameters={"steps": tensor_pb2.Value(integer=3), "beta": tensor_pb2.Value(number=0.5)},
        inputs={"x_init": tensor_pb2.Tensor(shape=[3, 2], data=x.tobytes())},
    )
    request = interactive.decoded(received.sample(interactive.with_seed(data, 2**62)))
    assert (request.model, request.version, request.id) == ("m", "2", "r")
    assert request.parameters == {"reward": "client", "steps": 3, "beta": 0.5, "seed": 2**62}
    np.testing.assert_array_equal(request.inputs["x_init"], x)


@given(st.binary(max_size=200))
def test_random_fields_give_pieces_or_an_error(data: bytes):
    try:
        pieces = [each.whole for each in fields(memoryview(data))]
    except DecodeError:
        return
    assert b"".join(pieces) == data


def test_scores_are_short():
    with pytest.raises(RequestError, match="expected scores in at most 65536 bytes, got a message of 70000"):
        interactive.answered(bytes(70_000))
    with pytest.raises(RequestError, match="do not parse"):
        interactive.answered(b"\xff")
