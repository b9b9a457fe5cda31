"""A model of dynamics: the graphs that were loaded of it, and how rows of them are fed and read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protos.card import Card, Condition, Range
from protos.dynamics import Dynamics as Spec
from serving.backends import Array, Backend, GraphTensor, LoadError, shown
from serving.engine.task import Evaluation, Kind, Network
from serving.models.adapter import TAKES
from serving.models.runs import Runs

SIDES = ("encoder", "decoder", "step")
"""Attributes of `Dynamics` that are graphs beside the field's."""


@dataclass(frozen=True, eq=False)
class Side:
    """A graph beside the field's: an encoder, a decoder, or a solver's step.

    Attributes:
        inputs: those that it takes; output: what it gives that is used; more: and further outputs that are.
        units: how many rows of the field one of its rows takes as long as, as both were measured.
    """

    network: Network
    inputs: tuple[GraphTensor, ...]
    output: GraphTensor
    units: float
    more: tuple[GraphTensor, ...] = ()

    def evaluation(self, feeds: Mapping[str, Array], rows: int) -> Evaluation:
        """Asks for its outputs for rows of its inputs, which become of their own types."""
        typed = {each.name: shaped(each, feeds[each.name]) for each in self.inputs}
        outputs = (self.output.name, *(each.name for each in self.more))
        return Evaluation(self.network, typed, outputs, rows, announced=False, units=self.units)


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A loaded model of dynamics.

    Attributes:
        spec: the card's part.
        network: evaluates the field, or the map.
        encoder, decoder, step: graphs beside it.
        weights: of what a map keeps, float64, broadcast to a state.
        ranges: allowed values of inputs by name.
        digest: equal for equal graphs, files, cards and backends.
        runs: what its requests took lately, for estimates.
    """

    name: str
    version: str
    card: Card
    spec: Spec
    network: Network
    digest: str
    encoder: Side | None = None
    decoder: Side | None = None
    step: Side | None = None
    weights: Tensor | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)

    @property
    def networks(self) -> Sequence[Network]:
        """What of it is in memory."""
        sides = (self.encoder, self.decoder, self.step)
        return [self.network, *(each.network for each in sides if each is not None)]

    @property
    def fingerprint(self) -> str:
        """Models with equal ones give equal bytes."""
        return self.digest[:16]

    @property
    def state(self) -> tuple[int, ...]:
        """The shape of one state."""
        return self.spec.state

    @property
    def conditions(self) -> Mapping[str, Condition]:
        return self.card.conditions

    @property
    def dtype(self) -> "np.dtype[np.generic]":
        """The type of the graph's state, which trajectories are sent in."""
        return self.input(self.spec.inputs.y).dtype

    @property
    def precision(self) -> torch.dtype:
        """The precision of the field: that of its coarsest float among state and outputs."""
        kinds = [self.dtype, *(self.output(name).dtype for name in self.spec.given.values())]
        return torch.float64 if all(each == np.float64 for each in kinds) else torch.float32

    @property
    def decoded_input(self) -> GraphTensor:
        """The decoder's input that takes states; only where there is a decoder."""
        assert self.decoder is not None
        found = state_of(self.card, self.decoder)
        assert found is not None  # else it was not loaded
        return found

    def input(self, name: str) -> GraphTensor:
        return next(each for each in self.network.backend.inputs if each.name == name)

    def output(self, name: str) -> GraphTensor:
        return next(each for each in self.network.backend.outputs if each.name == name)

    def evaluation(
        self,
        y: Tensor,
        t: Tensor,
        condition: Mapping[str, Array],
        extra: Mapping[str, Tensor],
        kind: Kind = "network",
        announced: bool = True,
    ) -> Evaluation:
        """Asks for the field at states y [m, *state] and times t [m], of conditions [m, ...] by name.

        Args:
            extra: further inputs by role [m, ...]; those that the graph has not are left out.
        """
        given: dict[str, Array] = {
            "y": y.numpy(),
            "t": t.numpy(),
            **{role: each.numpy() for role, each in extra.items()},
        }
        feeds = {name: shaped(self.input(name), given[role]) for role, name in self.spec.fed.items() if role in given}
        feeds |= {name: shaped(self.input(name), value) for name, value in condition.items()}
        return Evaluation(self.network, feeds, tuple(self.spec.given.values()), len(y), kind, announced)

    def reply(self, outputs: Sequence[Array]) -> dict[str, Tensor]:
        """The field's outputs by role, float64; those of states as [m, *state]."""
        return {role: number(each) for role, each in zip(self.spec.given, outputs, strict=True)}


