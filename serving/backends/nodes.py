"""Which node of an ONNX graph is at fault: those that draw noise, by name, and those that mix rows, by trying them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from serving.backends import Array, GraphTensor
from serving.backends.made_up import Feeds
from serving.backends.shared import one_call

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
TOGETHER = 256
"""Most tensors looked at in one run: they are in memory at once."""
SEQUENCES = ("Sequence", "SplitToSequence", "Optional")
"""Beginnings of operators whose results are no tensors."""

Graph = onnx.GraphProto | onnx.FunctionProto
Wrong = Callable[[Sequence[Array], set[int]], bool]
"""Whether the values of one tensor in several calls are wrong; may note which rows the tensor depends on."""


@dataclass(frozen=True)
class Marked:
    """Nodes that work toward an output, as texts: those that draw noise, and those that normalise over a batch."""

    random: tuple[str, ...]
    training: tuple[str, ...]


def marked(file: Path, outputs: Sequence[str]) -> Marked:
    """The nodes of a graph's file whose answers cannot be those of one row, as far as these outputs need them."""
    model = onnx.load(file, load_external_data=False)
    functions = {(each.domain, each.name): each for each in model.functions}
    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 1)
    random, training = [], []
    for node, constants in _needed(model.graph, functions, {}, outputs):
        if node.op_type in RANDOM or (node.op_type == "Dropout" and _drops(node, constants, version)):
            random.append(text(node))
        elif _trains(node):
            training.append(text(node))
    return Marked(tuple(random), tuple(training))


def text(node: onnx.NodeProto) -> str:
    """Such as `node ReduceMean 'mean'`; nodes without a name are named by their output."""
    training = " in training mode" if node.op_type == "Dropout" or _trains(node) else ""
    return f"node {node.op_type} {node.name or next(iter(node.output), '')!r}{training}"


def _needed(
    graph: Graph,
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    outer: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, Array]]]:
    """Nodes that these outputs (None: all) depend on, those inside of others too, with the constants that they see."""
    constants = {**outer, **_constants(graph)}
    if outputs is None:
        outputs = graph.output if isinstance(graph, onnx.FunctionProto) else [each.name for each in graph.output]
    wanted, found = set(outputs), []
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            wanted |= {*_reads(node)}
            found.append(node)
    for node in reversed(found):
        yield node, constants
        for inner in _inside(node, constants):
            yield from _needed(inner, functions, constants)
        if (function := functions.get((node.domain, node.op_type))) is not None:
            yield from _needed(function, functions, {})


