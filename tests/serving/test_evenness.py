"""Sizes of calls in which a graph rounds otherwise are found when it is loaded, and the engine keeps from them."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from serving.backends.ort import OrtNetwork
from serving.engine import Evaluation, Network, Program, Task
from serving.evenness import SIZES, uneven_sizes
from serving.scheduler import bucket
from tests import networks


def waves(folder: Path, width: int) -> OrtNetwork:
    """sin(30 x) of rows of so many numbers: vectorised over all of them, so the last few are rounded otherwise."""
    shape: list[str | int | None] = ["n", width]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "thirty"], ["wide"]), helper.make_node("Sin", ["wide"], ["y"])],
        "waves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("thirty", TensorProto.FLOAT, [1], [30.0])],
    )
    return OrtNetwork(networks.write_graph(folder, graph), 1)


def test_short_rows_of_sines_are_uneven_and_long_ones_are_not(tmp_path: Path):
    assert uneven_sizes(waves(tmp_path / "short", 3))
    assert not uneven_sizes(waves(tmp_path / "long", 64))


def test_uneven_sizes_are_passed_over():
    assert bucket(2, 32, frozenset({2, 3})) == 4
    assert bucket(5, 32, frozenset({6, 8})) == 12
    assert bucket(20, 24, frozenset({24})) == 24  # nothing is larger
    for rows in range(1, 33):
        assert rows <= bucket(rows, 32, frozenset(SIZES)) == 32


def test_a_row_has_the_same_bits_whatever_its_company(make_engine, tmp_path: Path):
    backend = waves(tmp_path / "waves", 3)
    network = Network("waves", backend, uneven_sizes(backend))
    x = np.random.default_rng(3).standard_normal((32, 3)).astype(np.float32)
    (whole,) = backend.run({"x": x}, ["y"])

    def program(rows: int) -> Program:
        (result,) = yield Evaluation(network, {"x": x[:rows]}, ("y",), rows)
        return result

    engine = make_engine().engine
    for rows in range(1, 33):
        result = engine.submit(Task("m", program(rows), rows)).result(20)
        assert np.array_equal(result, whole[:rows]), rows
