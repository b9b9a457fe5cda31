"""A network on another server that speaks KServe v2: Triton, or tiltserve itself, through `tritonclient`."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from serving.access.service import Service, service
from serving.backends import Array, GraphTensor, InputError, LoadError, UnavailableError, shared_input
from serving.backends.sizes import dense
from serving.wire import channels

_log = logging.getLogger(__name__)
_DATATYPES = (
    "FP32", "FP64", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8", "BOOL",
)  # fmt: skip
# the engine waits meanwhile, so only long enough to restore a lost connection
_CHANNEL = channels.to_service(
    service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    attempts=4,
    first_ms=100,
    longest_ms=400,
)
POLL_S = 0.2
KIND = "kserve"
"""How kinds of such networks begin."""


class TritonNetwork:
    """One version of a model on another server: the newest one when it was loaded.

    Args:
        name: used in errors, which name no address because clients read them.
        where: host:port of its server, or more of it.
        model: its name there.
        seconds: how long one call may take, and how long loading waits for the server and the model.

    Raises:
        LoadError: no such model, or none whose tensors have a free first axis and a type that is served.
    """

    invariant = False  # whatever runs there

    def __init__(self, name: str, where: str | Service, model: str, *, seconds: float = 30.0) -> None:
        self._name, self._model, self._seconds = name, model, seconds
        self._where = where = service(where)
        self._client = triton.InferenceServerClient(
            where.address,
            ssl=where.tls,
            root_certificates=_path(where.ca),
            private_key=_path(where.key),
            certificate_chain=_path(where.cert),
            channel_args=_CHANNEL,
        )
        try:
            server, metadata, config = self._wait(time.monotonic() + seconds)
            # where the network takes another shape of a row than the wire: such as [] for [1]
            self._rows = {each.name: tuple(each.reshape.shape) for each in _reshaped(config)}
            self._sent = {each.name: tuple(each.dims) for each in _reshaped(config)}
            rowed = any(len(each.shape) and each.shape[0] == -1 for each in metadata.inputs)
            self.inputs = tuple(self._tensor("input", each, may_be_shared=rowed) for each in metadata.inputs)
            self.outputs = tuple(self._tensor("output", each) for each in metadata.outputs)
        except BaseException as error:
            _log.warning("network %r at %s: %s", name, where.address, error)
            self._client.close()
            raise
        self._most: int | None = None if config is None else int(config.max_batch_size) or None
        self._version = max(metadata.versions, key=_number, default="")
        self.kind = f"{KIND} {server.name} {server.version} {model} {self._version}"

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`, within the server's `max_batch_size`."""
        return dense(most if self._most is None else min(most, self._most))

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`; NaN and infinities are sent as they are, and the server may refuse them."""
        tensors = []
        for name, value in feeds.items():
            sent = value.reshape(len(value), *self._sent[name]) if name in self._sent else value
            tensors.append(triton.InferInput(name, list(sent.shape), np_to_triton_dtype(sent.dtype)))
            tensors[-1].set_data_from_numpy(sent)
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._client.infer(
                self._model,
                tensors,
                model_version=self._version,
                outputs=wanted,
                client_timeout=self._seconds,
                headers=self._where.headers,
            )
        except InferenceServerException as error:
            raise self._told(error) from None
        rows = next(len(feeds[each.name]) for each in self.inputs if each.shared is None)
        return [self._output(result, name, rows) for name in outputs]

    def close(self) -> None:
        """Implements `Backend.close`."""
        self._client.close()

    def _wait(self, end: float) -> tuple[Any, Any, Any]:
        """The server's and the model's metadata and its configuration (None for none), once the model is ready."""
        expected = f"network {self._name!r}: expected model {self._model!r} on its server"
        while True:
            left = max(POLL_S, end - time.monotonic())
            call = {"headers": self._where.headers, "client_timeout": left}
            try:
                if self._client.is_model_ready(self._model, **call):
                    server = self._client.get_server_metadata(**call)
                    return server, self._client.get_model_metadata(self._model, **call), self._config(call)
                state = "it is not ready"
            except InferenceServerException as error:
                if _code(error) not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise LoadError(f"{expected}, got {error.status()}: {error.message()}") from None
                state = "the server cannot be reached"
            if time.monotonic() > end:
                raise LoadError(f"{expected} within {self._seconds:g} s, {state}")
            time.sleep(POLL_S)

    def _config(self, call: Mapping[str, Any]) -> Any:
        """Triton's configuration of the model, None for none: not every server has one to show."""
        try:
            return self._client.get_model_config(self._model, **call).config
        except InferenceServerException as error:
            if _code(error) is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise

    def _tensor(self, side: str, each: Any, *, may_be_shared: bool = False) -> GraphTensor:
        where = f"network {self._name!r}: {side} {each.name!r}"
        if each.datatype not in _DATATYPES:
            raise LoadError(f"{where}: expected one of {', '.join(_DATATYPES)}, got {each.datatype}")
        if may_be_shared and all(axis >= 0 for axis in each.shape):
            return shared_input(each.name, np.dtype(triton_to_np_dtype(each.datatype)), tuple(map(int, each.shape)))
        if not each.shape or each.shape[0] != -1:
            raise LoadError(f"{where}: expected a free first axis for the batch, got shape {list(each.shape)}")
        row = tuple(None if axis < 0 else int(axis) for axis in each.shape[1:])
        if side == "input" and each.name in self._rows:
            row = self._rows[each.name]
        return GraphTensor(each.name, np.dtype(triton_to_np_dtype(each.datatype)), row)

    def _output(self, result: triton.InferResult, name: str, rows: int) -> Array:
        (expected,) = (each for each in self.outputs if each.name == name)
        shape = (rows, *expected.row)
        try:
            value: Array | None = result.as_numpy(name)
        except ValueError as error:  # fewer bytes than its shape says
            raise ValueError(f"output {name!r}: expected {expected.dtype} {list(shape)}, got: {error}") from None
        fits = value is not None and value.shape[:1] == (rows,) and expected.fits(value.shape[1:])
        if value is None or value.dtype != expected.dtype or not fits:
            came = "none" if value is None else f"{value.dtype} {list(value.shape)}"
            raise ValueError(f"output {name!r}: expected {expected.dtype} {list(shape)}, got {came}")
        return value

    def _told(self, error: InferenceServerException) -> Exception:
        code = _code(error)
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return InputError(" ".join(str(error.message()).split()))
        _log.warning("network %r: %s: %s", self._name, error.status(), error.message())
        if code is grpc.StatusCode.UNAVAILABLE:
            return UnavailableError(f"network {self._name!r}: its server cannot be reached")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnavailableError(
                f"network {self._name!r}: expected an answer of its server within {self._seconds:g} s, got none"
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return UnavailableError(f"network {self._name!r}: its server is too busy: {error.message()}")
        return RuntimeError(f"{error.status()}: {error.message()}")


def _code(error: InferenceServerException) -> grpc.StatusCode | None:
    """The status of a call; None for what tritonclient itself found wrong."""
    return grpc.StatusCode.__members__.get(str(error.status()).removeprefix("StatusCode."))


def _reshaped(config: Any) -> list[Any]:
    """The inputs of a configuration whose rows have another shape in the network, of known lengths."""
    inputs = config.input if config is not None and config.max_batch_size else ()
    fixed = (
        each for each in inputs if each.HasField("reshape") and min((*each.dims, *each.reshape.shape), default=1) > 0
    )
    return list(fixed)


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else -1
