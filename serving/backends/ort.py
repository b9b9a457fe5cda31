"""ONNX Runtime on the CPU."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime
import torch

from serving.backends import Array
from serving.backends.session import inputs_of, open_session, outputs_of, reason
from serving.backends.sizes import dense


class OrtNetwork:
    """A session on one graph. A row's bits do not depend on the other rows of a call, see `invariant`."""

    invariant = True

    def __init__(self, file: Path, threads: int) -> None:
        self._session = open_session(file, threads, ["CPUExecutionProvider"])
        self.inputs = inputs_of(file, self._session)
        self.outputs = outputs_of(file, self._session)
        capability = torch.backends.cpu.get_cpu_capability()
        self.kind = f"onnxruntime {onnxruntime.__version__} CPU {platform.machine()} {capability} threads {threads}"

    def sizes(self, most: int) -> tuple[int, ...]:
        """Implements `Backend.sizes`."""
        return dense(most)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Implements `Backend.run`."""
        try:
            return self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            raise reason(error) from None

    def close(self) -> None:
        """Implements `Backend.close`."""
        del self._session
