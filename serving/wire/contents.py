"""InferTensorContents, tensors whose numbers are fields of a message instead of raw bytes: read without a list of them.

The numbers of a field come packed, in one piece, or each as a field of its own; joined, both are the same bytes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError

from serving.wire import texts
from serving.wire.fields import BYTES, FIXED32, FIXED64, VARINT, fields, varints
from serving.wire.fields import count as varint_count
from serving.wire.tensors import Array

MOST_PIECES = 2**16
"""Most fields in the contents of one message, of all its tensors: each is a turn of a loop in Python."""

# field number -> name, how a number is written, and its type
_FIELDS = {
    1: ("bool_contents", VARINT, np.dtype(np.bool_)),
    2: ("int_contents", VARINT, np.dtype(np.int32)),
    3: ("int64_contents", VARINT, np.dtype(np.int64)),
    4: ("uint_contents", VARINT, np.dtype(np.uint32)),
    5: ("uint64_contents", VARINT, np.dtype(np.uint64)),
    6: ("fp32_contents", FIXED32, np.dtype("<f4")),
    7: ("fp64_contents", FIXED64, np.dtype("<f8")),
    8: ("bytes_contents", BYTES, np.dtype(np.uint8)),
}
_KINDS = {name: (kind, dtype) for name, kind, dtype in _FIELDS.values()}


class Budget:
    """Fields that the contents of one message may still have."""

    def __init__(self) -> None:
        self._left = MOST_PIECES

    def spend(self) -> None:
        """One field; raises DecodeError where there is none left."""
        self._left -= 1
        if self._left < 0:
            raise DecodeError(f"expected packed numbers, or at most {MOST_PIECES} that are not in all inputs, got more")


def packed(pieces: Sequence[memoryview], budget: Budget) -> Mapping[str, Sequence[memoryview]]:
    """The bytes of each field that has some, by the field's name, from the pieces of an InferTensorContents.

    Args:
        budget: of the message that the pieces are of.

    Raises:
        DecodeError: one line.
    """
    found: dict[str, list[memoryview]] = {}
    for each in (each for piece in pieces for each in fields(piece)):
        budget.spend()
        if each.number in _FIELDS:
            name, kind, _ = _FIELDS[each.number]
            if each.kind not in (BYTES, kind):
                raise DecodeError(f"{name}: expected wire type {kind} or {BYTES}, got {each.kind}")
            if len(each.value) or name == "bytes_contents":
                found.setdefault(name, []).append(each.value)
    return {name: found[name] for name in sorted(found)}


def count(name: str, pieces: Sequence[memoryview]) -> int:
    """How many numbers, or texts, there are in the field's pieces."""
    kind, dtype = _KINDS[name]
    if kind == BYTES:
        return len(pieces)
    if kind == VARINT:
        return varint_count(pieces)
    return sum(map(len, pieces)) // dtype.itemsize


def values(name: str, pieces: Sequence[memoryview]) -> Array:
    """The numbers, or texts, [n]; read-only where they are the message's own bytes.

    Raises:
        DecodeError: one line.
    """
    kind, dtype = _KINDS[name]
    if kind == BYTES:
        return texts.array([bytes(each) for each in pieces])
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if kind != VARINT:
        if len(data) % dtype.itemsize:
            raise DecodeError(f"expected numbers of {dtype.itemsize} bytes, got {len(data)} in all")
        return np.frombuffer(data, dtype)
    numbers = varints(data)
    if dtype == np.bool_:
        return numbers != 0
    return numbers.astype(dtype)  # as protocol buffers do: the lowest bits
