"""Calls on buffers at fixed addresses, which captured CUDA graphs and asynchronous copies need."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from serving.backends import Array, GraphTensor, InputError, LoadError, OutOfMemoryError
from serving.backends.session import check_fixed, inputs_of, outputs_of, reason

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
WARM = 3
"""Calls of each size before the first that counts: one picks kernels, the next is captured, the last is a replay."""


@dataclass(frozen=True)
class _Buffer:
    """One input or output, [most, *row]: on the device, and in host memory that the device can copy from by itself."""

    device: Tensor
    host: Tensor


@dataclass(frozen=True)
class _Call:
    """What a call of one size needs: the buffers' first rows bound to the graph, and the number of its capture."""

    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions


class BoundNetwork:
    """A session whose inputs and outputs are on its device; calls of other sizes than `prepared` are padded.

    Everything runs on one thread of the session's own: ONNX Runtime keeps captured graphs per thread, so a graph
    captured while loading would be missing on the engine's thread.

    Args:
        file: the graph, for complaints.
        open_session: makes the session; runs on that thread.
        kind: see `Backend.kind`.
        device: where the graph runs: `cpu` (there the buffers are ordinary memory) or `cuda`.
        sizes: sizes of calls to prepare, ascending. Those that do not fit into memory are left out.
        stream: the CUDA stream the session computes on, so that copies are in order with it.

    Raises:
        LoadError: the graph has rows of a length that varies, or not even the smallest size fits into memory.
    """

    invariant = False

    def __init__(
        self,
        file: Path,
        open_session: Callable[[], onnxruntime.InferenceSession],
        *,
        kind: str,
        device: str,
        sizes: Sequence[int],
        stream: "torch.cuda.Stream | None" = None,
    ) -> None:
        self.kind, self._device, self._stream = kind, torch.device(device), stream
        self._thread = ThreadPoolExecutor(1, "device")
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._buffers: dict[str, _Buffer] = {}
        try:
            self._session = self._there(open_session)
            self.inputs = inputs_of(file, self._session)
            self.outputs = outputs_of(file, self._session)
            if all(each.shared is not None for each in self.inputs):
                raise LoadError(f"{file}: expected a free first axis on this provider, got a graph of one row")
            self._shared = {each.name for each in self.inputs if each.shared is not None}
            self._there(lambda: self._prepare(file, sizes))
        except BaseException:
            self.close()
            raise

    @property
    def prepared(self) -> tuple[int, ...]:
        """Sizes of calls that are ready."""
        return tuple(self._calls)

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return tuple(size for size in self._calls if size <= most) or self.prepared[:1]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`; more rows than the largest size are several calls."""
        rows = self._check(feeds)
        most = self.prepared[-1]
        if rows <= most:
            return self._there(lambda: self._run(feeds, outputs, rows))
        parts = [self.run(self._part(feeds, first, first + most), outputs) for first in range(0, rows, most)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def close(self) -> None:
        """Implements `Backend.close`."""

        def drop() -> None:
            self._calls.clear()
            self._buffers.clear()
            vars(self).pop("_session", None)

        with contextlib.suppress(RuntimeError):  # closed before
            self._there(drop)
        self._thread.shutdown()

    def _there(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, done on the device's thread and stream."""

        def on_stream() -> Result:
            with torch.cuda.stream(self._stream):  # no stream: does nothing
                return work()

        return self._thread.submit(on_stream).result()

    def _part(self, feeds: Mapping[str, Array], first: int, stop: int) -> dict[str, Array]:
        """Some rows, with what all rows share."""
        return {name: value if name in self._shared else value[first:stop] for name, value in feeds.items()}

    def _check(self, feeds: Mapping[str, Array]) -> int:
        """The number of rows. Checked, because copying would silently cast and broadcast."""
        if {*feeds} != (names := {each.name for each in self.inputs}):
            raise InputError(f"expected inputs {', '.join(sorted(names))}, got {', '.join(sorted(feeds))}")
        rows = next(len(feeds[each.name]) for each in self.inputs if each.shared is None)
        for each in self.inputs:
            value, shape = feeds[each.name], _shape(each, rows)
            if value.dtype != each.dtype or value.shape != shape:
                raise InputError(
                    f"input {each.name!r}: expected {each.dtype} {list(shape)}, got {value.dtype} {list(value.shape)}"
                )
        return rows

    def _prepare(self, file: Path, sizes: Sequence[int]) -> None:
        """Buffers, bindings and first calls of every size; the largest sizes are left out if memory ends."""
        for each in (*self.inputs, *self.outputs):
            check_fixed(file, each)
        for count in range(len(sizes), 0, -1):
            try:
                self._warm(sizes[:count])
                return
            except Exception as error:
                self._calls.clear()
                self._buffers.clear()
                known = reason(error)
                if not isinstance(known, OutOfMemoryError):
                    raise LoadError(f"{file}: expected to run, got: {' '.join(str(known).split())}") from None
                _log.warning("%s: calls of %d rows do not fit into the device's memory", file, sizes[count - 1])
        raise LoadError(f"{file}: expected memory for calls of {sizes[0]} rows, got too little")

    def _warm(self, sizes: Sequence[int]) -> None:
        for each in (*self.inputs, *self.outputs):
            self._buffers[each.name] = self._buffer(each, sizes[-1])
        for size in sizes:
            self._calls[size] = self._bind(size)
        for size in reversed(sizes):  # the largest first
            for _ in range(WARM):
                self._call(size)

    def _buffer(self, each: GraphTensor, most: int) -> _Buffer:
        dtype = torch.from_numpy(np.empty(0, each.dtype)).dtype
        shape: tuple[Any, ...] = _shape(each, most)
        host = torch.zeros(shape, dtype=dtype, pin_memory=self._device.type == "cuda")
        return _Buffer(torch.zeros(shape, dtype=dtype, device=self._device), host)

    def _bind(self, size: int) -> _Call:
        binding, options = self._session.io_binding(), onnxruntime.RunOptions()
        # one captured graph each (ignored without CUDA); a number is never used twice, since a replay knows no binding
        options.add_run_config_entry("gpu_graph_id", str(next(self._numbers)))
        for side, bind in ((self.inputs, binding.bind_input), (self.outputs, binding.bind_output)):
            for each in side:
                buffer = self._buffers[each.name].device
                bind(each.name, self._device.type, 0, each.dtype.type, list(_shape(each, size)), buffer.data_ptr())
        return _Call(binding, options)

    def _run(self, feeds: Mapping[str, Array], outputs: Sequence[str], rows: int) -> list[Array]:
        """One call. Rows past `rows` are left over from earlier calls; their outputs are not read."""
        for name, value in feeds.items():
            buffer = self._buffers[name]
            host, device = buffer.host, buffer.device
            if name not in self._shared:
                host, device = host[:rows], device[:rows]
            np.copyto(host.numpy(), value)
            device.copy_(host, non_blocking=True)
        self._call(next(size for size in self._calls if size >= rows))
        for name in outputs:
            buffer = self._buffers[name]
            buffer.host[:rows].copy_(buffer.device[:rows], non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()
        return [self._buffers[name].host[:rows].numpy().copy() for name in outputs]

    def _call(self, size: int) -> None:
        call = self._calls[size]
        try:
            self._session.run_with_iobinding(call.binding, call.options)
        except Exception as error:
            raise reason(error) from None


def _shape(each: GraphTensor, rows: int) -> tuple[int | None, ...]:
    """A tensor's shape in a call of so many rows."""
    return (rows, *each.row) if each.shared is None else each.shared
