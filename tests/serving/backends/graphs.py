"""Small ONNX graphs x [n, 4], t [n] -> y: some whose rows are not independent, or random, and some that are fine.

`MIXING` has the node at fault beside each graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node
Values = Sequence[tuple[str, int, Sequence[int | str]]]
X: Values = (("x", FLOAT, ["n", 4]),)
XT: Values = (*X, ("t", FLOAT, ["n"]))
XL: Values = (*X, ("label", INT64, ["n"]))
Y: Values = (("y", FLOAT, ["n", 4]),)


def graph(
    nodes: Sequence[onnx.NodeProto], inputs: Values = X, outputs: Values = Y, opset: int = 20, **constants: Any
) -> onnx.ModelProto:
    """A model; constants are float32 numbers unless they are arrays."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(*each) for each in outputs],
            [numpy_helper.from_array(_array(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def _array(value: Any) -> np.ndarray[Any, Any]:
    return value if isinstance(value, np.ndarray) else np.float32(value) * np.ones((), np.float32)


def _whole(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


ZERO, ONE, LAST, END = _whole(0), _whole(1), _whole(-1), _whole(2**60)
MEAN = node("ReduceMean", ["x", "zero"], ["m"], name="mean", keepdims=1)
COLUMN = node("Unsqueeze", ["t0", "one"], ["column"])
COUNT = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["k"]), node("Cast", ["k"], ["kf"], to=FLOAT)]
BATCH_NORM: dict[str, Any] = dict.fromkeys(("scale", "bias", "mean", "var"), np.ones(4, np.float32))


def plus(weight: float) -> onnx.ModelProto:
    """x + weight mean(x)."""
    return graph([MEAN, node("Mul", ["m", "w"], ["wm"]), node("Add", ["x", "wm"], ["y"])], zero=ZERO, w=weight)


def _one_for_all(taken: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    return graph([taken, COLUMN, node("Mul", ["x", "column"], ["y"])], XT, one=ONE, **constants)


def _branch(op: str) -> onnx.GraphProto:
    return helper.make_graph([node(op, ["x"], [op])], op, [], [helper.make_tensor_value_info(op, FLOAT, ["n", 4])])


MIXING: dict[str, tuple[onnx.ModelProto, str]] = {
    "the mean taken off": (graph([MEAN, node("Sub", ["x", "m"], ["y"])], zero=ZERO), "ReduceMean 'mean'"),
    "a weak mean": (plus(1e-3), "ReduceMean 'mean'"),
    "a tiny mean": (plus(1e-9), "ReduceMean 'mean'"),
    "a mean times nothing": (plus(0.0), "ReduceMean 'mean'"),
    "a weak bounded mean": (
        graph(
            [MEAN, node("Tanh", ["m"], ["b"]), node("Mul", ["b", "w"], ["wb"]), node("Add", ["x", "wb"], ["y"])],
            zero=ZERO, w=1e-4,
        ),
        "ReduceMean 'mean'",
    ),
    "the first time for all": (
        _one_for_all(node("Slice", ["t", "zero", "one"], ["t0"], name="first"), zero=ZERO), "Slice 'first'"
    ),
    "the last time for all": (
        _one_for_all(node("Slice", ["t", "last", "end"], ["t0"], name="last"), last=LAST, end=END), "Slice 'last'"
    ),
    "one time for all": (
        _one_for_all(node("Gather", ["t", "zero"], ["t0"], name="pick"), zero=ZERO), "Gather 'pick'"
    ),
    "one label for all": (
        graph(
            [
                node("Slice", ["label", "zero", "one"], ["l"], name="first"),
                node("Gather", ["table", "l"], ["e"]), node("Add", ["x", "e"], ["y"]),
            ],
            XL, zero=ZERO, one=ONE, table=np.arange(40, dtype=np.float32).reshape(10, 4),
        ),
        "Slice 'first'",
    ),
    "a sum over rows before": (graph([node("CumSum", ["x", "zero"], ["y"], name="sum")], zero=ZERO), "CumSum 'sum'"),
    "rows sorted": (
        graph([*COUNT[:2], node("TopK", ["x", "k"], ["y", "i"], name="sort", axis=0)], zero=ZERO), "TopK 'sort'"
    ),
    "the largest taken off": (
        graph(
            [node("ReduceMax", ["x", "zero"], ["m"], name="max", keepdims=1), node("Sub", ["x", "m"], ["y"])],
            zero=ZERO,
        ),
        "ReduceMax 'max'",
    ),
    "a softmax over rows": (graph([node("Softmax", ["x"], ["y"], name="soft", axis=0)]), "Softmax 'soft'"),
    "attention between rows": (
        graph(
            [
                node("Transpose", ["x"], ["xt"], perm=[1, 0]), node("MatMul", ["x", "xt"], ["a"], name="scores"),
                node("Softmax", ["a"], ["p"], axis=1), node("MatMul", ["p", "x"], ["y"]),
            ]
        ),
        "MatMul 'scores'",
    ),
    "rows in reverse": (
        graph(
            [node("Slice", ["x", "last", "end", "zero", "last"], ["y"], name="flip")], last=LAST, end=-END, zero=ZERO
        ),
        "Slice 'flip'",
    ),
    "a shape that is another": (
        graph(
            [
                node("Reshape", ["x", "four"], ["r"]), node("Transpose", ["r"], ["rt"], name="turn", perm=[1, 0]),
                node("Reshape", ["rt", "rows"], ["y"]),
            ],
            four=_whole(4, -1), rows=_whole(-1, 4),
        ),
        "Transpose 'turn'",
    ),
    "the row seven before": (
        graph(
            [
                node("Pad", ["x", "seven"], ["far"]), *COUNT[:2],
                node("Slice", ["far", "zero", "k", "zero"], ["before"], name="shift"),
                node("Add", ["x", "before"], ["y"]),
            ],
            seven=_whole(7, 0, 0, 0), zero=ZERO,
        ),
        "Slice 'shift'",
    ),
    "a branch chosen by all": (
        graph(
            [
                node("ReduceSum", ["x", "both"], ["s"], name="sum", keepdims=0),
                node("Greater", ["s", "none"], ["yes"]),
                node("If", ["yes"], ["y"], then_branch=_branch("Abs"), else_branch=_branch("Neg")),
            ],
            both=_whole(0, 1), none=0.0,
        ),
        "ReduceSum 'sum'",
    ),
    "batch statistics": (
        graph(
            [node("BatchNormalization", ["x", *BATCH_NORM], ["y", "m", "v"], name="norm", training_mode=1)],
            opset=15, **BATCH_NORM,
        ),
        "BatchNormalization 'norm' in training mode",
    ),
    "one scale for all": (
        graph(
            [
                node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="quantize"),
                node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
            ]
        ),
        "DynamicQuantizeLinear 'quantize'",
    ),
    "whole numbers": (
        graph(
            [
                node("ReduceSum", ["label", "zero"], ["s"], name="sum", keepdims=1), node("Add", ["label", "s"], ["y"]),
            ],
            (("label", INT64, ["n"]),), (("y", INT64, ["n"]),), zero=ZERO,
        ),
        "ReduceSum 'sum'",
    ),
}  # fmt: skip
"""Graphs whose rows change with other rows."""

PLACED: dict[str, tuple[onnx.ModelProto, str]] = {
    "times the number of rows": (
        graph([*COUNT, node("Mul", ["x", "kf"], ["y"], name="times")], zero=ZERO), "Mul 'times'"
    ),
    "a thousandth of the number of rows": (
        graph(
            [*COUNT, node("Mul", ["kf", "w"], ["wk"]), node("Add", ["x", "wk"], ["y"], name="plus")], zero=ZERO, w=1e-3
        ),
        "Add 'plus'",
    ),
    "a row's place": (
        graph(
            [
                *COUNT[:1], node("Gather", ["s", "first"], ["k"]),
                node("Range", ["first", "k", "step"], ["i"], name="count"),
                node("Cast", ["i"], ["f"], to=FLOAT), node("Unsqueeze", ["f", "one"], ["c"]),
                node("Mul", ["c", "w"], ["wc"]), node("Add", ["x", "wc"], ["y"]),
            ],
            first=np.array(0, np.int64), step=np.array(1, np.int64), one=ONE, w=1e-3,
        ),
        "Range 'count'",
    ),
    "the last row is nothing": (
        graph(
            [node("Slice", ["x", "zero", "last"], ["cut"]), node("Pad", ["cut", "below"], ["y"], name="below")],
            zero=ZERO, last=LAST, below=_whole(0, 0, 1, 0),
        ),
        "Pad 'below'",
    ),
}  # fmt: skip
"""Graphs whose rows change with the number of rows, or with their place."""

RANDOM: dict[str, tuple[onnx.ModelProto, str]] = {
    "noise": (
        graph([node("RandomNormalLike", ["x"], ["z"], name="noise"), node("Add", ["x", "z"], ["y"])]),
        "node RandomNormalLike 'noise'",
    ),
    "noise with a seed": (
        graph([node("RandomUniformLike", ["x"], ["z"], name="noise", seed=1.0), node("Add", ["x", "z"], ["y"])]),
        "node RandomUniformLike 'noise'",
    ),
    "a rare coin": (
        graph(
            [
                node("Mul", ["x", "none"], ["p0"]), node("Add", ["p0", "p"], ["p1"]),
                node("Bernoulli", ["p1"], ["z"], name="coin"), node("Add", ["x", "z"], ["y"]),
            ],
            none=0.0, p=1e-9,
        ),
        "node Bernoulli 'coin'",
    ),
    "a dropout that drops": (
        graph([node("Dropout", ["x", "half", "yes"], ["y"], name="drop")], half=0.5, yes=np.array(True)),
        "node Dropout 'drop' in training mode",
    ),
    "inside a branch": (
        graph(
            [
                node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
                node("If", ["yes"], ["y"], then_branch=_branch("RandomNormalLike"), else_branch=_branch("Neg")),
            ]
        ),
        "node RandomNormalLike 'RandomNormalLike'",
    ),
}  # fmt: skip
"""Graphs that answer otherwise when they are run again."""

DIVIDE: Values = (("a", INT64, ["n"]), ("b", INT64, ["n"]))
FINE: dict[str, onnx.ModelProto] = {
    "sines of much": graph([node("Mul", ["x", "k"], ["w"]), node("Sin", ["w"], ["y"])], k=3e4),
    "digits on an edge": graph(
        [node("Exp", ["x"], ["e"]), node("Mul", ["e", "k"], ["w"]), node("Sin", ["w"], ["y"])], k=1e6
    ),
    "what is left of rounding": graph(
        [node("Exp", ["x"], ["e"]), node("Log", ["e"], ["l"]), node("Sub", ["x", "l"], ["y"])]
    ),
    "NaN everywhere": graph([node("Abs", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Log", ["b"], ["y"])]),
    "half precision": graph(
        [
            node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("MatMul", ["h", "w"], ["p"]),
            node("Sigmoid", ["p"], ["q"]), node("Cast", ["q"], ["y"], to=FLOAT),
        ],
        w=np.random.default_rng(0).standard_normal((4, 4)).astype(np.float16),
    ),
    "eight bits": graph(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        s=0.02, z=np.array(0, np.int8),
    ),
    "saturated logarithms": graph([node("Mul", ["x", "k"], ["w"]), node("LogSoftmax", ["w"], ["y"], axis=1)], k=30.0),
    "an index from a time": graph(
        [node("Cast", ["t"], ["i"], to=INT64), node("Gather", ["table", "i"], ["e"]), node("Add", ["x", "e"], ["y"])],
        XT, table=np.arange(8, dtype=np.float32).reshape(2, 4),
    ),
    "a single class": graph(
        [node("Gather", ["table", "label"], ["e"]), node("Add", ["x", "e"], ["y"])],
        XL, table=np.ones((1, 4), np.float32),
    ),
    "the likeliest class": graph([node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], X, (("y", INT64, ["n"]),)),
    "no row axis for one row": graph(
        [node("ReduceSum", ["x", "one"], ["s"], keepdims=1), node("Squeeze", ["s"], ["y"])], X, (("y", FLOAT, ["n"]),),
        one=ONE,
    ),
    "noise that nothing uses": graph(
        [node("RandomNormalLike", ["x"], ["z"]), node("Add", ["x", "x"], ["y"])],
    ),
    "noise in a branch that is not taken": graph(
        [
            node("Constant", [], ["no"], value=numpy_helper.from_array(np.array(False))),
            node("If", ["no"], ["y"], then_branch=_branch("RandomNormalLike"), else_branch=_branch("Neg")),
        ]
    ),
    "a dropout that drops nothing": graph(
        [node("Dropout", ["x", "none", "yes"], ["y"])], none=0.0, yes=np.array(True)
    ),
    "a dropout in evaluation": graph([node("Dropout", ["x", "half", "no"], ["y"])], half=0.5, no=np.array(False)),
    "running statistics": graph([node("BatchNormalization", ["x", *BATCH_NORM], ["y"])], opset=15, **BATCH_NORM),
    "statistics of each row": graph(
        [
            node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["k"]),
            node("Concat", ["one", "k", "last"], ["flat"], axis=0), node("Reshape", ["x", "flat"], ["r"]),
            node("Expand", ["unit", "k"], ["units"]),
            node("InstanceNormalization", ["r", "units", "units"], ["i"]), node("Reshape", ["i", "rows"], ["y"]),
        ],
        one=ONE, zero=ZERO, last=LAST, unit=np.ones(1, np.float32), rows=_whole(-1, 4),
    ),
    "a quotient": graph([node("Div", ["a", "b"], ["y"])], DIVIDE, (("y", INT64, ["n"]),)),
    "a remainder of b - 1": graph(
        [node("Sub", ["b", "one"], ["c"]), node("Mod", ["a", "c"], ["y"])], DIVIDE, (("y", INT64, ["n"]),), one=ONE
    ),
    "a quotient by b (b - 1) (b - 2)": graph(
        [
            node("Sub", ["b", "one"], ["c"]), node("Sub", ["c", "one"], ["d"]), node("Mul", ["b", "c"], ["bc"]),
            node("Mul", ["bc", "d"], ["bcd"]), node("Div", ["a", "bcd"], ["y"]),
        ],
        DIVIDE, (("y", INT64, ["n"]),), one=ONE,
    ),
    "lengths that vary": graph(
        [node("Softmax", ["x"], ["y"], axis=2)], (("x", FLOAT, ["n", "h", "w"]),), (("y", FLOAT, ["n", "h", "w"]),)
    ),
    "bytes": graph(
        [node("Cast", ["x"], ["f"], to=FLOAT), node("Div", ["f", "most"], ["y"])],
        (("x", TensorProto.UINT8, ["n", 4]),), most=255.0,
    ),
    "a mask": graph(
        [node("Where", ["mask", "x", "none"], ["w"]), node("Softmax", ["w"], ["y"], axis=1)],
        (*X, ("mask", TensorProto.BOOL, ["n", 4])), none=-np.inf,
    ),
}  # fmt: skip
"""Graphs whose rows are independent, though not each of them looks so."""
