"""Protocol-buffer messages field by field, without building them: what is large stays where it is.

A parser makes an object of every field before anything can be counted, and holds Python's lock meanwhile: 256 MiB of
empty fields would take it seconds and tens of gigabytes. Here a field is a view of the message's bytes, and the reader
stops where it has seen enough.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""
_FIXED = {FIXED64: 8, FIXED32: 4}
_BLOCK = 2**20
_LONGEST = 10
"""Bytes of a number of variable length, at most."""


class Field(NamedTuple):
    """One field.

    Attributes:
        value: its content without tag and length.
        whole: with both; such pieces of a message, joined, are a message again.
    """

    number: int
    kind: int
    value: memoryview
    whole: memoryview


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message in order; raises DecodeError where there is none."""
    at, end = 0, len(data)
    while at < end:
        start = at
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise DecodeError(f"expected a field's number, got {number}")
        if kind == BYTES:
            length, first = _varint(data, at)
            at = first + length
        elif kind == VARINT:
            first = at
            _, at = _varint(data, at)
        elif kind in _FIXED:
            first, at = at, at + _FIXED[kind]
        else:
            raise DecodeError(f"expected one of four wire types, got {kind}")
        if at > end:
            raise DecodeError("expected a field, got the end of the message")
        yield Field(number, kind, data[first:at], data[start:at])


def tagged(number: int, value: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """A field of bytes as it is written: tag and length, and its content."""
    return varint(number << 3 | BYTES) + varint(len(value)), value


def varints(data: bytes | memoryview) -> npt.NDArray[np.uint64]:
    """The numbers of variable length in `data`, [n]; raises DecodeError.

    Vectorised, a megabyte at a time: a field may hold a hundred million of them.
    """
    whole = np.frombuffer(data, np.uint8)
    parts, start = [], 0
    while start < len(whole):
        ends = np.flatnonzero(whole[start : start + _BLOCK] < 0x80)
        if not len(ends):
            raise DecodeError(f"expected numbers of at most {_LONGEST} bytes, got a longer one or half of one")
        block = whole[start : start + int(ends[-1]) + 1]
        parts.append(_decoded(block, ends))
        start += len(block)
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def count(pieces: Sequence[memoryview]) -> int:
    """How many numbers of variable length there are in all."""
    return sum(int(np.count_nonzero(np.frombuffer(piece, np.uint8) < 0x80)) for piece in pieces)


def _decoded(block: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    """The numbers of a block whose last bytes are at `ends`."""
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > _LONGEST:
        raise DecodeError(f"expected numbers of at most {_LONGEST} bytes, got one of {longest}")
    found = np.zeros(len(ends), np.uint64)
    for k in range(longest):
        there = lengths > k
        found[there] |= (block[starts[there] + k] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * k)
    return found


def varint(number: int) -> bytes:
    """A number of variable length as it is written."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next byte is."""
    value = shift = 0
    for at in range(at, min(at + _LONGEST, len(data))):  # noqa: B020 - starts where it was
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise DecodeError("expected a number, got the end of the message or one that is too long")
