"""ONNX Runtime's TensorRT provider: engines are built once for each graph, TensorRT, GPU and profile, and kept."""

import contextlib
import ctypes
import ctypes.util
import hashlib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from protos.digest import graph_sha256
from serving.backends import GraphTensor, LoadError
from serving.backends.bound import BoundNetwork
from serving.backends.cuda import CPU, CUDA, PREPARED, check_cuda, options
from serving.backends.session import Providers, check_fixed, inputs_of, open_session
from serving.backends.sizes import ladder

TENSORRT = "TensorrtExecutionProvider"
_LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8")


def open_tensorrt(file: Path, threads: int, most: int, cache: Path, *, half: bool = False) -> BoundNetwork:
    """A graph on the first visible GPU, ready for calls of up to `most` rows; building its engine takes minutes once.

    Args:
        cache: engines and timings are kept in folders of it.
        half: let TensorRT compute in float16 where it is faster.

    Raises:
        LoadError: the graph cannot be read, or ONNX Runtime, TensorRT or torch's CUDA is missing.
    """
    check_cuda(file, TENSORRT)
    sizes = ladder(min(most, PREPARED))
    profile = profile_of(file, sizes)
    version, gpu = tensorrt_version(file), torch.cuda.get_device_name()
    folder = cache / cache_name(graph_sha256(file), version, gpu, profile, half=half)
    folder.mkdir(parents=True, exist_ok=True)
    stream = torch.cuda.Stream()
    # no captured graphs: the provider keeps one for all sizes, and would replay the wrong one
    providers: Providers = [
        (TENSORRT, _options(stream, folder, profile, half)),
        (CUDA, options(stream, captured=False)),
        CPU,
    ]
    kind = f"onnxruntime {onnxruntime.__version__} TensorRT {version} {gpu} float{16 if half else 32}"
    return BoundNetwork(
        file,
        lambda: open_session(file, threads, providers, deterministic=True),
        kind=kind,
        device="cuda",
        sizes=sizes,
        stream=stream,
    )


def profile_of(file: Path, sizes: Sequence[int]) -> dict[str, str]:
    """The shapes an engine is built for, as the provider's options: from the smallest size to the largest.

    Raises:
        LoadError: the graph cannot be read, or its rows have lengths that vary.
    """
    inputs = inputs_of(file, open_session(file, 1, [CPU]))
    for each in inputs:
        check_fixed(file, each)
    largest = shapes(inputs, sizes[-1])
    return {
        "trt_profile_min_shapes": shapes(inputs, sizes[0]),
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }


def shapes(inputs: Sequence[GraphTensor], rows: int) -> str:
    """Such as `x:32x1x28x28,t:32`; inputs without a batch axis have their one shape in the graph."""
    rowed = [each for each in inputs if each.shared is None]
    return ",".join(f"{each.name}:{'x'.join(map(str, (rows, *each.row)))}" for each in rowed)


def cache_name(digest: str, version: str, gpu: str, profile: dict[str, str], *, half: bool) -> str:
    """The folder of one engine; engines in one folder would be mistaken for each other."""
    kernels = hashlib.sha256(f"{sorted(profile.items())} {half}".encode()).hexdigest()
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{digest[:16]} tensorrt {version} {gpu} {kernels[:8]}")


def tensorrt_version(file: Path) -> str:
    """The version of TensorRT's library, which it loads; LoadError where there is none."""
    with contextlib.suppress(ImportError):
        return str(importlib.import_module("tensorrt").__version__)
    for name in filter(None, (ctypes.util.find_library("nvinfer"), *_LIBRARIES)):
        with contextlib.suppress(OSError):
            number = int(ctypes.CDLL(name).getInferLibVersion())
            return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    raise LoadError(f"{file}: expected TensorRT's library (libnvinfer), got none")


def _options(stream: "torch.cuda.Stream", folder: Path, profile: dict[str, str], half: bool) -> dict[str, Any]:
    return {
        "device_id": "0",
        "user_compute_stream": str(stream.cuda_stream),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": "1" if half else "0",
        **profile,
    }
