"""ONNX Runtime sessions: how they are opened, what their graphs take and give, what their errors mean."""

import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from protos import weights
from serving.backends import GraphTensor, InputError, LoadError, OutOfMemoryError, shared_input, shown

Providers = Sequence[str | tuple[str, dict[str, Any]]]
CPU = "CPUExecutionProvider"

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
BFLOAT16 = "tensor(bfloat16)"
# Gather and similar operators use their own texts, and not all the same status
_OUT_OF_BOUNDS = re.compile(
    r"running (\w+) node.*(?:out of (?:data )?bounds|within.*bounds|out of range|invalid index)", re.I
)
# the arena, the C++ runtime, CUDA with its libraries, and torch each use their own text, and no status code
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|can't allocate memory|bad_?\s?alloc|out of memory|alloc_failed"
    r"|available memory of \d+ is smaller than requested",
    re.I,
)


def open_session(
    file: Path, threads: int, providers: Providers, *, deterministic: bool = False
) -> onnxruntime.InferenceSession:
    """A session on a graph; its first provider is the one asked for.

    Args:
        deterministic: only kernels that give the same bits in every run, which on GPUs not all do.

    Raises:
        LoadError: the file, and what ONNX Runtime has to say about it.
    """
    if not file.is_file():
        raise LoadError(f"{file}: expected an ONNX graph, got no such file")
    try:
        file.open("rb").close()
    except OSError as error:
        raise LoadError(f"{file}: expected a readable file, got: {error.strerror}") from None
    options, held = onnxruntime.SessionOptions(), list[onnxruntime.OrtValue]()
    try:
        weights.files(file)  # complains of those that are missing
        if _name(providers[0]) == CPU:
            held = _hold_weights(file, options)
    except weights.WeightsError as error:
        raise LoadError(str(error)) from None
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads that spin would starve the event loop of the same process
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # not session.dynamic_block_base, for all that it is faster: where its blocks end is up to threads, and so is what
    # vectorised code leaves over at their ends, which Softplus, Mish, Selu, Elu and Log round otherwise
    options.use_deterministic_compute = deterministic
    options.log_severity_level = 3
    try:
        session = _opened(file, options, providers)
    except Exception as error:  # onnxruntime has an exception class for each status code
        raise LoadError(f"{file}: expected a complete ONNX graph, got: {' '.join(str(error).split())}") from None
    wanted, got = _name(providers[0]), session.get_providers()[0]
    if got != wanted:  # a provider whose libraries are missing is left out, with a line in a log at most
        raise LoadError(f"{file}: expected to run on the {wanted}, ONNX Runtime fell back to the {got}")
    # the session computes on their memory, which is Python's, and does not keep them alive by itself
    session.held_weights = held
    return session


def _hold_weights(file: Path, options: onnxruntime.SessionOptions) -> list[onnxruntime.OrtValue]:
    """Read weights that lie in other files. ONNX Runtime would map these files: who writes to them would change the
    answers of a running network, or end its process.

    What is returned has to live as long as a session with these options.
    """
    names, values = [], []
    for each in weights.stored(file):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(each.dtype)
        if not each.initializer or dtype.kind not in "fiub" or dtype.isbuiltin != 1:
            continue  # what NumPy has no type for, ONNX Runtime reads
        place, size = weights.place(file, each.location), dtype.itemsize * math.prod(each.shape)
        if each.length not in (None, size) or each.offset < 0 or place.stat().st_size < each.offset + size:
            raise LoadError(
                f"{file}: weights {each.location!r}: expected {size} bytes at {each.offset} for tensor {each.name!r}, "
                f"got {each.length or 'others'} in a file of {place.stat().st_size}"
            )
        array = np.fromfile(place, dtype, math.prod(each.shape), offset=each.offset).reshape(each.shape)
        names.append(each.name)
        values.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
    if names:
        options.add_external_initializers(names, values)
    return values


def _opened(file: Path, options: onnxruntime.SessionOptions, providers: Providers) -> onnxruntime.InferenceSession:
    """A session, in float32 if the graph takes or gives bfloat16, or cannot be opened with the bfloat16 it has."""

    def opened(graph: Path) -> onnxruntime.InferenceSession:
        # without enable_fallback=0 a call that fails is tried again on the CPU, and every call after it goes there
        return onnxruntime.InferenceSession(_utf8(graph), options, providers=list(providers), enable_fallback=0)

    try:
        session = opened(file)
    except Exception:
        from serving.backends.bfloat16 import has_bfloat16  # onnx is slow to import

        if has_bfloat16(file):
            return _widened(file, opened)
        raise
    if any(each.type == BFLOAT16 for each in (*session.get_inputs(), *session.get_outputs())):
        return _widened(file, opened)
    return session