def _inside(node: onnx.NodeProto, constants: Mapping[str, Array] | None = None) -> list[onnx.GraphProto]:
    """The branches and bodies of a node; only the branch that is taken, where a constant says so."""
    found = {each.name: [each.g] if each.HasField("g") else [*each.graphs] for each in node.attribute}
    if node.op_type == "If" and (taken := (constants or {}).get(node.input[0])) is not None:
        return found["then_branch" if bool(taken.any()) else "else_branch"]
    return [graph for graphs in found.values() for graph in graphs]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of what a node takes, what its branches take from outside included."""
    yield from filter(None, node.input)
    for graph in _inside(node):
        for each in graph.node:
            yield from _reads(each)
        yield from (each.name for each in graph.output)


def _constants(graph: Graph) -> dict[str, Array]:
    """Constants of one number by name."""
    found = {}
    tensors = {} if isinstance(graph, onnx.FunctionProto) else {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for each in node.attribute:
                if each.name == "value":
                    tensors[node.output[0]] = each.t
                elif each.name in ("value_float", "value_int"):
                    found[node.output[0]] = np.asarray(onnx.helper.get_attribute_value(each))
    for name, tensor in tensors.items():
        if math.prod(tensor.dims) == 1 and tensor.data_location != onnx.TensorProto.EXTERNAL:
            found[name] = numpy_helper.to_array(tensor)
    return found


def _drops(node: onnx.NodeProto, constants: Mapping[str, Array], version: int) -> bool:
    """Whether a Dropout surely drops something; what is no constant is found by running it twice."""
    if version < 7:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        return not attributes.get("is_test", 0) and attributes.get("ratio", 0.5) > 0
    ratio, training = (constants.get(name) if name else None for name in (*node.input[1:3], "", "")[:2])
    given = len(node.input) > 2 and bool(node.input[2])
    if not given or training is None or not bool(training.any()):
        return False
    return ratio is None or float(ratio.max()) > 0


def _trains(node: onnx.NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and any(
        each.name == "training_mode" and each.i == 1 for each in node.attribute
    )


class Inspector:
    """A graph without optimisations, all of whose tensors can be seen.

    Args:
        inputs: what it takes.

    Raises:
        Exception: what ONNX Runtime makes of it.
    """

    def __init__(self, file: Path, inputs: Sequence[GraphTensor]) -> None:
        self._inputs = inputs
        model = onnx.load(file, load_external_data=False)
        graph = model.graph
        known = {each.name for each in graph.output}
        self._nodes = list(graph.node)
        for node in self._nodes:
            if not node.op_type.startswith(SEQUENCES):
                graph.output.extend(
                    onnx.ValueInfoProto(name=name) for name in node.output if name and name not in known
                )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._seen = [each.name for each in self._session.get_outputs()]

    def first(self, calls: Sequence[Feeds], wrong: Wrong) -> str:
        """The first node, in the order of the graph, whose tensors are wrong in these calls; empty if there is none."""
        rows: dict[str, set[int]] = {}
        seen = {*self._seen}
        order = [name for node in self._nodes for name in node.output if name in seen]
        for first in range(0, len(order), TOGETHER):
            names = order[first : first + TOGETHER]
            results = [self._session.run(names, one_call(self._inputs, call)) for call in calls]
            for name, *values in zip(names, *results, strict=True):
                found = wrong(values, rows.setdefault(name, set()))
                if found:
                    return text(self._origin(name, rows))
        return ""

    def maker(self, name: str) -> str:
        """The node that makes a tensor; empty where it is no node's."""
        return next((text(node) for node in self._nodes if name in node.output), "")

    def _origin(self, name: str, rows: Mapping[str, set[int]]) -> onnx.NodeProto:
        """The node that makes a tensor; or, if that spreads what was taken from one row, the node that took it."""
        makers = {output: node for node in self._nodes for output in node.output}
        node = makers[name]
        while True:
            every = max((len(each) for each in rows.values()), default=0)
            partial = [each for each in node.input if 0 < len(rows.get(each, ())) < every and each in makers]
            if not partial:
                return node
            node = makers[partial[0]]


def mixed(values: Sequence[Array], rows: set[int]) -> bool:
    """Whether numbers of a tensor change with more than one row. The first of the values is of the call as it is, each
    other one of the call with another row changed; `rows` takes up which of these rows the tensor depends on."""
    base, *others = (np.asarray(each) for each in values)
    often = np.zeros(base.shape, int)
    for row, other in enumerate(others):
        if base.shape != other.shape:
            return True
        changed = _unequal(base, other)
        if changed.any():
            rows.add(row)
        often += changed
    return bool((often > 1).any())


def misplaced(values: Sequence[Array], _rows: set[int]) -> bool:
    """Whether a change of one row shows in another row of a tensor that has rows; the values are as in `mixed`."""
    base, *others = (np.asarray(each) for each in values)
    if base.shape[:1] != (len(others),) or any(each.shape != base.shape for each in others):
        return False
    return any(bool(np.delete(_unequal(base, each), row, axis=0).any()) for row, each in enumerate(others))


def unequal(values: Sequence[Array], _rows: set[int]) -> bool:
    """Whether two equal calls give different values."""
    base, other = map(np.asarray, values)
    return base.shape != other.shape or bool(_unequal(base, other).any())


def _unequal(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return ~((a == b) | (np.isnan(a) & np.isnan(b)))
    return a != b
