"""Torch as a backend: a reference for ONNX Runtime, and programs of `torch.export` as models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import steering
from serving.backends import GraphTensor, InputError, LoadError, OutOfMemoryError
from serving.backends.opening import Opener
from serving.backends.ort import OrtNetwork
from serving.backends.torch import TorchNetwork
from serving.models.folders import scan
from serving.models.model import Sampler
from serving.models.offline import solve
from serving.models.repository import load
from tests import networks
from tests.serving.backends.test_bound import output, rows

F32 = np.dtype(np.float32)


class Moments(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"mean": x.mean(dim=1), "square": x**2}


class Vast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T


def write(file: Path, module: nn.Module, examples: tuple[Tensor, ...], most: int | None = None) -> Path:
    """A program with a free batch axis, at most so many rows."""
    batch = torch.export.Dim("batch", min=2, max=most)
    program = torch.export.export(module.eval(), examples, dynamic_shapes=tuple({0: batch} for _ in examples))
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, file)
    return file


def stripes(file: Path) -> Path:
    return write(file, networks.Stripes(), (torch.randn(4, 1, 4, 4), networks.TIMES, torch.arange(4)), most=64)


def test_onnx_runtime_agrees_with_it(small_models: Path, tmp_path: Path):
    reference = TorchNetwork.load(stripes(tmp_path / "stripes.pt2"))
    network = OrtNetwork(small_models / "stripes" / "1" / "model.onnx", 1)
    assert (reference.inputs, reference.outputs) == (network.inputs, network.outputs)
    assert not reference.invariant
    for n in (2, 3, 7, 32):
        expected, found = (output(each, rows(n, seed=n)) for each in (reference, network))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_module_as_it_is():
    module = networks.Rings()
    tensors = [GraphTensor("x", F32, (2,)), GraphTensor("t", F32, ())]
    network = TorchNetwork(module, tensors, [GraphTensor("output", F32, (2,))])
    x, t = torch.randn(5, 2), torch.linspace(0.1, 0.9, 5)
    (found,) = network.run({"t": t.numpy(), "x": x.numpy()}, ["output"])
    np.testing.assert_array_equal(found, module(x, t).numpy())


def test_outputs_by_name_and_the_most_rows(tmp_path: Path):
    network = TorchNetwork.load(write(tmp_path / "moments.pt2", Moments(), (torch.randn(3, 4),), most=20))
    assert network.outputs == (GraphTensor("mean", F32, ()), GraphTensor("square", F32, (4,)))
    assert network.sizes(16)[-1] == 16
    assert network.sizes(64)[-2:] == (18, 20)
    x = np.arange(8, dtype=F32).reshape(2, 4)
    square, mean = network.run({"x": x}, ["square", "mean"])
    np.testing.assert_array_equal(square, x**2)
    assert mean.tolist() == [1.5, 5.5]


def test_refusals(tmp_path: Path):
    network = TorchNetwork.load(stripes(tmp_path / "stripes.pt2"))
    with pytest.raises(InputError, match=r"^index out of range in self$"):
        network.run({**rows(3, seed=1), "label": np.full(3, 99)}, ["output"])
    with pytest.raises(OutOfMemoryError, match=r"^[^\n]*can't allocate memory: you tried to allocate \d+ bytes"):
        TorchNetwork(Vast(), [GraphTensor("x", F32, (1,))], []).run({"x": np.ones((2**20, 1), F32)}, [])


@pytest.mark.parametrize(
    ("module", "examples", "expected"),
    [
        (Moments(), {"x": torch.randn(3, 4)}, "x: expected a free first axis for the batch, got shape [3, 4]"),
        (networks.Rings(), {"x": torch.randn(3, 2), "t": torch.rand(3)}, "expected a program exported with positional"),
    ],
    ids=["a fixed batch", "keywords"],
)
def test_programs_that_cannot_be_served(tmp_path: Path, module: nn.Module, examples: dict[str, Tensor], expected: str):
    file = tmp_path / "model.pt2"
    x, *others = examples.items()
    torch.export.save(torch.export.export(module, (x[1],), dict(others)), file)
    with pytest.raises(LoadError) as caught:
        TorchNetwork.load(file)
    assert str(caught.value).startswith(f"{file}: {expected}")


def test_a_file_that_is_no_program(tmp_path: Path):
    file = tmp_path / "model.pt2"
    file.write_bytes(b"junk")
    with pytest.raises(LoadError, match=r"model\.pt2: expected a program of torch\.export, got: [^\n]+$"):
        TorchNetwork.load(file)


def test_a_model_folder_with_a_program_draws_the_same_samples(small_models: Path, tmp_path: Path):
    folder = tmp_path / "rings"
    write(folder / "1" / "model.pt2", networks.Rings(), (torch.randn(4, 2), networks.TIMES))
    shutil.copy(small_models / "rings" / "card.yaml", folder)
    networks.edit_card(folder, output="output")
    drawn = []
    for root in (small_models, tmp_path):
        model = load(next(each for each in scan(root) if each.name == "rings"), Opener())
        assert isinstance(model, Sampler)
        problem = steering.Problem(plan=model.plan("dpmpp_2m", 10), event=model.card.event_shape)
        drawn.append(solve(steering.draw_bank(problem, 64), model))
    np.testing.assert_allclose(drawn[0].numpy(), drawn[1].numpy(), atol=1e-4)
    assert model.network.backend.kind.startswith("torch ")