def _widened(file: Path, opened: Callable[[Path], onnxruntime.InferenceSession]) -> onnxruntime.InferenceSession:
    """A session on a graph with float32 in place of bfloat16, that knows which of its tensors were."""
    from serving.backends.bfloat16 import ends, with_float32

    session = with_float32(file, opened)
    session.bfloat16 = ends(file)
    return session


def inputs_of(file: Path, session: onnxruntime.InferenceSession) -> tuple[GraphTensor, ...]:
    """A session's inputs: rows, and what is shared by all rows of a call if at least one input has rows.

    A graph of one row, whose axes are all fixed and the first of its outputs 1, shares all of them.

    Raises:
        LoadError: no input has a free first axis, and the graph is not of one row; or a type is not served.
    """
    nodes = session.get_inputs()
    batched = any(each.shape and not isinstance(each.shape[0], int) for each in nodes)
    may_be_shared, narrow = batched or _of_one_row(session), _narrow(session)
    return tuple(_tensor(file, each, may_be_shared=may_be_shared, narrow=narrow) for each in nodes)


def outputs_of(file: Path, session: onnxruntime.InferenceSession) -> tuple[GraphTensor, ...]:
    """A session's outputs; LoadError where the first is no free axis or a type is not served."""
    one = _of_one_row(session)
    found = (_tensor(file, each, may_be_shared=one, narrow=_narrow(session)) for each in session.get_outputs())
    return tuple(replace(each, shared=None) for each in found)


def _of_one_row(session: onnxruntime.InferenceSession) -> bool:
    """Whether a graph was exported for a batch of one, and takes no other."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    fixed = all(isinstance(axis, int) for each in (*inputs, *outputs) for axis in each.shape)
    return (
        fixed and all(each.shape[:1] == [1] for each in outputs) and all(each.shape[:1] in ([], [1]) for each in inputs)
    )


def check_fixed(file: Path, each: GraphTensor) -> None:
    """LoadError if a tensor's rows have a length that varies, or are texts: buffers made beforehand need fixed
    lengths."""
    if each.dtype == np.object_:
        raise LoadError(f"{file}: {each.name}: expected numbers on this provider, got texts")
    if None in each.row:
        raise LoadError(f"{file}: {each.name}: expected rows of a fixed shape on this provider, got {shown(each.row)}")


def reason(error: Exception) -> Exception:
    """The backend's error for a failed call of a session; the error itself if there is none for it."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return OutOfMemoryError(text or "out of memory")
    if refused := _OUT_OF_BOUNDS.search(text):
        return InputError(f"an index out of bounds in a {refused[1]} node")
    return InputError(text) if isinstance(error, InvalidArgument) else error


def _utf8(file: Path) -> str:
    """A path as ONNX Runtime reads it, whose bytes are UTF-8 whatever the locale."""
    return os.fsencode(file).decode("utf-8", "surrogateescape")


def _name(provider: str | tuple[str, dict[str, Any]]) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _narrow(session: onnxruntime.InferenceSession) -> Collection[str]:
    """Inputs and outputs that are bfloat16 in the graph, if it was opened in float32."""
    names: Collection[str] = getattr(session, "bfloat16", ())
    return names


def _tensor(file: Path, each: onnxruntime.NodeArg, *, may_be_shared: bool, narrow: Collection[str]) -> GraphTensor:
    if each.type not in _TYPES:
        raise LoadError(f"{file}: {each.name}: expected one of {', '.join(_TYPES)}, got {each.type}")
    if may_be_shared and all(isinstance(axis, int) for axis in each.shape):
        shape = tuple(each.shape)
        return shared_input(each.name, np.dtype(_TYPES[each.type]), shape, bfloat16=each.name in narrow)
    if not each.shape:
        raise LoadError(f"{file}: {each.name}: expected a first axis for the batch, got a scalar")
    row = tuple(axis if isinstance(axis, int) else None for axis in each.shape[1:])
    if isinstance(each.shape[0], int):
        raise LoadError(f"{file}: {each.name}: expected a free first axis for the batch, got length {each.shape[0]}")
    return GraphTensor(each.name, np.dtype(_TYPES[each.type]), row, bfloat16=each.name in narrow)
