"""Ranges of labels, read from graphs as exporters make them."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from exporters.export import _graph
from protos.card import Card, Range, ranged
from protos.ranges import divided, index_ranges

N = 3


class Many(nn.Module):
    """Every way that torch has to pick a row by a label."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.register_buffer("table", torch.randn(8, 4))


class Embedded(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.embedding(label)


class Indexed(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.table[label]


class OneHot(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + nn.functional.one_hot(label, 4).to(x.dtype)


class Selected(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.table.index_select(0, label)


class Gathered(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + torch.gather(self.table[:, 0], 0, label)[:, None]


class Shifted(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.embedding(label + 1)


class Twice(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.table[label] + self.embedding(label)


class Clamped(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.embedding(label.clamp(0, 4))


class Columns(Many):
    """Ids of two kinds, each with its own table."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        ids = label[:, None].expand(-1, 2)
        return x + self.embedding(ids[:, :1])[:, 0] + self.table[ids[:, 1:]][:, 0]


class Whether(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.table[label.bool().long()]


class Narrow(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.table[label.to(torch.int8).long()]


class Wide(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x + self.table[label.float().to(torch.int32).long()]


class Counted(Many):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x * label[:, None]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Embedded(), (0, 4)),
        (Indexed(), (0, 7)),
        (OneHot(), (0, 3)),
        (Selected(), (0, 7)),
        (Gathered(), (0, 7)),
        (Shifted(), (-1, 3)),
        (Twice(), (0, 4)),
        (Clamped(), None),
        (Columns(), None),
        (Whether(), None),
        (Narrow(), None),
        (Wide(), (0, 7)),
        (Counted(), None),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_torch_exports(tmp_path: Path, network: nn.Module, expected: tuple[int, int] | None):
    examples = {"x": torch.randn(N, 4), "label": torch.arange(N)}
    graph = _graph(network.eval(), tmp_path / "model.onnx", examples, ["y"], {})
    assert index_ranges(graph) == ({} if expected is None else {"label": expected})


def made(
    *nodes: onnx.NodeProto, label: list[str | int] | None = None, **constants: onnx.TensorProto
) -> onnx.GraphProto:
    for name, each in constants.items():
        each.name = name
    return helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("label", TensorProto.INT64, label or ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [*constants.values()],
    )


def table(*shape: int) -> onnx.TensorProto:
    return helper.make_tensor("t", TensorProto.FLOAT, shape, [0.0] * torch.Size(shape).numel())


def whole(values: list[int], *shape: int) -> onnx.TensorProto:
    return helper.make_tensor("i", TensorProto.INT64, shape, values)


def test_what_others_write():
    node = helper.make_node
    assert index_ranges(made(node("Gather", ["t", "label"], ["y"], axis=-1), t=table(2, 6))) == {"label": (0, 5)}
    cast = node("Cast", ["label"], ["i"], to=TensorProto.INT32), node("Identity", ["i"], ["j"])
    assert index_ranges(made(*cast, node("Gather", ["t", "j"], ["y"]), t=table(6))) == {"label": (0, 5)}
    values = helper.make_tensor("v", TensorProto.FLOAT, [2], [0.0, 1.0])
    codes = made(node("OneHot", ["label", "depth", "values"], ["y"]), depth=whole([3], 1), values=values)
    assert index_ranges(codes) == {"label": (0, 2)}
    constant = node("Constant", [], ["t"], value=table(4, 2))
    assert index_ranges(made(constant, node("Gather", ["t", "label"], ["y"]))) == {"label": (0, 3)}
    halved = node("DequantizeLinear", ["t", "scale"], ["w"]), node("Gather", ["w", "label"], ["y"])
    assert index_ranges(made(*halved, t=table(4, 2), scale=table())) == {"label": (0, 3)}
    less = node("Sub", ["label", "one"], ["i"]), node("Gather", ["t", "i"], ["y"])
    assert index_ranges(made(*less, one=whole([1]), t=table(4))) == {"label": (1, 4)}
    # a table that is computed from the request, a pair of indices, and codes that are no 0..N-1
    assert not index_ranges(made(node("Gather", ["label", "zero"], ["y"]), zero=whole([0])))
    assert not index_ranges(made(node("GatherND", ["t", "label"], ["y"]), t=table(4, 2), label=["n", 2]))
    assert not index_ranges(made(node("Equal", ["label", "codes"], ["y"]), codes=whole([0, 2, 4], 3)))
    assert not index_ranges(made(node("Equal", ["label", "code"], ["y"]), code=whole([0], 1)))


def test_what_is_divided():
    node, by = helper.make_node, helper.make_node("Div", ["i", "by"], ["y"])
    assert divided(made(node("Identity", ["label"], ["i"]), by)) == {"label": {0}}
    assert divided(made(node("Sub", ["label", "one"], ["i"]), by, one=whole([1]))) == {"label": {-1}}
    assert divided(made(node("Slice", ["label", "a", "b"], ["i"]), by)) == {"label": {0}}
    assert divided(made(node("Identity", ["label"], ["i"]), by, by=whole([2, -1], 2))) == {"label": {0}}
    assert not divided(made(node("Identity", ["label"], ["i"]), by, by=whole([4])))
    assert not divided(made(node("Cast", ["label"], ["i"], to=TensorProto.FLOAT), by))


def test_weights_may_be_elsewhere():
    far = table(9, 2)
    far.ClearField("float_data")
    far.data_location = TensorProto.EXTERNAL
    assert index_ranges(made(helper.make_node("Gather", ["t", "label"], ["y"]), t=far)) == {"label": (0, 8)}
    assert not index_ranges(made(helper.make_node("Gather", ["label", "t"], ["y"]), t=far))


def test_a_card_keeps_the_ranges_it_has():
    sampler = {"name": "a", "path": {"kind": "rectified_flow"}, "prediction": "x0", "event_shape": [2]}
    own = {"dtype": "int64", "max": 3}
    card = Card.model_validate({**sampler, "conditions": {"label": {"dtype": "int64", "null": 4}, "own": own}})
    found = ranged(card, {"label": (0, 4), "own": (0, 9), "t": (0, 999)}).conditions
    assert (found["label"].min, found["label"].max, found["own"].min, found["own"].max) == (0, 4, None, 3)
    plain = Card.model_validate({"name": "b", "arguments": {"label": {"min": 1}}})
    kept = ranged(plain, {"label": (0, 4), "mode": (0, 7)}).arguments
    assert kept == {"label": Range(min=1), "mode": Range(min=0, max=7)}
