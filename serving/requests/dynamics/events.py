"""Events of a request: sign changes along its trajectories of a coordinate, or of a served network's number.

`events` is a JSON list of objects, or the short text "what:direction:terminal", several of which commas part: what is
the number of a coordinate of the flattened state, or the name of a plain model that takes the state, and the time and
conditions if it likes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protos.complaint import complaint, shorten
from serving.backends import Array, GraphTensor, shown
from serving.engine.task import Evaluation
from serving.models.dynamics import Dynamics, number, shaped
from serving.models.model import Model, PlainModel
from serving.requests.dynamics.answering import Answering
from serving.requests.dynamics.asked import Asked, rows_of
from serving.requests.dynamics.piece import Piece
from serving.wire import errors
from steering.dynamics import Ask, Event, Problem, Solution
from steering.dynamics.problem import USUAL_EVENTS as USUAL

MOST = 16
"""Events of a request."""
MOST_NUMBERS = 2**23
"""In the answer, of events: 64 MiB."""
OUTPUTS = ("t_event", "y_event", "event")
DIRECTIONS: Mapping[str | int, int] = {"rising": 1, "falling": -1, "both": 0, 1: 1, -1: -1, 0: 0}
TERMINAL: Mapping[str, bool] = {"terminal": True, "continue": False}
SHOWN = 40
"""Characters of a wrong text that an error repeats."""


class Said(BaseModel):
    """One event as a request says it.

    Attributes:
        coordinate: of the flattened state; or network: a plain model's name.
        output: of the network, where it has several numbers.
        level: what is crossed.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    coordinate: Annotated[int, Field(ge=0)] | None = None
    network: str | None = None
    output: str | None = None
    level: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    direction: Literal["rising", "falling", "both", 1, -1, 0] = "both"
    terminal: bool = True


@dataclass(frozen=True, eq=False)
class EventNetwork:
    """A plain model that takes states and gives the number whose sign is looked at.

    Attributes:
        state: the input that takes states; time: the one that takes times, if any; conditions: the others, which the
            request has.
    """

    model: PlainModel
    state: GraphTensor
    time: GraphTensor | None
    conditions: Sequence[GraphTensor]
    output: str

    def values(self, asked: Asked, ask: Ask) -> Answering:
        """The number of each row, as "event" [m]."""
        there = {each.name: asked.condition[each.name] for each in self.conditions}
        feeds: dict[str, Array] = {self.state.name: shaped(self.state, ask.y.numpy())}
        if self.time is not None:
            feeds[self.time.name] = shaped(self.time, ask.t.numpy())
        rows = rows_of(there, ask.index)
        feeds |= {each.name: shaped(each, rows[each.name]) for each in self.conditions}
        (output,) = yield Evaluation(self.model.network, feeds, (self.output,), len(ask), "reward")
        return {"event": number(output).reshape(len(ask))}


@dataclass(frozen=True, eq=False)
class Looked:
    """The events of a request, and the networks whose outputs they look at."""

    events: Sequence[Event]
    networks: Sequence[EventNetwork]


_LOOKED: WeakKeyDictionary[Asked, Looked] = WeakKeyDictionary()
"""Of the requests under way: their rows are asked for many times."""


def _posed(asked: Asked) -> Mapping[str, Any]:
    text = asked.parameters.events
    if text is None:
        for name in OUTPUTS:
            if name in asked.outputs:
                raise errors.invalid(f"output {name!r}: expected a parameter events beside it, got none")
        if asked.parameters.max_events is not None:
            raise errors.invalid("max_events: expected a parameter events beside it, got none")
        return {}
    networks: dict[tuple[str, str | None], EventNetwork] = {}
    events = []
    for said in parsed(text):
        key = said.network or "", said.output
        if said.network is not None and key not in networks:
            networks[key] = _network(asked, said.network, said.output)
        events.append(
            Event(
                coordinate=said.coordinate,
                output=[*networks].index(key) if said.network is not None else 0,
                level=said.level,
                direction=DIRECTIONS[said.direction],
                terminal=said.terminal,
            )
        )
    usual = USUAL if any(not event.terminal for event in events) else 1
    whole = asked.n * (asked.parameters.max_events or usual) * (math.prod(asked.model.state) + 2)
    if whole > MOST_NUMBERS:
        raise errors.invalid(
            f"max_events: expected at most {MOST_NUMBERS} numbers of the events of all trajectories, got {whole}"
        )
    _LOOKED[asked] = Looked(events, [*networks.values()])
    return {"events": events, "max_events": asked.parameters.max_events}