def number(array: Array) -> Tensor:
    """An output as float64."""
    return torch.from_numpy(np.ascontiguousarray(array).astype(np.float64, copy=False))


def shaped(tensor: GraphTensor, value: Array) -> Array:
    """Rows as a graph's input takes them: of its type, and [m, 1] where it has columns. What its type does not hold is
    infinite there, which the solver meets as it meets other infinities."""
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.ascontiguousarray(value).astype(tensor.dtype, copy=False)
    row = tuple(axis or 1 for axis in tensor.row)
    if array.shape[1:] == row or None in tensor.row:
        return array
    return array.reshape(len(array), *row)


def check_graph(file: object, card: Card, backend: Backend) -> None:
    """Compare a card's names, types and shapes with its graph's; LoadError names both, after the card's `file`."""
    spec = card.dynamics
    assert spec is not None
    takes, gives = ({each.name: each for each in side} for side in (backend.inputs, backend.outputs))
    wanted: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for role, name in spec.fed.items():
        row = spec.state if role == "y" else (spec.control.channels,) if role == "dx" and spec.control else ()
        wanted[name] = ("float", row, f"dynamics.inputs.{role}" if role != "dx" else "dynamics.control.input")
    for name, condition in card.conditions.items():
        wanted[name] = (condition.dtype, condition.shape, f"conditions.{name}")
    for name, (dtype, row, key) in wanted.items():
        if name not in takes:
            raise LoadError(f"{file}: {key}: the card names input {name!r}, the graph has {', '.join(takes)}")
        here, kinds = takes[name], TAKES.get(dtype, "f")
        if not _fits(here, row) or here.dtype.kind not in kinds:
            raise LoadError(
                f"{file}: {key}: input {name!r}: the card says {dtype} {shown(row)}, the graph {_told(here)}"
            )
        if here.shared is not None:
            raise LoadError(
                f"{file}: {key}: input {name!r}: expected a batch axis, since each row has its own, got {_told(here)}"
            )
    if extra := [name for name in takes if name not in wanted]:
        raise LoadError(f"{file}: the graph has input {extra[0]!r}, the card names {', '.join(wanted)}")
    for role, name in spec.given.items():
        if name not in gives:
            raise LoadError(
                f"{file}: dynamics.outputs.{role}: the card names {name!r}, the graph has {', '.join(gives)}"
            )
        here = gives[name]
        rows = [spec.state] if role != "diffusion" else _diffusions(spec)
        if here.dtype.kind != "f" or not any(_fits(here, row) for row in rows):
            says = " or ".join(shown("m" if axis == -1 else axis for axis in row) for row in rows)
            raise LoadError(f"{file}: output {name!r}: expected floats {says} a row ({role}), the graph {_told(here)}")


def _diffusions(spec: Spec) -> list[tuple[int, ...]]:
    """Shapes that a row of the diffusion may have; -1 for any length."""
    if spec.noise == "general":
        return [(*spec.state, -1)]
    if spec.noise == "scalar":
        return [(), (1,), spec.state]
    return [spec.state]


def _fits(here: GraphTensor, row: Sequence[int]) -> bool:
    """Whether a row is of this shape; a number alone may be a column."""
    if not row and all(axis == 1 for axis in here.row):
        return True
    same = len(here.row) == len(row)
    return same and all(b is None or a in (-1, b) for a, b in zip(row, here.row, strict=True))


def _told(here: GraphTensor) -> str:
    return f"{here.dtype} {shown(('n', *here.row) if here.shared is None else here.shared)}"


def side_of(
    file: object,
    key: str,
    backend: Backend,
    network: Network,
    units: float,
    inputs: Sequence[str] | None,
    output: str | None,
    row: tuple[int, ...] | None,
) -> Side:
    """A graph beside the field, whose names must fit.

    Args:
        key: of the card.
        inputs, output: that the card names; None for all inputs, and for the only output.
        row: the shape of a row of the output, where it must have one.

    Raises:
        LoadError: one line.
    """
    takes, gives = ({each.name: each for each in each_side} for each_side in (backend.inputs, backend.outputs))
    if inputs is not None and {*inputs} != {*takes}:
        raise LoadError(f"{file}: {key}.inputs: expected {', '.join(takes)}, got {', '.join(inputs)}")
    if output is None and len(gives) != 1:
        raise LoadError(f"{file}: {key}.output: expected one of {', '.join(gives)}, got none")
    name = output or next(iter(gives))
    if name not in gives:
        raise LoadError(f"{file}: {key}.output: expected one of {', '.join(gives)}, got {name!r}")
    here = gives[name]
    if here.dtype.kind != "f" or (row is not None and not _fits(here, row)):
        wanted = "floats" if row is None else f"floats {shown(('n', *row))}"
        raise LoadError(f"{file}: {key}: output {name!r}: expected {wanted}, got {_told(here)}")
    return Side(network, tuple(takes[each] for each in inputs or takes), here, units)


