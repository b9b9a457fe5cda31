"""Tensors of texts (BYTES): each element is a length in four bytes, little-endian, and so many bytes.

In Python each element is an object of some fifty bytes beside its content, so their number is bounded.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 2**20
"""Most elements of one tensor: a million empty ones take four megabytes on the wire, and eight here."""
_LENGTH = struct.Struct("<I")
_OBJECT = 48
"""Bytes of an element beside its content, about."""

Texts = npt.NDArray[Any]


def split(data: memoryview, count: int) -> Texts:
    """The elements [count] in raw contents, as Python's bytes.

    Raises:
        ValueError: one line: the bytes are not so many elements.
    """
    if count > MOST:
        raise ValueError(f"expected at most {MOST} elements, got {count}")
    if count * _LENGTH.size > len(data):
        raise ValueError(f"expected {count} elements of {_LENGTH.size} bytes or more, got {len(data)} bytes")
    found, at = list[bytes](), 0
    for number in range(count):
        if at + _LENGTH.size > len(data):
            raise ValueError(f"expected {count} elements, got {number} and {len(data) - at} bytes more")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise ValueError(f"element {number}: expected {length} bytes, as it says, got {len(data) - at}")
        found.append(bytes(data[at : at + length]))
        at += length
    if at < len(data):
        raise ValueError(f"expected {count} elements, got {len(data) - at} bytes after them")
    return array(found)


def array(elements: Sequence[object]) -> Texts:
    """Elements as an array [n]."""
    made = np.empty(len(elements), object)
    made[:] = elements
    return made


def joined(elements: Texts) -> bytes:
    """Elements as raw contents; texts that are no bytes are written as UTF-8."""
    parts = list[bytes]()
    for each in elements.flat:
        content = each if isinstance(each, bytes) else str(each).encode()
        parts += (_LENGTH.pack(len(content)), content)
    return b"".join(parts)


def held(elements: Texts) -> int:
    """Bytes that elements take in memory, about."""
    return elements.nbytes + sum(_OBJECT + len(each) for each in elements.flat)


def decoded(elements: Texts) -> Texts:
    """Elements as Python's texts, of the same shape; UnicodeDecodeError where one is not UTF-8."""
    return array([str(each, "utf-8") for each in elements.flat]).reshape(elements.shape)


def encoded(elements: Texts) -> Texts:
    """Texts as Python's bytes, of the same shape."""
    return array([str(each).encode() for each in elements.flat]).reshape(elements.shape)
