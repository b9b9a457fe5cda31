"""Graphs without a batch axis on some inputs, and graphs in bfloat16: served as if they took float32 rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from serving.backends import Array, Backend, GraphTensor, LoadError
from serving.backends.bfloat16 import has_bfloat16
from serving.backends.bound import BoundNetwork
from serving.backends.ort import OrtNetwork
from serving.backends.profiling import measured
from serving.backends.session import open_session
from serving.backends.shared import SharedInputs
from serving.backends.sizes import FIXED
from serving.backends.tensorrt import profile_of
from serving.backends.torch import TorchNetwork
from tests import networks

F32 = np.dtype(np.float32)
FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16


def graph(folder: Path, t: Sequence[int] = (), width: int = 2, side: Sequence[int] | None = None) -> Path:
    """sin(30 t x), and the sum of a side input added."""
    nodes = [
        helper.make_node("Mul", ["x", "t"], ["tx"]),
        helper.make_node("Mul", ["tx", "thirty"], ["wide"]),
        helper.make_node("Sin", ["wide"], ["sine"]),
        helper.make_node("ReduceSum", ["side"], ["sum"], keepdims=0) if side is not None else None,
        helper.make_node("Add", ["sine", "sum"], ["y"]) if side is not None else helper.make_node(
            "Identity", ["sine"], ["y"]
        ),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["n", width]),
        helper.make_tensor_value_info("t", FLOAT, list(t)),
        *([] if side is None else [helper.make_tensor_value_info("side", FLOAT, list(side))]),
    ]
    made = helper.make_graph(
        [node for node in nodes if node is not None],
        "sines",
        inputs,
        [helper.make_tensor_value_info("y", FLOAT, ["n", width])],
        [helper.make_tensor("thirty", FLOAT, [1], [30.0])],
    )
    return networks.write_graph(folder, made)


Floats = NDArray[np.float32]


def feeds(n: int, width: int = 2, times: int = 3, seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    t = np.linspace(0.1, 0.9, times).astype(np.float32)[np.arange(n) % times]
    return {"x": rng.standard_normal((n, width)).astype(np.float32), "t": t}


def run(backend: Backend, given: Mapping[str, Floats], output: str = "y") -> Floats:
    (found,) = backend.run(given, [output])
    assert found.dtype == np.float32
    return cast(Floats, found)


def expected(given: Mapping[str, Floats]) -> NDArray[np.float64]:
    return np.sin(30 * given["t"].astype(np.float64)[:, None] * given["x"])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_every_row_has_its_own_time(tmp_path: Path, shape: tuple[int, ...]):
    backend = SharedInputs(OrtNetwork(graph(tmp_path, shape), 1))
    assert backend.inputs[1].shared == shape
    assert backend.inputs[1].row == shape[1:]
    for n, times in ((1, 1), (2, 1), (7, 3), (32, 32), (33, 5)):
        given = feeds(n, times=times)
        y = run(backend, {**given, "t": given["t"].reshape(-1, *shape[1:])})
        np.testing.assert_allclose(y, expected(given), atol=1e-5)


def test_two_inputs_may_be_shared(tmp_path: Path):
    backend = SharedInputs(OrtNetwork(graph(tmp_path, side=(2, 3)), 1))
    given = feeds(12)
    side = np.random.default_rng(1).standard_normal((12, 2, 3)).astype(np.float32)
    side[6:] = side[:6]
    y = run(backend, {**given, "side": side})
    np.testing.assert_allclose(y, expected(given) + side.sum((1, 2))[:, None], atol=1e-5)


class Counted:
    """A backend that notes the sizes of its calls."""

    def __init__(self, backend: Backend, invariant: bool = True) -> None:
        self._backend, self.invariant = backend, invariant
        self.inputs, self.outputs, self.kind = backend.inputs, backend.outputs, backend.kind
        self.sizes, self.close = backend.sizes, backend.close
        self.calls: list[int] = []

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.calls.append(len(feeds["x"]))
        return self._backend.run(feeds, outputs)


def test_rows_of_one_time_share_a_call_of_a_size_in_use(tmp_path: Path):
    inner = Counted(OrtNetwork(graph(tmp_path), 1))
    backend = SharedInputs(inner)
    backend.use([4, 8, 16])
    backend.run(feeds(16, times=1), ["y"])
    backend.run(feeds(16, times=3), ["y"])
    assert inner.calls == [16, 8, 8, 8]
    moving = Counted(OrtNetwork(graph(tmp_path / "moving"), 1), invariant=False)
    backend = SharedInputs(moving)
    backend.use([4, 8, FIXED])
    backend.run(feeds(8, times=3), ["y"])
    backend.run(feeds(FIXED, times=3), ["y"])  # of a request whose bits must not depend on the size
    assert moving.calls == [4, 4, 4, FIXED, FIXED, FIXED]


def test_a_row_keeps_its_bits_among_rows_of_other_times(tmp_path: Path):
    """Sines of short rows round otherwise at the end of a call, so only sizes that do not are used."""
    backend = SharedInputs(OrtNetwork(graph(tmp_path, width=3), 1))
    costs = measured(backend, 64)
    backend.use(costs.sizes)
    given = feeds(48, width=3, times=5)
    whole = np.empty((48, 3), np.float32)
    for time in {*given["t"].tolist()}:
        index = np.flatnonzero(given["t"] == np.float32(time))
        size = costs.holding(len(index))
        filled = np.concatenate([index, np.repeat(index[-1:], size - len(index))])
        whole[index] = run(backend, {name: value[filled] for name, value in given.items()})[: len(index)]
    for first in range(0, 48, 16):
        part = {name: value[first : first + 16] for name, value in given.items()}
        assert run(backend, part).tobytes() == whole[first : first + 16].tobytes()


def test_calls_are_measured_at_one_time(tmp_path: Path):
    inner = Counted(OrtNetwork(graph(tmp_path, width=2048), 1))
    measured(SharedInputs(inner), 32)
    assert max(inner.calls) == 32


def test_bound_buffers_hold_what_is_shared(tmp_path: Path):
    file = graph(tmp_path, side=(2, 3))
    session = lambda: open_session(file, 1, ["CPUExecutionProvider"])  # noqa: E731
    backend = SharedInputs(BoundNetwork(file, session, kind="bound", device="cpu", sizes=(2, 4, 8)))
    for n, times in ((1, 1), (8, 1), (20, 1), (20, 3)):  # fewer than a size, and more than the largest
        given = feeds(n, times=times) | {"side": np.ones((n, 2, 3), np.float32)}
        y = run(backend, given)
        np.testing.assert_allclose(y, expected(given) + 6, atol=1e-5)
    backend.close()
    assert profile_of(file, (2, 8))["trt_profile_max_shapes"] == "x:8x2"


@pytest.mark.parametrize("t", [(), (1,)])
def test_a_graph_of_one_row_is_called_for_each(tmp_path: Path, t: tuple[int, ...]):
    nodes = [helper.make_node("Mul", ["x", "t"], ["tx"]), helper.make_node("Sin", ["tx"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [1, 3]), helper.make_tensor_value_info("t", FLOAT, list(t))]
    made = helper.make_graph(nodes, "one", inputs, [helper.make_tensor_value_info("y", FLOAT, [1, 3])])
    file = networks.write_graph(tmp_path, made)
    inner = Counted(OrtNetwork(file, 1))
    backend = SharedInputs(inner)
    assert [each.row for each in (*backend.inputs, *backend.outputs)] == [(3,), (), (3,)]
    given = feeds(7, width=3)
    y = run(backend, given)
    np.testing.assert_allclose(y, np.sin(given["t"][:, None] * given["x"]), rtol=1e-5)
    assert inner.calls == [1] * 7
    same = {name: np.repeat(value[:1], 5, axis=0) for name, value in given.items()}
    assert run(backend, same).tobytes() == y[:1].tobytes() * 5
    costs = measured(backend, 8)
    assert costs.seconds(8) > 1.5 * costs.seconds(2)  # as many calls as rows
    session = lambda: open_session(file, 1, ["CPUExecutionProvider"])  # noqa: E731
    with pytest.raises(LoadError, match="expected a free first axis on this provider, got a graph of one row"):
        BoundNetwork(file, session, kind="bound", device="cpu", sizes=(2, 4))


def test_without_a_batch_axis_anywhere_a_graph_is_refused(tmp_path: Path):
    file = networks.write_scale(tmp_path, {"x": (FLOAT, [4, 2]), "t": (FLOAT, [])}, ("y", [4, 2]))
    with pytest.raises(LoadError, match="x: expected a free first axis for the batch, got length 4"):
        OrtNetwork(file, 1)
    file = networks.write_scale(
        tmp_path / "varying", {"x": (FLOAT, ["n", 2]), "c": (FLOAT, [1, "length"])}, ("y", ["n", 2])
    )
    with pytest.raises(LoadError, match="c: expected a free first axis for the batch, got length 1"):
        OrtNetwork(file, 1)


class Scaled(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * t


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_torch_program_may_share_its_time_and_be_in_bfloat16(tmp_path: Path, dtype: torch.dtype):
    batch = torch.export.Dim("batch", min=2)
    examples = (torch.randn(4, 2, dtype=dtype), torch.ones((), dtype=dtype))
    torch.export.save(torch.export.export(Scaled(), examples, dynamic_shapes=({0: batch}, None)), tmp_path / "m.pt2")
    inner = TorchNetwork.load(tmp_path / "m.pt2")
    half = dtype == torch.bfloat16
    assert inner.inputs == (GraphTensor("x", F32, (2,), bfloat16=half), GraphTensor("t", F32, (), (), half))
    backend = SharedInputs(inner)
    given = feeds(6)
    y = run(backend, given, "output")
    np.testing.assert_allclose(y, given["t"][:, None] * given["x"], rtol=0.02)


def narrow(folder: Path, outside: int, weights: bool) -> Path:
    """x W + If(sum(W) > 0, 1, 0) in bfloat16, W = [[1, 2], [3, 4]]: a branch with constants of its own."""
    value = helper.make_tensor_value_info
    one, zero = (
        helper.make_graph(
            [helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", BFLOAT16, [], [number]))],
            "branch",
            [],
            [value("c", BFLOAT16, [])],
        )
        for number in (1.0, 0.0)
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["inside"], to=BFLOAT16),
        helper.make_node("MatMul", ["inside", "w"], ["product"]),
        helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["positive"], to=TensorProto.BOOL),
        helper.make_node("If", ["positive"], ["more"], then_branch=one, else_branch=zero),
        helper.make_node("Add", ["product", "more"], ["total"]),
        helper.make_node("Cast", ["total"], ["y"], to=outside),
    ]
    made = helper.make_graph(
        nodes,
        "narrow",
        [value("x", outside, ["n", 2])],
        [value("y", outside, ["n", 2])],
        [numpy_helper.from_array(np.array([[1, 2], [3, 4]], helper.tensor_dtype_to_np_dtype(BFLOAT16)), "w")],
    )
    file = networks.write_graph(folder, made)
    if weights:
        onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights", size_threshold=0)
        assert (file.parent / "weights").exists()
    return file


@pytest.mark.parametrize("outside", [FLOAT, BFLOAT16])
@pytest.mark.parametrize("weights", [False, True])
def test_bfloat16_is_computed_in_float32(tmp_path: Path, outside: int, weights: bool):
    file = narrow(tmp_path / "model", outside, weights)
    before = file.read_bytes()
    assert has_bfloat16(file)
    network = OrtNetwork(file, 1)
    assert network.inputs[0].dtype == network.outputs[0].dtype == F32
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    y = run(network, {"x": x})
    np.testing.assert_allclose(y, x @ np.array([[1, 2], [3, 4]], np.float32) + 1, rtol=1e-5, atol=1e-5)
    assert file.read_bytes() == before


def test_what_is_wrong_with_another_graph_is_still_said(tmp_path: Path):
    (tmp_path / "model.onnx").write_text("no graph")
    assert not has_bfloat16(tmp_path / "model.onnx")
    with pytest.raises(LoadError, match="expected a complete ONNX graph, got"):
        OrtNetwork(tmp_path / "model.onnx", 1)
