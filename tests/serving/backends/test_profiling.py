"""What calls cost is measured when a graph is loaded, and sizes at which it rounds otherwise are kept from."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from serving.backends.ort import OrtNetwork
from serving.backends.profiling import REFERENCE, measured
from serving.engine.task import Evaluation, Network, Routine, Task
from tests import networks


def waves(folder: Path, width: int | str) -> OrtNetwork:
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


def missing(backend: OrtNetwork) -> set[int]:
    sizes = measured(backend, 32).sizes
    return set(backend.sizes(32)) - set(sizes)


def test_short_rows_of_sines_are_uneven_and_long_ones_are_not(tmp_path: Path):
    assert missing(waves(tmp_path / "short", 3))
    assert not missing(waves(tmp_path / "long", 2048))


def test_calls_are_measured_up_to_where_more_rows_bring_nothing(tmp_path: Path):
    costs = measured(waves(tmp_path / "waves", 4096), 256)
    assert REFERENCE <= costs.largest <= 256
    assert costs.seconds(costs.largest) > costs.seconds(2)  # it was the clock that ran, on real rows


def test_a_bound_below_the_reference_is_kept(tmp_path: Path):
    assert measured(waves(tmp_path / "waves", 64), 12).largest == 12


def test_a_row_has_the_same_bits_whatever_its_company(make_engine, tmp_path: Path):
    backend = waves(tmp_path / "waves", 3)
    network = Network("waves", backend, measured(backend, 32))
    x = np.random.default_rng(3).standard_normal((32, 3)).astype(np.float32)
    (whole,) = backend.run({"x": x}, ["y"])

    def program(rows: int) -> Routine:
        (result,) = yield Evaluation(network, {"x": x[:rows]}, ("y",), rows)
        return result

    engine = make_engine().engine
    for rows in range(1, 33):
        result = engine.submit(Task(model="m", program=program(rows), network_rows=rows)).result(20)
        assert np.array_equal(result, whole[:rows]), rows


def test_sizes_are_even_at_lengths_that_vary(tmp_path: Path):
    """Whatever the length of a request: sizes at which rows of other lengths are rounded otherwise are not used."""
    backend = waves(tmp_path / "waves", "length")
    costs = measured(backend, 256)
    assert set(costs.sizes) == {16, 32}
    rng = np.random.default_rng(0)
    for length in (1, 3, 5, 12, 33):
        x = rng.standard_normal((32, length)).astype(np.float32)
        (whole,) = backend.run({"x": x}, ["y"])
        (part,) = backend.run({"x": x[16:]}, ["y"])
        assert np.array_equal(part, whole[16:]), length


def test_a_graph_that_takes_no_made_up_lengths_has_all_sizes(tmp_path: Path):
    """Its weights fix the length that its shape leaves open."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "d"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [1.0] * 6)],
    )
    backend = OrtNetwork(networks.write_graph(tmp_path / "fixed", graph), 1)
    assert measured(backend, 256).sizes == backend.sizes(32)


def test_requests_of_several_lengths_run_in_calls_of_their_own(make_engine, tmp_path: Path):
    backend = waves(tmp_path / "waves", "length")
    network = Network("waves", backend, measured(backend, 32))
    rng = np.random.default_rng(3)
    asked = [rng.standard_normal((1 + i % 5, 1 + i % 7)).astype(np.float32) for i in range(40)]

    def program(x: np.ndarray) -> Routine:
        for _ in range(3):
            (x,) = yield Evaluation(network, {"x": x}, ("y",), len(x))
        return x

    engine = make_engine().engine

    def task(x: np.ndarray) -> Task:
        return Task(model="m", program=program(x), network_rows=3 * len(x), network=network, rows_at_once=len(x))

    alone = [engine.submit(task(x)).result(20) for x in asked]
    together = [engine.submit(task(x)) for x in asked]
    for future, wanted in zip(together, alone, strict=True):
        assert np.array_equal(future.result(20), wanted)
