"""How a graph's own inputs and outputs relate to a sampler's rows (x, t, condition) and to its prediction.

The card says so; this is the one place that does it. Rows become feeds by name, type and time input; the graph's output
becomes the card's prediction.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

import steering
from protos.card import Card
from serving.backends import Array, GraphTensor, LoadError, shown
from serving.engine.references import Feed, References
from serving.models.encodings import Handle

Tables = Mapping[str, Mapping[Handle, Array]]
"""By the name of a condition, what rows of it each handle stands for."""
TAKES: Mapping[str, str] = {"float32": "f", "float64": "f", "int64": "iu", "bool": "biuf"}
"""Kinds of a graph's input (numpy's letters) that can hold a card's type."""


@dataclass(frozen=True)
class Adapter:
    """Between steering's rows and one graph.

    Attributes:
        inputs: the graph's inputs by name.
        halved: the axis of the output [B, ...] whose second half is left out; None for none.
        tables: of conditions that rows only refer to: what each handle [2] stands for, a row of the graph's input.
    """

    card: Card
    path: steering.Path
    inputs: Mapping[str, GraphTensor]
    halved: int | None = None
    tables: Tables = field(default_factory=dict)

    @classmethod
    def of(
        cls, card: Card, path: steering.Path, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
    ) -> "Adapter":
        """The adapter of a card and a graph that fit."""
        (output,) = (each for each in outputs if each.name == card.output)
        axis = card.doubled_axis(output.row) if card.learned_variance else None
        return cls(card, path, {each.name: each for each in inputs}, None if axis is None else axis + 1)

    def feeds(self, rows: steering.Rows) -> dict[str, Feed]:
        """The graph's inputs for rows of a network."""
        card = self.card
        given = {card.inputs.x: rows.x, card.inputs.t: self.times(rows.t), **rows.condition}
        return {
            name: self._fed(self.inputs[name], value)
            if name not in self.tables
            else References(tuple(self.tables[name][Handle(*each)] for each in value.tolist()))
            for name, value in given.items()
        }

    def row(self, name: str, value: Array) -> Array:
        """What the graph's input is fed for one row of a condition."""
        (fed,) = self._fed(self.inputs[name], torch.from_numpy(value)[None])
        return fed

    def referring(self, tables: Tables) -> "Adapter":
        """For rows whose conditions refer to these tables."""
        return replace(self, tables=tables)

    def times(self, t: Tensor) -> Tensor:
        """What the time input is fed at path times t [B], float64."""
        time = steering.paths.time_input(self.card.inputs.time)(self.path, t)
        return time.round() if self.inputs[self.card.inputs.t].dtype.kind in "iu" else time

    def filled(self, name: str, value: Array) -> dict[str, Array]:
        """A condition [n, ...] of the card with its free length filled up where the card says so, and its mask [n,
        longest], as conditions of rows by name.

        Lengths are always filled up to the card's `longest`: a row then has the same bytes whatever it shares a call
        with.
        """
        spec = self.card.conditions[name]
        if spec.pad is None:
            return {name: value}
        room = [(0, 0), *((0, axis - length) for axis, length in zip(spec.fed, value.shape[1:], strict=True))]
        filled: dict[str, Array] = {name: np.pad(value, room, constant_values=spec.pad)}
        if spec.mask is not None:
            length = value.shape[1 + spec.shape.index(-1)]
            filled[spec.mask] = np.tile(np.arange(spec.most) < length, (len(value), 1))
        return filled

    def output(self, output: Array) -> Tensor:
        """The card's prediction [B, *event] in float32 (float64 of a float64 graph), of the graph's output."""
        if self.halved is not None:
            output = np.split(output, 2, axis=self.halved)[0]
        if output.dtype == np.float16:
            output = output.astype(np.float32)
        prediction = torch.from_numpy(np.ascontiguousarray(output))
        return prediction if self.card.output_scale is None else prediction * self.card.output_scale

    def cotangent(self, of_prediction: Tensor) -> Tensor:
        """A cotangent [B, *event] of the card's prediction as one of the graph's output."""
        if self.card.output_scale is not None:
            of_prediction = of_prediction * self.card.output_scale
        if self.halved is None:
            return of_prediction
        return torch.cat([of_prediction, torch.zeros_like(of_prediction)], dim=self.halved)

    def fault(self, name: str, value: Array) -> str:
        """Why a condition's values, of the card's type, are refused; empty if they are accepted."""
        return self.card.conditions[name].fault(value) or misfit(self.inputs[name].dtype, value)

    @staticmethod
    def _fed(tensor: GraphTensor, value: Tensor) -> Array:
        array = value.contiguous().numpy().astype(tensor.dtype, copy=False)
        if array.ndim != 1 + len(tensor.row):  # times [n, 1], and such
            array = array.reshape(len(array), *(axis or 1 for axis in tensor.row))
        return array


def misfit(dtype: "np.dtype[np.generic]", value: Array) -> str:
    """Why values cannot be given to an input of this type; empty if they can."""
    whole = value.dtype.kind == dtype.kind and value.dtype.itemsize <= dtype.itemsize
    if whole or value.dtype.kind not in "if" or not value.size:
        return ""
    ends = np.iinfo(str(dtype)) if dtype.kind in "iu" else np.finfo(str(dtype))
    low, high = float(ends.min), float(ends.max)
    for worst in (value.min(), value.max()):
        if not low <= worst <= high:
            return f"expected {low:g}..{high:g}, as the graph's {dtype} holds, got {worst}"
    return ""


