"""Tensors of a request in shared memory: where they are, and messages with what is there in their place.

An input that lies in shared memory has no raw contents; an output that goes there has empty ones. Messages are changed
field by field, and the tensors in them are copied once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tritonclient.grpc import service_pb2 as pb

from serving.wire import errors
from serving.wire.fields import BYTES, Field, fields, tagged
from serving.wire.kserve import OF_HTTP
from serving.wire.received import REGION, Received
from serving.wire.tensors import Parameter

OFFSET, SIZE = "shared_memory_offset", "shared_memory_byte_size"
"""Parameters of an input or of a requested output, beside `REGION`."""
_INPUTS, _OUTPUTS, _RAW_INPUTS = 5, 6, 7  # of a ModelInferRequest
_PARAMETERS_OF_INPUT, _PARAMETERS_OF_OUTPUT = 4, 2
_GIVEN, _RAW_OUTPUTS = 5, 6  # of a ModelInferResponse


@dataclass(frozen=True)
class Place:
    """So many bytes at an offset into a region that was registered."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True)
class Places:
    """Where tensors of one request are, by name."""

    inputs: Mapping[str, Place]
    outputs: Mapping[str, Place]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


def places(request: Received) -> Places:
    """The tensors of a request that are in shared memory, as it says.

    Raises:
        RequestError: INVALID_ARGUMENT for parameters that are no place, and for inputs that cannot come beside some in
            shared memory.
    """
    inputs = {
        sent.name: _place(f"input {sent.name!r}", sent.extras) for sent in request.inputs if REGION in sent.extras
    }
    outputs = {name: _place(f"output {name!r}", extras) for name, extras in request.extras.items() if REGION in extras}
    if inputs and len({sent.name for sent in request.inputs}) < len(request.inputs):  # each would be read anew
        raise errors.invalid(f"inputs: expected each name once beside {REGION}, got one twice")
    for sent in request.inputs if inputs else ():
        if sent.name in inputs and (sent.contents or sent.raw is not None):
            raise errors.invalid(f"input {sent.name!r}: expected no contents beside {REGION}, got some")
        if sent.name not in inputs and sent.raw is None:
            raise errors.invalid(
                f"input {sent.name!r}: expected raw_input_contents beside inputs in shared memory, got none"
            )
    return Places(inputs, outputs)


def _place(where: str, extras: Mapping[str, Parameter | None]) -> Place:
    for name in extras:
        if name not in (REGION, OFFSET, SIZE, *OF_HTTP):
            raise errors.invalid(f"{where}: expected parameters {REGION}, {OFFSET} and {SIZE}, got {name!r}")
    region, offset, size = extras[REGION], extras.get(OFFSET, 0), extras.get(SIZE)
    if not isinstance(region, str):
        raise errors.invalid(f"{where}: {REGION}: expected a name, got {region!r}")
    for name, value in ((OFFSET, offset), (SIZE, size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise errors.invalid(f"{where}: {name}: expected a whole number of bytes, got {value!r}")
    assert isinstance(offset, int)
    assert isinstance(size, int)
    return Place(region, offset, size)


def filled(data: bytes, request: Received, places: Places, read: Callable[[str, Place], bytes]) -> bytes:
    """The serialised ModelInferRequest `data`, of which `request` was read, with all inputs in raw contents.

    Args:
        read: the bytes at a place, of the tensor so called in errors.
    """
    pieces = [piece for each in fields(memoryview(data)) for piece in _without_places(each, places)]
    for sent in request.inputs if places.inputs else ():
        place = places.inputs.get(sent.name)
        if place is not None:
            pieces += tagged(_RAW_INPUTS, read(f"input {sent.name!r}", place))
        elif sent.raw is not None:
            pieces += tagged(_RAW_INPUTS, sent.raw)
    return b"".join(pieces)


def _without_places(each: Field, places: Places) -> Iterable[bytes | memoryview]:
    """A field of a request as it goes on."""
    if each.kind == BYTES and each.number == _INPUTS and _name(each.value) in places.inputs:
        return _without(each, _PARAMETERS_OF_INPUT)
    if each.kind == BYTES and each.number == _OUTPUTS and _name(each.value) in places.outputs:
        return _without(each, _PARAMETERS_OF_OUTPUT)
    return () if places.inputs and each.number == _RAW_INPUTS else (each.whole,)


def _without(each: Field, number: int) -> Iterable[bytes | memoryview]:
    """A field that is a message, without the fields of that number."""
    return tagged(each.number, b"".join(part.whole for part in fields(each.value) if part.number != number))


def put(reply: bytes, places: Mapping[str, Place], write: Callable[[str, Place, memoryview], None]) -> bytes:
    """A serialised ModelInferResponse whose outputs at these places were written there.

    Args:
        write: puts bytes at a place, of the tensor so called in errors.
    """
    pieces, number = list[bytes | memoryview](), 0
    names = [_name(each.value) for each in fields(memoryview(reply)) if each.number == _GIVEN]
    for each in fields(memoryview(reply)):
        if each.number == _GIVEN and (place := places.get(_name(each.value))) is not None:
            pieces += tagged(_GIVEN, b"".join((each.value, _told(place))))
        elif each.number == _RAW_OUTPUTS:
            name, number = names[number], number + 1
            if (place := places.get(name)) is not None:
                write(f"output {name!r}", place, each.value)
            pieces += tagged(_RAW_OUTPUTS, b"" if place is not None else each.value)
        else:
            pieces.append(each.whole)
    return b"".join(pieces)


def _told(place: Place) -> bytes:
    """What an output says of its place, to be joined to its message."""
    said = pb.ModelInferResponse.InferOutputTensor()
    said.parameters[REGION].string_param = place.region
    said.parameters[OFFSET].int64_param = place.offset
    said.parameters[SIZE].int64_param = place.size
    return said.SerializeToString()


def _name(tensor: memoryview) -> str:
    """The name of an input, of a requested output, or of an output: the last one, if it is there twice."""
    found: Iterator[memoryview] = (each.value for each in fields(tensor) if each.number == 1 and each.kind == BYTES)
    *_, last = (b"", *found)
    return str(last, "utf-8")