def parsed(text: str) -> list[Said]:
    """The events that a text says; INVALID_ARGUMENT naming what was expected."""
    stripped = text.strip()
    if "\\" in text:  # networks that a request names are looked for in its text, before it is read
        raise errors.invalid("events: expected text without escapes, got a backslash")
    try:
        found = json.loads(stripped) if stripped.startswith("[") else [_short(each) for each in stripped.split(",")]
    except (ValueError, RecursionError):
        raise errors.invalid(
            f"events: expected a JSON list of events, or what:direction:terminal, got {shorten(text, SHOWN)}"
        ) from None
    if not isinstance(found, list) or not 1 <= len(found) <= MOST:
        raise errors.invalid(f"events: expected 1..{MOST} of them, got {len(found)}")
    events = []
    for each in found:
        try:
            said = Said.model_validate(each)
        except ValidationError as error:
            raise errors.invalid(f"events: {complaint(error, Said)}") from None
        if (said.coordinate is None) == (said.network is None):
            raise errors.invalid("events: expected a coordinate or a network of each, got both or neither")
        if said.output is not None and said.network is None:
            raise errors.invalid("events: expected an output beside a network alone, got one beside a coordinate")
        events.append(said)
    return events


def _short(text: str) -> dict[str, Any]:
    """An event of "what:direction:terminal", the last two of which may be left out."""
    what, *rest = [part.strip() for part in text.split(":")]
    if not what or len(rest) > 2:
        raise ValueError(text)
    said: dict[str, Any] = {"coordinate": int(what)} if what.isdecimal() and len(what) < 10 else {"network": what}
    for part in rest:
        if part in TERMINAL and "terminal" not in said:
            said["terminal"] = TERMINAL[part]
        elif part in ("rising", "falling", "both") and "direction" not in said:
            said["direction"] = part
        else:
            raise ValueError(text)
    return said


def _network(asked: Asked, name: str, output: str | None) -> EventNetwork:
    """The plain model of that name as an event of this model's trajectories."""
    model: Model | None = asked.served.models.get(name)
    if not isinstance(model, PlainModel):
        plain = sorted(each for each, found in asked.served.models.items() if isinstance(found, PlainModel))
        got = "none of that name" if model is None else "a model of another kind"
        raise errors.invalid(
            f"events: network {shorten(name, SHOWN)}: expected a plain model ({', '.join(plain) or 'none'}), got {got}"
        )
    owner, conditions, state, time = asked.model, list[GraphTensor](), list[GraphTensor](), None
    for tensor in model.network.backend.inputs:
        if tensor.name in asked.condition and _takes(tensor, asked.condition[tensor.name].shape[1:]):
            conditions.append(tensor)
        elif tensor.name == (owner.spec.inputs.t or "t") and _takes(tensor, ()) and tensor.dtype.kind == "f":
            time = tensor
        elif _takes(tensor, owner.state) and tensor.dtype.kind == "f":
            state.append(tensor)
        else:
            raise errors.invalid(f"events: network {name!r}: {_misfit(owner, tensor)}")
    if len(state) != 1:
        raise errors.invalid(f"events: network {name!r}: expected one input for states, got {len(state)}")
    for tensor in conditions:
        if why := model.out_of_range(tensor.name, asked.condition[tensor.name]):
            raise errors.invalid(f"events: network {name!r}: input {tensor.name!r}: {why}")
    gives = [
        each for each in model.network.backend.outputs
        if each.dtype.kind == "f" and _takes(each, ()) and output in (None, each.name)
    ]  # fmt: skip
    if len(gives) != 1:
        of = "a number a row" if output is None else f"a number a row called {shorten(output, SHOWN)}"
        raise errors.invalid(f"events: network {name!r}: expected one output of {of}, got {len(gives)}")
    return EventNetwork(model, state[0], time, conditions, gives[0].name)


def _takes(tensor: GraphTensor, row: Sequence[int]) -> bool:
    """Whether rows of a graph's tensor are of this shape; a number may be a column."""
    if tensor.shared is not None or None in tensor.row:
        return False
    return tuple(tensor.row) == tuple(row) or math.prod(row) == math.prod(axis or 1 for axis in tensor.row) == 1


def _misfit(owner: Dynamics, tensor: GraphTensor) -> str:
    there = ", ".join(["the time", *owner.conditions])
    return f"expected inputs for the state {shown(owner.state)}, {there}, got {tensor.name!r} {shown(tensor.row)}"


def _outputs(asked: Asked, problem: Problem, solution: Solution) -> Mapping[str, Array]:
    if not problem.events:
        return {}
    return {
        "t_event": solution.t_event.numpy(),
        "y_event": solution.y_event.numpy().astype(asked.model.dtype),
        "event": solution.event.numpy(),
    }


def _answer(asked: Asked, ask: Ask) -> Answering:
    """The numbers of all networks [m, E]."""
    columns = []
    for network in _LOOKED[asked].networks:
        reply = yield from network.values(asked, ask)
        columns.append(reply["event"])
    return {"event": torch.stack(columns, dim=1)}


def _fingerprints(asked: Asked) -> Sequence[str]:
    looked = _LOOKED.get(asked)
    return () if looked is None else [each.model.fingerprint for each in looked.networks]


PIECE = Piece(
    name="events",
    kinds=("ode", "cde"),
    parameters=("events", "max_events"),
    pose=_posed,
    outputs=_outputs,
    answers={"event": _answer},
    fingerprints=_fingerprints,
)