def check_time(formula: str, path: steering.Path) -> None:
    """ValueError unless a time input is a formula that has a value on the path: not every path counts steps."""
    middle = torch.tensor([(path.t_min + path.t_max) / 2], dtype=torch.float64)
    fed = float(steering.paths.time_input(formula)(path, middle))
    if not math.isfinite(fed):
        raise ValueError(f"time input {formula!r}: expected a finite number at t={float(middle):g}, got {fed}")


def check_graph(file: object, card: Card, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> None:
    """Compare the card's names, types and shapes with the graph's; LoadError names both, after the card's `file`."""
    there = {each.name: each for each in inputs}
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        card.inputs.x: ("float32", card.event_shape),
        card.inputs.t: ("float32", ()),
        **{name: (condition.dtype, condition.fed) for name, condition in card.conditions.items()},
    }
    masks = {each.mask: ("bool", (each.most,)) for each in card.conditions.values() if each.mask is not None}
    if taken := sorted(wanted.keys() & masks.keys()):
        raise LoadError(f"{file}: mask: expected an input of its own, got {taken[0]!r}, which is another's")
    wanted |= masks
    for name, (dtype, row) in wanted.items():
        if name not in there:
            raise LoadError(f"{file}: the card names input {name!r}, the graph has {', '.join(there)}")
        here = there[name]
        takes = TAKES[dtype] + ("iu" if name == card.inputs.t and steering.paths.counts_steps(card.inputs.time) else "")
        column = name == card.inputs.t and all(axis == 1 for axis in here.row)  # times [n, 1] are served too
        if not (here.fits(row) or column or _same_numbers(here, row)) or here.dtype.kind not in takes:
            raise LoadError(f"{file}: input {name!r}: the card says {dtype} {shown(row)}, the graph {described(here)}")
    for name, condition in card.conditions.items():
        for key, value in (("null", condition.null), ("pad", condition.pad)):
            if value is not None and (why := misfit(there[name].dtype, np.asarray(value, condition.dtype))):
                raise LoadError(f"{file}: conditions.{name}.{key}: {why}")
    if extra := [name for name in there if name not in wanted]:
        raise LoadError(f"{file}: the graph has input {extra[0]!r}, the card names {', '.join(wanted)}")
    gives = {each.name: each for each in outputs}
    if card.output not in gives:
        raise LoadError(f"{file}: the card names output {card.output!r}, the graph has {', '.join(gives)}")
    out = gives[card.output]
    says = f"the card says float32 {shown(card.event_shape)}"
    fits, doubled = out.fits(card.event_shape), card.doubled_axis(out.row)
    if card.learned_variance:
        says, fits = f"{says} with one axis twice as long (learned_variance)", doubled is not None
    elif doubled is not None and not fits:
        says += " (if its second half is a variance: learned_variance: true)"
    if not fits or out.dtype.kind != "f":
        raise LoadError(f"{file}: output {card.output!r}: {says}, the graph {described(out)}")


def check_times(file: object, card: Card, path: steering.Path, inputs: Sequence[GraphTensor]) -> None:
    """LoadError where the type of the time input cannot hold what it is fed between the path's ends."""
    (here,) = (each for each in inputs if each.name == card.inputs.t)
    ends = np.iinfo(str(here.dtype)) if here.dtype.kind in "iu" else np.finfo(str(here.dtype))
    times = torch.tensor([path.t_min, path.t_max], dtype=torch.float64)
    fed = steering.paths.time_input(card.inputs.time)(path, times)
    for t, value in zip(times.tolist(), fed.tolist(), strict=True):
        if math.isfinite(value) and not float(ends.min) - 0.5 <= value <= float(ends.max) + 0.5:
            raise LoadError(
                f"{file}: input {here.name!r}: expected times of {float(ends.min):g}..{float(ends.max):g}, as the "
                f"graph's {here.dtype} holds, got {value:g} at t={t:g}"
            )


def check_names(file: object, card: Card, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> None:
    """LoadError where a plain network's card names an input or output that its graph lacks."""
    takes, gives = ({each.name for each in side} for side in (inputs, outputs))
    wanted = [("arguments", name, takes, "inputs") for name in sorted(card.arguments)]
    wanted += [("prompt", name, takes, "inputs") for name in sorted(card.prompt or {})]
    if card.sample is not None and card.sample.input is not None:
        wanted.append(("sample.input", card.sample.input, takes, "an input"))
    if card.score_output is not None:
        wanted.append(("score_output", card.score_output, gives, "an output"))
    for key, name, known, what in wanted:
        if name not in known:
            raise LoadError(f"{file}: {key}: expected {what} of the graph ({', '.join(sorted(known))}), got {name!r}")


def _same_numbers(here: GraphTensor, row: tuple[int, ...]) -> bool:
    """Whether an input that takes one value for all rows is one of this shape, but for a first axis of 1."""
    return here.shared is not None and row == (1, *here.row)


def described(tensor: GraphTensor) -> str:
    return f"{tensor.dtype} {shown(tensor.row)}"
