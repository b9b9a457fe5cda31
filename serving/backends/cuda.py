"""ONNX Runtime on a CUDA device: buffers on the device, and one captured CUDA graph for each size of call."""

import logging
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from serving.backends import LoadError
from serving.backends.bound import BoundNetwork
from serving.backends.session import open_session
from serving.backends.sizes import ladder

_log = logging.getLogger(__name__)
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PREPARED = 256
"""Largest prepared call, in rows; more rows take several calls."""


def open_cuda(file: Path, threads: int, most: int) -> BoundNetwork:
    """A graph on the first visible GPU, ready for calls of up to `most` rows.

    Raises:
        LoadError: the graph cannot be read, or ONNX Runtime or torch lack CUDA.
    """
    check_cuda(file, CUDA)
    stream = torch.cuda.Stream()

    def session() -> onnxruntime.InferenceSession:
        try:
            return open_session(file, threads, [(CUDA, options(stream, captured=True)), CPU], deterministic=True)
        except LoadError as error:  # a graph with nodes that only the CPU has cannot be captured
            plain = open_session(file, threads, [(CUDA, options(stream, captured=False)), CPU], deterministic=True)
            _log.warning("%s: runs without captured CUDA graphs: %s", file, error)
            return plain

    kind = f"onnxruntime {onnxruntime.__version__} CUDA {torch.version.cuda} {torch.cuda.get_device_name()}"
    sizes = ladder(min(most, PREPARED))
    return BoundNetwork(file, session, kind=kind, device="cuda", sizes=sizes, stream=stream)


def options(stream: "torch.cuda.Stream", *, captured: bool) -> dict[str, Any]:
    """Options of the CUDA provider: the same kernels in every process, full float32, all on one stream."""
    return {
        "device_id": "0",
        "user_compute_stream": str(stream.cuda_stream),
        "enable_cuda_graph": "1" if captured else "0",
        "cudnn_conv_algo_search": "HEURISTIC",  # a search by time would choose another kernel in each process
        "use_tf32": "0",
    }


def check_cuda(file: Path, provider: str) -> None:
    """LoadError unless ONNX Runtime has the provider and torch, which owns the buffers, a GPU."""
    onnxruntime.preload_dlls()  # CUDA's libraries as torch's wheels bring them
    if provider not in (known := onnxruntime.get_available_providers()):
        raise LoadError(
            f"{file}: expected an ONNX Runtime with the {provider} (onnxruntime-gpu), got one with {', '.join(known)}"
        )
    if not torch.cuda.is_available():
        raise LoadError(f"{file}: expected a torch that sees a GPU, got torch {torch.__version__} that sees none")
