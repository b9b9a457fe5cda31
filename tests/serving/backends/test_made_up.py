"""Inputs made up to try a graph: values it accepts, in its card's ranges, not zero where there is a choice."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from protos.card import Range
from serving.backends.made_up import Law, MadeUp, RefusedError
from serving.backends.ort import OrtNetwork
from tests.serving.backends.graphs import DIVIDE, XL, X, graph, node

TABLE = [node("Gather", ["table", "label"], ["e"]), node("Add", ["x", "e"], ["y"])]


def opened(folder: Path, model: onnx.ModelProto) -> OrtNetwork:
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return OrtNetwork(file, 1)


def table(rows: int) -> onnx.ModelProto:
    return graph(TABLE, XL, table=np.ones((rows, 4), np.float32))


@pytest.mark.parametrize(("rows", "values"), [(10, {1, 2}), (3, {1, 2}), (2, {1}), (1, {0})])
def test_labels_are_those_of_the_table(tmp_path: Path, rows: int, values: set[int]):
    made_up = MadeUp.accepted(opened(tmp_path, table(rows)))
    assert {*made_up.draw(64, 5)["label"].tolist()} == values


@pytest.mark.parametrize(
    ("low", "high", "values"), [(0, 3, {1, 2, 3}), (4, 6, {4, 5, 6}), (0, 0, {0}), (None, 5, {4, 5}), (7, None, {7, 8})]
)
def test_ranges_are_kept(tmp_path: Path, low: int | None, high: int | None, values: set[int]):
    backend = opened(tmp_path, table(10))
    made_up = MadeUp.accepted(backend, {"label": Range(min=low, max=high), "x": Range(min=2, max=3)})
    feeds = made_up.draw(200, 1)
    assert {*feeds["label"].tolist()} == values
    assert 2 <= feeds["x"].min() < feeds["x"].max() <= 3


def test_nothing_is_divided_by_zero_if_that_is_possible(tmp_path: Path):
    quotient = opened(tmp_path, graph([node("Div", ["a", "b"], ["y"])], DIVIDE, (("y", TensorProto.INT64, ["n"]),)))
    assert 0 not in MadeUp.accepted(quotient).draw(64, 1)["b"]
    with pytest.raises(RefusedError, match="Integer division by zero") as caught:
        MadeUp.accepted(quotient, {"b": Range(min=0, max=0)})
    assert caught.value.accepted is None


def test_a_graph_that_runs_on_four_rows_only(tmp_path: Path):
    four = graph(
        [node("Reshape", ["x", "shape"], ["r"]), node("Reshape", ["r", "rows"], ["y"])],
        X, shape=np.array([-1, 4, 4], np.int64), rows=np.array([-1, 4], np.int64),
    )  # fmt: skip
    with pytest.raises(RefusedError) as caught:
        MadeUp.accepted(opened(tmp_path, four), most=256)
    assert caught.value.accepted == 4


def test_other_values_are_all_others():
    rng = np.random.default_rng(0)
    for law in (Law((1, 2), whole=True), Law((0, 9), whole=True), Law(None), Law((0.0, 1.0))):
        values = law.draw(rng, (100, 3))
        assert not (law.others(rng, values) == values).any()
    only = Law((4, 4), whole=True)
    assert {*only.others(rng, only.draw(rng, (9,))).tolist()} == {4}


def test_the_first_rows_of_a_larger_call_are_the_smaller_call(tmp_path: Path):
    made_up = MadeUp.accepted(opened(tmp_path, table(10)))
    few, many = made_up.draw(3, 7), made_up.draw(64, 7)
    assert all(np.array_equal(many[name][:3], few[name]) for name in few)
