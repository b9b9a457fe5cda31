"""CUDA and TensorRT through ONNX Runtime: the names of caches everywhere, the providers where there is a GPU."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from serving.backends import GraphTensor, LoadError
from serving.backends.bound import BoundNetwork
from serving.backends.cuda import CUDA, open_cuda
from serving.backends.ort import OrtNetwork
from serving.backends.tensorrt import TENSORRT, cache_name, open_tensorrt, profile_of, shapes
from tests import networks
from tests.serving.backends.test_bound import output, rows

GPU = torch.cuda.is_available()
needs_cuda = pytest.mark.skipif(
    not GPU or CUDA not in onnxruntime.get_available_providers(), reason="no GPU, or an ONNX Runtime without CUDA"
)
needs_tensorrt = pytest.mark.skipif(
    not GPU or TENSORRT not in onnxruntime.get_available_providers(), reason="no GPU, or an ONNX Runtime without it"
)


@pytest.fixture
def file(small_models: Path) -> Path:
    return small_models / "stripes" / "1" / "model.onnx"


def check(network: BoundNetwork, file: Path, tolerance: float) -> None:
    """Every size agrees with the CPU, and a replay reads what is new in its inputs."""
    plain = OrtNetwork(file, 1)
    for n in (*network.prepared, 5, 40):
        one, other = rows(n, seed=n), rows(n, seed=100 + n)
        found = [output(network, each) for each in (one, other, one)]
        assert found[0].tobytes() == found[2].tobytes()
        assert not np.allclose(found[0], found[1])
        for came, feeds in zip(found, (one, other), strict=False):
            np.testing.assert_allclose(came, output(plain, feeds), rtol=tolerance, atol=tolerance)
    network.close()


@pytest.mark.gpu
@needs_cuda
def test_cuda(file: Path):
    network = open_cuda(file, 1, 32)
    assert network.prepared[-1] == 32
    check(network, file, 1e-4)


@pytest.mark.gpu
@needs_tensorrt
def test_tensorrt_builds_an_engine_once(file: Path, tmp_path: Path):
    check(open_tensorrt(file, 1, 32, tmp_path), file, 1e-3)
    built = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.engine")}
    assert built
    check(open_tensorrt(file, 1, 32, tmp_path), file, 1e-3)
    assert built == {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*.engine")}


def test_a_profile_spans_the_sizes(file: Path):
    assert profile_of(file, (2, 8, 32)) == {
        "trt_profile_min_shapes": "x:2x1x4x4,t:2,label:2",
        "trt_profile_opt_shapes": "x:32x1x4x4,t:32,label:32",
        "trt_profile_max_shapes": "x:32x1x4x4,t:32,label:32",
    }
    assert shapes([GraphTensor("a", np.dtype(np.float32), (3, 5))], 7) == "a:7x3x5"


def test_a_profile_needs_rows_of_fixed_shape(tmp_path: Path):
    file = networks.write_scale(tmp_path, {"x": (1, ["n", "width"])}, ("output", ["n", "width"]))
    with pytest.raises(LoadError, match=r"x: expected rows of a fixed shape on this provider, got \[\?\]$"):
        profile_of(file, (2, 4))


def test_an_engines_folder_tells_graph_tensorrt_gpu_profile_and_precision_apart():
    def name(
        digest: str = "a" * 64, version: str = "10.9.0", gpu: str = "NVIDIA H100 80GB HBM3", most: int = 32,
        half: bool = False,
    ) -> str:  # fmt: skip
        return cache_name(digest, version, gpu, {"trt_profile_max_shapes": f"x:{most}x2"}, half=half)

    names = [
        name(),
        name(digest="b" * 64),
        name(version="10.10.0"),
        name(gpu="NVIDIA H200"),
        name(most=64),
        name(half=True),
    ]
    assert len({*names}) == len(names)
    assert name().startswith("aaaaaaaaaaaaaaaa-tensorrt-10.9.0-NVIDIA-H100-80GB-HBM3-")
    assert all("/" not in each for each in names)
