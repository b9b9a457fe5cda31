"""A request for inference as it came: what is small is read, tensors are views of the message's bytes.

Bounds come first: a message with more axes, names or texts than any request needs is refused before anything is made
of it. Fronts read requests like this and pass the bytes on; replicas then make arrays of the views (`kserve`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from protos.tiltserve.v1 import sampling_pb2
from serving.wire import errors
from serving.wire.fields import BYTES, VARINT, Field, count, fields, varints
from serving.wire.tensors import Parameter

MOST_EACH = 1024
"""Most inputs, parameters, and outputs asked for."""
MOST_AXES = 64
"""numpy's own bound."""
LONGEST_NAME, LONGEST_TEXT = 1024, 2**16
"""Most characters of a name, and bytes of an id or a parameter's text."""
REGION = "shared_memory_region"
"""The parameter of an input, or of an output, that says that its bytes are not in the message."""
MOST_FIELDS, MOST_BESIDE = 8 * MOST_EACH, 2**20
"""Most fields of a message, and bytes beside its tensors: reading them takes ten milliseconds."""


@dataclass(frozen=True)
class Sent:
    """An input as it came.

    Attributes:
        raw: its bytes, None where there are none.
        contents: the pieces of its InferTensorContents.
        extras: its own parameters, by name; None for one without a value.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: memoryview | None = None
    contents: Sequence[memoryview] = ()
    extras: Mapping[str, Parameter | None] = field(default_factory=dict)

    @property
    def elsewhere(self) -> bool:
        """Whether its bytes are not in the message: it says where they are."""
        return REGION in self.extras


@dataclass(frozen=True)
class Received:
    """A request for inference, which need not be valid.

    Attributes:
        version: "" for the newest.
        parameters: by name; None for one without a value.
        inputs: in order; a name may come twice.
        outputs: the names asked for.
        extras: an output's own parameters, by its name and theirs.
    """

    model: str
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Parameter | None] = field(default_factory=dict)
    inputs: Sequence[Sent] = ()
    outputs: Sequence[str] = ()
    extras: Mapping[str, Mapping[str, Parameter | None]] = field(default_factory=dict)


def infer(data: bytes) -> Received:
    """A serialised ModelInferRequest.

    Raises:
        RequestError: INVALID_ARGUMENT for bytes that are no such message, or one beyond the bounds.
    """
    with Reading(data) as reading:
        inputs, raw = list[memoryview](), list[memoryview]()
        for each in reading.fields(memoryview(data)):
            tensors = {5: inputs, 7: raw}.get(each.number)
            if tensors is None or each.kind != BYTES:
                reading.keep(each)
            else:
                tensors.append(each.value)
        reading.count("inputs", len(inputs))
        sent = [_input(reading, value) for value in inputs]
        if raw:
            here = [each for each in sent if not each.elsewhere]
            if len(raw) != len(here):
                raise errors.invalid(f"raw_input_contents: expected {len(here)} (one per input), got {len(raw)}")
            left = iter(raw)
            sent = [each if each.elsewhere else replace(each, raw=next(left)) for each in sent]
        rest = pb.ModelInferRequest.FromString(reading.kept())
        reading.count("parameters", len(rest.parameters))
        reading.count("outputs", len(rest.outputs))
        return Received(
            named("model_name", rest.model_name),
            named("model_version", rest.model_version),
            rest.id,
            {named("parameters", name): _value(value) for name, value in rest.parameters.items()},
            sent,
            [named("outputs", each.name) for each in rest.outputs],
            {each.name: _values(each.parameters) for each in rest.outputs if each.parameters},
        )


def sample(data: bytes) -> Received:
    """The first message of a stream, a serialised tiltserve.v1.InteractiveRequest.

    Raises:
        RequestError: as `infer`; INVALID_ARGUMENT if it is another message, or a parameter is a tensor.
    """
    with Reading(data) as reading:
        inputs, kind = dict[str, Sent](), "none"
        for outer in reading.fields(memoryview(data)):
            kind = {1: "sample", 2: "scores"}.get(outer.number, kind)
            for each in reading.fields(outer.value) if (outer.number, outer.kind) == (1, BYTES) else ():
                if (each.number, each.kind) == (5, BYTES):
                    sent = entry(reading, each.value)
                    inputs[sent.name] = sent
                else:
                    reading.keep(each)
        if kind != "sample":
            raise errors.invalid(f"expected sample as the first message, got {kind}")
        reading.count("inputs", len(inputs))
        rest = sampling_pb2.SampleRequest.FromString(reading.kept())
        reading.count("parameters", len(rest.parameters))
        return Received(
            named("model", rest.model),
            named("version", rest.version),
            rest.id,
            {named("parameters", name): scalar(name, value) for name, value in rest.parameters.items()},
            [inputs[name] for name in sorted(inputs)],
        )


class Reading:
    """One message's bounds; within, what cannot be read is INVALID_ARGUMENT."""

    def __init__(self, data: bytes) -> None:
        self._size, self._fields, self._bytes = len(data), 0, 0
        self._kept: list[memoryview] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DecodeError | UnicodeDecodeError):
            raise unreadable(self._size) from None

    def fields(self, data: memoryview) -> Iterator[Field]:
        """The fields of the message or of a part of it."""
        for each in fields(data):
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise errors.invalid(f"expected a request of at most {MOST_FIELDS} fields, got more")
            yield each

    def keep(self, each: Field) -> None:
        """A small field, to be parsed with the others."""
        self._kept.append(self.bounded(each))

    def bounded(self, each: Field) -> memoryview:
        """A small field with tag and length."""
        longest, here = LONGEST_NAME + LONGEST_TEXT, len(each.whole)
        if here > longest + 64:
            raise errors.invalid(
                f"expected names of at most {LONGEST_NAME} bytes and texts of at most {LONGEST_TEXT}, "
                f"got a field of {here} bytes"
            )
        self._bytes += here
        if self._bytes > MOST_BESIDE:
            raise errors.invalid(f"expected at most {MOST_BESIDE} bytes beside the tensors, got more")
        return each.whole

    def kept(self) -> bytes:
        """The small fields as a message."""
        return b"".join(self._kept)

    def count(self, what: str, came: int) -> None:
        if came > MOST_EACH:
            raise errors.invalid(f"{what}: expected at most {MOST_EACH}, got {came}")


