"""Tensors between processes: a model's inputs and outputs, and arrays and parameters as tiltserve.v1 messages."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from protos.tiltserve.v1 import tensor_pb2
from serving.wire import texts

Parameter = bool | int | float | str
Array = npt.NDArray[Any]
Given = Parameter | Array

BFLOAT16, TEXTS = np.dtype(ml_dtypes.bfloat16), np.dtype(object)
"""Types of arrays of bfloat16, which numpy knows from its authors' package, and of BYTES: objects of Python's bytes."""

# KServe datatype -> numpy type and the field of InferTensorContents that may carry it (None: only raw bytes).
DATATYPES: dict[str, tuple[np.dtype[np.generic], str | None]] = {
    "BOOL": (np.dtype(np.bool_), "bool_contents"),
    "UINT8": (np.dtype(np.uint8), "uint_contents"),
    "UINT16": (np.dtype(np.uint16), "uint_contents"),
    "UINT32": (np.dtype(np.uint32), "uint_contents"),
    "UINT64": (np.dtype(np.uint64), "uint64_contents"),
    "INT8": (np.dtype(np.int8), "int_contents"),
    "INT16": (np.dtype(np.int16), "int_contents"),
    "INT32": (np.dtype(np.int32), "int_contents"),
    "INT64": (np.dtype(np.int64), "int64_contents"),
    "FP16": (np.dtype(np.float16), None),
    "FP32": (np.dtype(np.float32), "fp32_contents"),
    "FP64": (np.dtype(np.float64), "fp64_contents"),
    "BF16": (BFLOAT16, None),
    "BYTES": (TEXTS, "bytes_contents"),
}
SINGLE = float(np.finfo(np.float32).max)
"""The greatest number of float32: what is beyond becomes infinity there."""
_NAMES = {dtype: name for name, (dtype, _) in DATATYPES.items()}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model: a KServe datatype (`FP32`) and a shape, -1 for any length.

    Attributes:
        optional: whether a request may do without it.
        column: the last axis, of length 1, may be left out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    column: bool = False


def datatype(dtype: np.dtype[np.generic] | type[np.generic]) -> str:
    """The KServe name of a numpy type; KeyError if there is none."""
    return _NAMES[np.dtype(dtype)]


def named(dtype: np.dtype[np.generic]) -> str:
    """A type as errors name it."""
    return "BYTES" if dtype == TEXTS else str(dtype)


def raw(array: Array) -> bytes:
    """An array as raw contents: its numbers, or its texts each after its length in four bytes; little-endian."""
    if array.dtype == TEXTS:
        return texts.joined(array)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def viewed(array: Array) -> bytes | memoryview:
    """What `raw` gives, without a copy where the array's own bytes are that."""
    plain = array.flags.c_contiguous and array.dtype.isnative and sys.byteorder == "little"
    return array.reshape(-1).view(np.uint8).data if plain and array.size and array.dtype != TEXTS else raw(array)


def held(array: Array) -> int:
    """Bytes that an array takes, about."""
    return texts.held(array) if array.dtype == TEXTS else array.nbytes


def tensor(array: Array) -> tensor_pb2.Tensor:
    """An array as a message; KeyError if its type has no name."""
    return tensor_pb2.Tensor(datatype=datatype(array.dtype), shape=array.shape, data=raw(array))


def value(given: Given) -> tensor_pb2.Value:
    """A parameter or an array as a message."""
    if isinstance(given, bool):
        return tensor_pb2.Value(flag=given)
    if isinstance(given, int):
        return tensor_pb2.Value(integer=given)
    if isinstance(given, float):
        return tensor_pb2.Value(number=given)
    if isinstance(given, str):
        return tensor_pb2.Value(text=given)
    return tensor_pb2.Value(tensor=tensor(given))


def scalar(given: tensor_pb2.Value) -> Parameter:
    """The parameter in a message; ValueError for a tensor, and for nothing."""
    kind = given.WhichOneof("kind")
    if kind is None or kind == "tensor":
        raise ValueError(f"expected a flag, an integer, a number or a text, got {kind or 'nothing'}")
    found: Parameter = getattr(given, kind)
    return found


def values(given: Mapping[str, Parameter] | Mapping[str, Given]) -> dict[str, tensor_pb2.Value]:
    return {name: value(each) for name, each in given.items()}
