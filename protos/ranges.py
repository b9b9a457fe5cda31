"""Ranges that a graph's own tables set for its integer inputs: a label that picks a row of an embedding has to be one.

ONNX counts negative indices from the end, so that -1 would silently be the last row; and comparing with 0..N-1, as
one-hot codes are made, silently finds nothing for what is outside.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# of TensorProto.DataType
_INT64 = 7
_HOLDS_LABELS = {1, 6, _INT64, 10, 11, 12, 13, 16}  # floats, and integers of 32 bits or more

# operators that only move all numbers of a tensor: a slice of it would have its own range
_MOVES = {"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose", "Expand", "Tile"}
# operators that choose among the numbers of their first input
_CHOOSES = {"Slice", "Split", "Gather", "GatherElements", "GatherND"}
_KEEPS_SHAPE = {"Identity", "Cast", "DequantizeLinear"}


@dataclass(frozen=True)
class _Fed:
    """A tensor that is an input plus a number."""

    input: str
    plus: int = 0


def index_ranges(graph: Any) -> Mapping[str, tuple[int, int]]:
    """The least and greatest value of each input that picks rows of the graph's constants, by its name.

    Args:
        graph: an `onnx.GraphProto`, whose external data need not be there. What is inside of branches and loops is not
            looked at.
    """
    constants = _Constants(graph)
    fed = {each.name: _Fed(each.name) for each in graph.input if each.name not in constants}
    found: dict[str, tuple[int, int]] = {}
    for node in graph.node:  # in topological order, as ONNX demands
        if _moves(node) and node.input and node.input[0] in fed and len(node.output) == 1:
            fed[node.output[0]] = fed[node.input[0]]
        elif node.op_type in ("Add", "Sub"):
            _shift(node, fed, constants)
        for source, low, high in _picked(node, fed, constants):
            least, most = found.get(source.input, (-math.inf, math.inf))
            found[source.input] = max(least, low - source.plus), min(most, high - source.plus)  # type: ignore[assignment]
    return found


def divided(graph: Any) -> Mapping[str, Collection[int]]:
    """Inputs that the graph divides by what may be -1, with the numbers that it adds to them before.

    The least number of int32 or int64 has no such quotient: processors of x86 end the process then.

    Args:
        graph: as of `index_ranges`. Divisions in other types, and of what is computed otherwise, are not told apart.
    """
    constants = _Constants(graph)
    fed = {each.name: _Fed(each.name) for each in graph.input if each.name not in constants}
    found: dict[str, set[int]] = {}
    for node in graph.node:
        if node.op_type in _MOVES | _CHOOSES and node.input and node.input[0] in fed:
            fed.update(dict.fromkeys(node.output, fed[node.input[0]]))
        elif node.op_type in ("Add", "Sub"):
            _shift(node, fed, constants)
        elif node.op_type == "Div" and node.input[0] in fed:
            by = constants.whole(node.input[1])
            if by is None or -1 in by:
                source = fed[node.input[0]]
                found.setdefault(source.input, set()).add(source.plus)
    return found


def _moves(node: Any) -> bool:
    """Whether a node leaves the values of its first input as they are. Casts do where the type holds any label."""
    if node.op_type != "Cast":
        return node.op_type in _MOVES
    return any(each.name == "to" and each.i in _HOLDS_LABELS for each in node.attribute)


def _shift(node: Any, fed: dict[str, _Fed], constants: "_Constants") -> None:
    """An input plus or minus one whole number."""
    first, second = node.input
    if first not in fed and node.op_type == "Add":
        first, second = second, first
    number = constants.whole(second)
    if first in fed and number is not None and number.size == 1:
        plus = int(number.flat[0]) * (1 if node.op_type == "Add" else -1)
        fed[node.output[0]] = _Fed(fed[first].input, fed[first].plus + plus)


def _picked(node: Any, fed: Mapping[str, _Fed], constants: "_Constants") -> Iterator[tuple[_Fed, int, int]]:
    """Inputs that pick rows in a node, with the first row and the last."""
    inputs = list(node.input)
    if node.op_type in ("Gather", "GatherElements", "GatherND") and inputs[1] in fed:
        if (shape := constants.shape(inputs[0])) is not None:
            name = "batch_dims" if node.op_type == "GatherND" else "axis"
            axis = next((each.i for each in node.attribute if each.name == name), 0)
            # an index of several numbers would have a range for each
            if node.op_type != "GatherND" or inputs[1] in constants.columns or len(shape) == axis + 1:
                yield fed[inputs[1]], 0, shape[axis] - 1
    elif node.op_type == "OneHot" and inputs[0] in fed:
        depth = constants.whole(inputs[1])
        if depth is not None and depth.size == 1:
            yield fed[inputs[0]], 0, int(depth.flat[0]) - 1
    elif node.op_type == "Equal":
        for here, there in (inputs, inputs[::-1]):
            codes = constants.whole(there) if here in fed else None
            if codes is not None and codes.size > 1 and np.array_equal(codes.reshape(-1), np.arange(codes.size)):
                yield fed[here], 0, codes.size - 1


class _Constants:
    """The constants of a graph by name; those of external data have a shape, and no values.

    Attributes:
        columns: tensors [..., 1] that were made of tensors [...].
    """

    def __init__(self, graph: Any) -> None:
        self._tensors = {each.name: each for each in graph.initializer}
        self._same: dict[str, str] = {}
        self.columns = set()
        ranks = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.input}
        for node in graph.node:
            if node.op_type == "Constant":
                for each in node.attribute:
                    if each.name == "value":
                        self._tensors[node.output[0]] = each.t
            elif node.op_type in _KEEPS_SHAPE and node.input and node.input[0] in self:
                self._same[node.output[0]] = node.input[0]
            elif node.op_type == "Unsqueeze" and len(node.input) == 2:
                axes = self.whole(node.input[1])
                if axes is not None and axes.tolist() in ([-1], [ranks.get(node.input[0])]):
                    self.columns.add(node.output[0])

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or name in self._same

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a constant; None where the name is none."""
        name = self._origin(name)
        return tuple(self._tensors[name].dims) if name in self._tensors else None

    def whole(self, name: str) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
        """The values of a constant of int64 that are in the graph's file."""
        tensor = self._tensors.get(self._origin(name))
        if tensor is None or tensor.data_type != _INT64 or tensor.data_location:
            return None
        values = np.frombuffer(tensor.raw_data, "<i8") if tensor.raw_data else np.array(tensor.int64_data, np.int64)
        return values.reshape(tuple(tensor.dims)) if values.size == math.prod(tensor.dims) else None

    def _origin(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name