def unreadable(size: int) -> errors.RequestError:
    return errors.invalid(f"expected a protocol buffer message, got {size} bytes that do not parse")


def _input(reading: Reading, data: memoryview) -> Sent:
    """An InferInputTensor, without raw contents."""
    texts = {1: "", 2: ""}
    shape, contents, extras = list[memoryview](), list[memoryview](), list[memoryview]()
    for each in reading.fields(data):
        if each.kind == BYTES and each.number in texts:
            texts[each.number] = _text(each.value)
        elif each.kind in (BYTES, VARINT) and each.number == 3:
            shape.append(each.value)
        elif each.kind == BYTES and each.number == 5:
            contents.append(each.value)
        elif each.kind == BYTES and each.number == 4:
            extras.append(reading.bounded(each))
    given = pb.ModelInferRequest.InferInputTensor.FromString(b"".join(extras)).parameters if extras else {}
    return Sent(texts[1], texts[2], _shape(texts[1], shape), None, contents, _values(given))


def entry(reading: Reading, data: memoryview) -> Sent:
    """An entry of a map from names to Tensors."""
    name, inside = "", memoryview(b"")
    for each in reading.fields(data):
        if (each.number, each.kind) == (1, BYTES):
            name = _text(each.value)
        elif (each.number, each.kind) == (2, BYTES):
            inside = each.value
    return tensor(reading, name, inside)


def tensor(reading: Reading, name: str, data: memoryview) -> Sent:
    """A Tensor, whose type is FP32 unless it says another."""
    datatype, shape, raw = "", list[memoryview](), memoryview(b"")
    for each in reading.fields(data):
        if (each.number, each.kind) == (1, BYTES):
            datatype = _text(each.value)
        elif each.kind in (BYTES, VARINT) and each.number == 2:
            shape.append(each.value)
        elif (each.number, each.kind) == (3, BYTES):
            raw = each.value
    return Sent(name, datatype or "FP32", _shape(name, shape), raw)


def _shape(name: str, pieces: Sequence[memoryview]) -> tuple[int, ...]:
    if (axes := count(pieces)) > MOST_AXES:
        raise errors.invalid(f"input {name!r}: a shape of {axes} axes is too large, expected at most {MOST_AXES}")
    return tuple(varints(b"".join(pieces)).view("i8").tolist())


def _text(data: memoryview) -> str:
    """The name or the datatype of an input."""
    if len(data) > 4 * LONGEST_NAME:  # more than so many characters, whatever they are
        raise errors.invalid(
            f"inputs: expected names of at most {LONGEST_NAME} characters, got one of {len(data)} bytes"
        )
    return named("inputs", str(data, "utf-8"))


def named(where: str, name: str) -> str:
    """A name as it is; INVALID_ARGUMENT where it is too long."""
    if len(name) > LONGEST_NAME:
        raise errors.invalid(f"{where}: expected names of at most {LONGEST_NAME} characters, got one of {len(name)}")
    return name


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter | None]:
    return {name: _value(parameters[name]) for name in sorted(parameters)}


def _value(value: pb.InferParameter) -> Parameter | None:
    which = value.WhichOneof("parameter_choice")
    plain: Parameter | None = getattr(value, which) if which else None
    return plain


def scalar(name: str, value: Any) -> Parameter | None:
    """What a Value holds; INVALID_ARGUMENT for a tensor."""
    which = value.WhichOneof("kind")
    if which == "tensor":
        raise errors.invalid(f"parameter {name!r}: expected no tensor, which goes into inputs, got one")
    plain: Parameter | None = getattr(value, which) if which else None
    return plain
