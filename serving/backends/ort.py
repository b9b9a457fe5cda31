"""ONNX Runtime on the CPU."""

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from serving.backends import Array, GraphTensor, InputError, LoadError

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
# Gather and its kin say it in words of their own, and not all with the same status
_OUT_OF_BOUNDS = re.compile(
    r"running (\w+) node.*(?:out of (?:data )?bounds|within.*bounds|out of range|invalid index)", re.I
)


class OrtNetwork:
    """A session on one graph; a row's bits do not depend on its batch on the CPU provider."""

    def __init__(self, file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # idle threads that spin would starve the event loop of the same process
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception class for each status code
            raise LoadError(f"{file}: expected a complete ONNX graph, got: {' '.join(str(error).split())}") from None
        self.inputs = tuple(_tensor(file, each) for each in self._session.get_inputs())
        self.outputs = tuple(_tensor(file, each) for each in self._session.get_outputs())
        capability = torch.backends.cpu.get_cpu_capability()
        self.kind = f"onnxruntime {onnxruntime.__version__} CPU {platform.machine()} {capability} threads {threads}"

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`."""
        try:
            return self._session.run(list(outputs), dict(feeds))
        except (InvalidArgument, Fail) as error:
            text = " ".join(str(error).split())
            if refused := _OUT_OF_BOUNDS.search(text):
                raise InputError(f"an index out of bounds in a {refused[1]} node") from None
            if isinstance(error, InvalidArgument):
                raise InputError(text) from None
            raise


def _tensor(file: Path, each: onnxruntime.NodeArg) -> GraphTensor:
    if each.type not in _TYPES:
        raise LoadError(f"{file}: {each.name}: expected one of {', '.join(_TYPES)}, got {each.type}")
    if not each.shape:
        raise LoadError(f"{file}: {each.name}: expected a first axis for the batch, got a scalar")
    row = tuple(axis if isinstance(axis, int) else None for axis in each.shape[1:])
    if isinstance(each.shape[0], int):
        raise LoadError(f"{file}: {each.name}: expected a free first axis for the batch, got length {each.shape[0]}")
    return GraphTensor(each.name, np.dtype(_TYPES[each.type]), row)
