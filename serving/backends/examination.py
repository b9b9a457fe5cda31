"""What is looked at before a graph is served: whether it draws noise, and whether its rows are independent."""

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.card import Range
from serving.backends import Backend, LoadError, nodes
from serving.backends.bfloat16 import has_bfloat16, with_float32
from serving.backends.bound import BoundNetwork
from serving.backends.independence import Fault, examine, exchanged, moved
from serving.backends.made_up import ROWS, Feeds, MadeUp, RefusedError
from serving.backends.ort import OrtNetwork
from serving.backends.shared import per_row
from serving.backends.torch import TorchNetwork
from serving.backends.triton import TritonNetwork

_log = logging.getLogger(__name__)
SPOILING = ("node Resize ", "node Upsample ")
"""ONNX Runtime multiplies rows of their neighbours by 0 where they have three axes and interpolate along the last."""


@dataclass(frozen=True)
class Findings:
    """What was found, one line each; empty where there is nothing to say.

    Attributes:
        fault: why answers for a row would depend on more than that row.
        doubt: why that could not be tried.
        made_up: inputs that the graph accepts, None where none were found.
    """

    fault: str = ""
    doubt: str = ""
    made_up: MadeUp | None = None


def find(file: Path, backend: Backend, ranges: Mapping[str, Range], outputs: Sequence[str], most: int) -> Findings:
    """Examine a graph.

    Args:
        file: of the graph; a network on another server has none that counts.
        ranges: of its inputs by name, as far as they are known.
        outputs: those that are served.
        most: the most rows of a call.

    Raises:
        OutOfMemoryError, UnavailableError: as `Backend.run`.
    """
    if not backend.inputs or not outputs:
        return Findings()
    marks = _marks(file, backend, outputs)
    if marks.random:
        return Findings(fault=f"expected equal answers to equal inputs, got noise from {_listed(marks.random)}")
    made_up = None
    try:
        if isinstance(backend, BoundNetwork) and (plain := _on_cpu(file)) is not None:
            # where indices out of bounds are noticed, and rows can be compared bit by bit
            with contextlib.closing(plain):
                rowwise = per_row(plain)
                made_up = MadeUp.accepted(rowwise, ranges, most)
                found = examine(rowwise, made_up, outputs, most)
            if found is not None:
                return _told(file, plain, found, made_up)
        rowwise = per_row(backend)
        made_up = made_up or MadeUp.accepted(rowwise, ranges, backend.sizes(most)[-1])
        found = examine(rowwise, made_up, outputs, most, gently=isinstance(backend, BoundNetwork | TritonNetwork))
    except RefusedError as refusal:
        if refusal.accepted is not None:
            text = f"calls of {ROWS} rows refused and of {refusal.accepted} rows accepted"
            return Findings(fault=f"expected to run on any number of rows, got {text}: {refusal}")
        if marks.training:
            return Findings(fault=f"expected rows that depend on themselves alone, got {_listed(marks.training)}")
        return Findings(doubt=f"whether its rows are independent could not be tried: {refusal}")
    if found is None:
        return Findings(made_up=made_up)
    findings = _told(file, backend, found, made_up)
    if findings.doubt and (found := examine(rowwise, made_up, outputs, most, gently=True)) is not None:
        return _told(file, backend, found, made_up)  # there is more than that
    return findings


def _on_cpu(file: Path) -> Backend | None:
    """The graph on the CPU; None where it does not run there."""
    try:
        return OrtNetwork(file, 1)
    except LoadError:
        return None


def _told(file: Path, backend: Backend, found: Fault, made_up: MadeUp) -> Findings:
    """A fault in words, with the node if it can be told."""
    if found.kind == "rows":
        text = f"output {found.output!r}: expected as many rows as the inputs have, got {found.text}"
    else:
        text = f"output {found.output!r}: expected a row that depends on itself alone, got {found.text}"
    name = "" if isinstance(backend, TorchNetwork | TritonNetwork) else _node(file, found, made_up)
    if not found.finite and name.startswith(SPOILING):
        return Findings(
            doubt=f"a row becomes NaN where another row of its call is not finite, from {name}", made_up=made_up
        )
    return Findings(fault=f"{text}, from {name}" if name else text, made_up=made_up)


def _marks(file: Path, backend: Backend, outputs: Sequence[str]) -> nodes.Marked:
    if isinstance(backend, TorchNetwork):
        return nodes.Marked(backend.random, ())
    return nodes.Marked((), ()) if isinstance(backend, TritonNetwork) else nodes.marked(file, outputs)


def _node(file: Path, fault: Fault, made_up: MadeUp) -> str:
    """The node at fault; empty where it cannot be told."""
    try:
        opened = lambda graph: nodes.Inspector(graph, made_up.inputs)  # noqa: E731
        inspector = with_float32(file, opened) if has_bfloat16(file) else opened(file)
        first, second = fault.feeds
        if fault.kind == "again":
            return inspector.first([first, first], nodes.unequal)
        if fault.kind == "size":
            return inspector.first([first, second], lambda values, _: moved(values, first, second))
        for wrong in (nodes.mixed, nodes.misplaced):
            for other in (made_up.others(first, 0), _all(first, np.nan), _all(first, np.inf)):
                if name := inspector.first(_one_by_one(first, other, made_up.varying), wrong):
                    return name
        return inspector.maker(fault.output) if fault.kind == "rows" else ""
    except Exception as error:  # what is not known is left out
        _log.info("%s: no node could be named: %s", file, error)
        return ""


def _one_by_one(feeds: Feeds, other: Feeds, names: Collection[str]) -> list[Feeds]:
    """A call, and the same call with each of its rows changed alone, in these inputs."""
    other = {name: other[name] if name in names else value for name, value in feeds.items()}
    rows = len(next(iter(feeds.values())))
    return [feeds, *(exchanged(feeds, other, [k == row for k in range(rows)]) for row in range(rows))]


def _all(feeds: Feeds, number: float) -> Feeds:
    return {name: np.full_like(value, number) if value.dtype.kind == "f" else value for name, value in feeds.items()}


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