def step_of(file: object, card: Card, backend: Backend, network: Network, units: float) -> Side:
    """The graph of a whole step, whose names and shapes must fit; LoadError where they do not."""
    spec, key = card.dynamics, "dynamics.step"
    assert spec is not None
    assert spec.step is not None
    said, state = spec.step, spec.state
    takes, gives = ({each.name: each for each in each_side} for each_side in (backend.inputs, backend.outputs))
    rows = {spec.inputs.y: state, spec.inputs.t or "t": (), said.h: (), said.k1: state}
    rows |= {name: each.shape for name, each in card.conditions.items()}
    needed = (spec.inputs.y, said.h, said.k1)
    if missing := [name for name in needed if name not in takes]:
        raise LoadError(f"{file}: {key}: expected the input {missing[0]!r}, got {', '.join(takes)}")
    for name, here in takes.items():
        if name not in rows or not _fits(here, rows[name]) or here.shared is not None:
            wanted = ", ".join(rows) if name not in rows else shown(("n", *rows[name]))
            raise LoadError(f"{file}: {key}: input {name!r}: expected {wanted}, got {_told(here)}")
    for name, row in ((said.dz, state), (said.error, state), (said.slopes, (-1, *state))):
        if name not in gives or gives[name].dtype.kind != "f" or not _fits(gives[name], row):
            got = _told(gives[name]) if name in gives else ", ".join(gives)
            raise LoadError(f"{file}: {key}: expected an output {name!r} of floats {shown(('n', *row))}, got {got}")
    more = (gives[said.error], gives[said.slopes])
    return Side(network, tuple(takes.values()), gives[said.dz], units, more)


def check_decoder(file: object, card: Card, decoder: Side) -> None:
    """LoadError where a decoder takes something else than states, times and conditions of the card.

    The input that takes the state is the card's `decode.inputs`, or the only one that is no condition and not called as
    the field's time is.
    """
    spec = card.dynamics
    assert spec is not None
    for each in decoder.inputs:
        if each.shared is not None:
            raise LoadError(f"{file}: dynamics.decode: input {each.name!r}: expected a batch axis, got {_told(each)}")
    taker = state_of(card, decoder)
    if taker is None:
        names = ", ".join(each.name for each in decoder.inputs)
        raise LoadError(f"{file}: dynamics.decode.inputs: expected the name of the input for states, of {names}")
    if taker.dtype.kind != "f" or not _fits(taker, spec.state):
        wanted = shown(("n", *spec.state))
        raise LoadError(f"{file}: dynamics.decode: input {taker.name!r}: expected floats {wanted}, got {_told(taker)}")
    for each in decoder.inputs:
        condition = card.conditions.get(each.name)
        if each is taker or each.name == spec.inputs.t:
            continue
        if condition is None:
            raise LoadError(f"{file}: dynamics.decode: input {each.name!r}: expected a condition of the card, got none")
        if each.dtype.kind not in TAKES[condition.dtype] or not _fits(each, condition.shape):
            says = f"the card says {condition.dtype} {shown(condition.shape)}"
            raise LoadError(f"{file}: dynamics.decode: input {each.name!r}: {says}, the graph {_told(each)}")


def state_of(card: Card, decoder: Side) -> GraphTensor | None:
    """The input of a decoder that takes states; None where the card does not say which."""
    spec = card.dynamics
    assert spec is not None
    named = None if spec.decode is None else spec.decode.inputs
    others = {*card.conditions, spec.inputs.t}
    found = [each for each in decoder.inputs if (each.name in named if named else each.name not in others)]
    return found[0] if len(found) == 1 else None


def load_weights(file: Path, state: tuple[int, ...]) -> Tensor:
    """Weights of what a map keeps, float64 of the shape of a state; LoadError where they are no such."""
    try:
        weights = np.load(file, allow_pickle=False)
        whole = np.broadcast_to(weights, state).astype(np.float64)
    except (OSError, ValueError, TypeError, EOFError) as error:
        why = " ".join(str(error).split())
        raise LoadError(f"{file}: expected weights of shape {shown(state)} (numpy's .npy), got: {why}") from None
    if not np.isfinite(whole).all() or not (whole >= 0).all() or not whole.any():
        raise LoadError(f"{file}: expected finite weights >= 0, some above 0, got others")
    return torch.from_numpy(whole.copy())
