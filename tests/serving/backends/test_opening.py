"""Which backend runs a graph, and what is said where it cannot."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from deploy.settings import SettingsError, load_settings
from serving.backends import LoadError
from serving.backends.opening import Opener
from serving.backends.ort import OrtNetwork
from tests import networks

needs_no_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)


@pytest.fixture
def file(small_models: Path) -> Path:
    return small_models / "stripes" / "1" / "model.onnx"


def test_the_cpu_is_the_default(file: Path):
    network = Opener(threads=2)(file)
    assert isinstance(network, OrtNetwork)
    assert network.kind.endswith("threads 2")


def test_no_file(tmp_path: Path):
    with pytest.raises(LoadError, match=r"1/model\.onnx: expected an ONNX graph, got no such file$"):
        Opener()(tmp_path / "rings" / "1" / "model.onnx")


@needs_no_gpu
@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(file: Path, provider: str, name: str):
    with pytest.raises(LoadError) as caught:
        Opener(provider=provider)(file)  # type: ignore[arg-type]
    text = f"{file}: expected an ONNX Runtime with the {name} (onnxruntime-gpu), got one with "
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_remote_network_needs_its_server_and_no_file(tmp_path: Path):
    opener = Opener(remote={"rings": "127.0.0.1:1/rings.network"}, remote_s=0.3)
    with pytest.raises(LoadError) as caught:
        opener(tmp_path / "rings" / "1" / "model.onnx")
    expected = "network 'rings': expected model 'rings.network' on its server within 0.3 s"
    assert str(caught.value) == f"{expected}, the server cannot be reached"


def test_torch_runs_programs(tmp_path: Path):
    file = tmp_path / "rings" / "1" / "model.pt2"
    file.parent.mkdir(parents=True)
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        networks.Rings(), (torch.randn(3, 2), torch.rand(3)), dynamic_shapes=({0: batch}, {0: batch})
    )
    torch.export.save(program, file)
    assert Opener(provider="cuda")(file).kind.startswith("torch ")


@pytest.mark.parametrize(
    "written",
    [["a.b=h:1/a.network", "c=[::1]:2"], "a.b=h:1/a.network,c=[::1]:2", {"a.b": "h:1/a.network", "c": "[::1]:2"}],
)
def test_settings_name_networks_elsewhere(tmp_path: Path, written: object):
    settings = load_settings(models=tmp_path, environment={}, networks=written, provider="tensorrt")
    assert settings.networks == {"a.b": "h:1/a.network", "c": "[::1]:2"}
    assert settings.provider == "tensorrt"
    assert load_settings(models=tmp_path, environment={}).networks == {}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"networks": ["a"]}, "--network: expected NAME=HOST:PORT, got 'a'"),
        ({"networks": ["a=h"]}, "--network: a: expected HOST:PORT or HOST:PORT/MODEL, got 'h'"),
        ({"networks": ["a=h:1/"]}, "--network: a: expected HOST:PORT or HOST:PORT/MODEL, got 'h:1/'"),
        ({"networks": ["a=h:1/b/c"]}, "--network: a: expected HOST:PORT or HOST:PORT/MODEL, got 'h:1/b/c'"),
        ({"networks": ["a=h:0/b"]}, "--network: a: expected HOST:PORT or HOST:PORT/MODEL, got 'h:0/b'"),
        ({"provider": "gpu"}, "--provider: expected 'cpu', 'cuda' or 'tensorrt', got 'gpu'"),
        ({"gpus_per_replica": 0}, "--gpus-per-replica: expected greater than 0, got 0"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, flags: dict[str, Any], expected: str):
    with pytest.raises(SettingsError) as caught:
        load_settings(models=tmp_path, environment={}, **flags)
    assert str(caught.value) == expected
