"""Trajectories of served dynamics: a request is made of the caller's words, and its answer read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiltserve import errors, operations, steps, tensors
from tiltserve.answers import Inferred
from tiltserve.errors import InvalidArgument, Unavailable
from tiltserve.names import CLIENT, PREFIX
from tiltserve.operations import Memory, Request, argument, condition, described
from tiltserve.steps import Emit, Open, Operation, Patience, Receive, Sleep
from tiltserve.tensors import Array, Parameter

STATUSES = ("ok", "event", "max_steps", "step_too_small", "not_finite", "not_converged")
"""How a trajectory ended, by its status."""
PARAMETERS = frozenset(
    {
        "samples", "seed", "solver", "rtol", "atol", "dt0", "dt", "max_steps", "stream", "reward", "beta", "threshold",
        "particles", "steering", "coordinate", "over", "explorers", "events", "max_events", "sensitivity", "timeout",
        "priority", "deterministic",
    }
)  # fmt: skip
"""Parameters of a request for trajectories. Options of solvers are sent as parameters too."""
INPUTS = {
    "t_eval": "FP64",
    "rtol": "FP64",
    "atol": "FP64",
    "dt0": "FP64",
    "dt": "FP64",
    "control_t": "FP64",
    "linear": "FP64",
}
"""Inputs of every model of dynamics, and their datatypes."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Solved trajectories: an array of states with what is known about it. numpy takes it for its `y`.

    Attributes:
        y: states [n, T, *state] at `t`; NaN after an event, and from where a trajectory failed. None where it was not
            asked for.
        t: the times [T] or [n, T].
        status: int32 [n]; `STATUSES` has their names.
        evaluations: rows of the network that each took, int64 [n].
        decoded: what states decode to [n, T, ...], None without a decoder.
        rewards: of where they came to [n], None without a reward; NaN of those that failed.
        seed: with the same one, the same bytes.
        fingerprint: of everything else that decides the bytes.
        warnings: read them.
        seconds: as the client saw it, retries included.
        outputs, parameters: all that the response holds: `t_event`, `y_event`, `event`, `log_weights`, `residual`, ...
    """

    y: Array | None
    t: NDArray[np.float64]
    status: NDArray[np.int32]
    evaluations: NDArray[np.int64]
    decoded: Array | None
    rewards: Array | None
    seed: int
    solver: str
    network_rows: int
    reward_rows: int
    fingerprint: str
    warnings: list[str]
    seconds: float
    model: str
    version: str
    id: str
    outputs: dict[str, Array]
    parameters: dict[str, Parameter]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Whether each trajectory came to its last time, or to a terminal event, [n]."""
        return self.status <= STATUSES.index("event")

    @property
    def statuses(self) -> list[str]:
        """The name of each status."""
        return [STATUSES[each] if 0 <= each < len(STATUSES) else str(each) for each in self.status.tolist()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._states, dtype=dtype) if copy else np.asarray(self._states, dtype=dtype)

    def __len__(self) -> int:
        return len(self.status)

    def __getitem__(self, which: Any) -> Any:
        return self._states[which]

    def __getattr__(self, name: str) -> Array:
        """Further outputs by name."""
        outputs = self.__dict__.get("outputs", {})
        if name in outputs:
            found: Array = outputs[name]
            return found
        raise AttributeError(f"no output {name!r}: the answer has {', '.join(outputs)}")

    def __repr__(self) -> str:
        failed = int((~self.ok).sum())
        said = [f"{len(self)} at {self.t.shape[-1]} times", f"{self.network_rows} network rows", self.solver]
        said += [f"{failed} failed"] if failed else []
        said += [f"{len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}"] if self.warnings else []
        return f"<Trajectories: {', '.join(said)}>"

    @property
    def _states(self) -> Array:
        if self.y is None:
            raise InvalidArgument("y: it was not asked for")
        return self.y


@dataclass(frozen=True, eq=False)
class Chunk:
    """States that are final, on the way.

    Attributes:
        y: states [m, *state]; trajectory, position: int64 [m], which trajectory each is of, and at which of its times.
        times: of the request, [T] or [n, T].
        number: from 1.
    """

    y: Array
    trajectory: NDArray[np.int64]
    position: NDArray[np.int64]
    times: NDArray[np.float64]
    number: int

    @property
    def t(self) -> NDArray[np.float64]:
        """The time of each state [m]."""
        found: NDArray[np.float64] = (
            self.times[self.position] if self.times.ndim == 1 else self.times[self.trajectory, self.position]
        )
        return found


@dataclass(frozen=True)
class Posed:
    """A request for trajectories in the caller's words.

    Attributes:
        keywords: whatever else was given by name.
    """

    model: str
    y0: Any
    t_eval: Any
    outputs: tuple[str, ...]
    conditions: Mapping[str, Any]
    reward_args: Mapping[str, Any]
    parameters: Mapping[str, Any]
    version: str
    id: str
    keywords: Mapping[str, Any]


def solve(memory: Memory, patience: Patience, posed: Posed) -> Operation[Trajectories]:
    """Solve by ModelInfer."""
    request, times = yield from _request(memory, patience, posed)
    try:
        answer = yield from operations.inferred(memory, patience, request.message())
    except InvalidArgument as error:
        raise request.explained(error) from None
    return trajectories_of(answer, times)


def stream(memory: Memory, patience: Patience, posed: Posed, *, keep: bool) -> Operation[Trajectories]:
    """Solve by ModelStreamInfer; each `Chunk` is emitted.

    A stream that breaks is begun again: what comes is the same, and what was emitted is passed over.

    Args:
        keep: put the states together at the end.
    """
    request, times = yield from _request(memory, patience, posed)
    message, emitted, kept = request.message(stream=True), 0, list[Chunk]()
    while True:
        try:
            yield Open(steps.STREAM, message, patience.left, [operations.AS_STATUS])
            while (reply := (yield Receive())) is not None:
                if reply.error_message:
                    raise errors.in_band(reply.error_message)
                answer = operations.answered(reply.infer_response, patience)
                said = answer.parameters
                if said.get(operations.FINAL, True):
                    found = trajectories_of(answer, times)
                    return replace(found, y=_together(kept, found, times)) if kept else found
                if int(said.get("chunk", 0)) <= emitted:
                    continue
                emitted = int(said.get("chunk", 0))
                outputs = answer.outputs
                chunk = Chunk(outputs["y"], outputs["trajectory"], outputs["position"], times, emitted)
                kept += [chunk] if keep else []
                yield Emit(chunk)
            raise errors.Internal("the stream ended before the trajectories came")
        except InvalidArgument as error:
            raise request.explained(error) from None
        except Unavailable as error:
            pause = patience.pause(error)
        yield Sleep(pause)


def _together(chunks: Sequence[Chunk], found: Trajectories, times: NDArray[np.float64]) -> Array:
    """States [n, T, *state] of chunks; NaN where there are none."""
    y = np.full((len(found), times.shape[-1], *chunks[0].y.shape[1:]), np.nan, chunks[0].y.dtype)
    for each in chunks:
        y[each.trajectory, each.position] = each.y
    return y


def _request(memory: Memory, patience: Patience, posed: Posed) -> Operation[tuple[Request, NDArray[np.float64]]]:
    """The request, with a seed: what is sent again must have the same one."""
    if posed.keywords.get("reward") == CLIENT:
        raise InvalidArgument("reward: expected one that the server scores, got the client's own")
    inputs: dict[str, Array] = {}
    if posed.t_eval is not None:
        inputs["t_eval"] = tensors.cast("t_eval", posed.t_eval, "FP64")
    parameters: dict[str, Parameter] = {}
    given = {name: each for name, each in posed.keywords.items() if each is not None}
    if posed.y0 is not None:
        inputs["y0"] = _floats("y0", posed.y0)
    named, unknown = dict(posed.conditions), dict[str, str]()
    for name, each in given.items():
        if name in INPUTS and tensors.dimensions(name, each):
            inputs[name] = tensors.cast(name, each, INPUTS[name])
        elif name == "events" and not isinstance(each, str):
            parameters[name] = _events(each)
        elif name in PARAMETERS:
            parameters[name] = tensors.scalar(name, each)
        elif name.startswith(PREFIX):
            _argue(name, each, given.get("reward"), inputs, parameters)
        else:
            named[name] = each
    if named:
        model = yield from described(memory, patience, posed.model, posed.version)
        for name, each in named.items():
            spec = None if model is None else model.input(name)
            if spec is None and name not in posed.conditions and not tensors.dimensions(name, each):
                parameters[name] = tensors.scalar(name, each)
                there = [] if model is None else [one.name for one in model.inputs]
                unknown[name] = f"unknown keyword {name!r}: expected a parameter or an input ({', '.join(there)})"
            else:
                inputs[name] = condition(model, name, each)
    for name, each in posed.reward_args.items():
        _argue(PREFIX + name, each, given.get("reward"), inputs, parameters)
    parameters |= {name: tensors.scalar(name, each) for name, each in posed.parameters.items()}
    parameters.setdefault("seed", operations.fresh_seed())
    outputs = tuple(dict.fromkeys([*posed.outputs, "status", "evaluations"])) if posed.outputs else ()
    request = Request(posed.model, posed.version, posed.id, parameters, inputs, outputs, unknown)
    return request, inputs.get("t_eval", np.zeros(1))  # fixed points need no time


def _events(events: Any) -> str:
    """One event or several, dicts each, as the text that the server reads."""
    try:
        return json.dumps([events] if isinstance(events, Mapping) else list(events))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"events: expected text, a dict or a list of dicts, got {error}") from None


def _argue(
    name: str, value: Any, reward: str | None, inputs: dict[str, Array], parameters: dict[str, Parameter]
) -> None:
    """An argument of the reward, as an input where it has axes."""
    if tensors.dimensions(name, value):
        inputs[name] = argument(name, value, reward)
    else:
        parameters[name] = tensors.scalar(name, value)


def _floats(name: str, value: Any) -> Array:
    """Numbers as float32 where they came so, else as float64: what is computed from them is in float64."""
    made = tensors.array(name, value)
    return made if made.dtype == np.float32 else tensors.cast(name, made, "FP64")


def trajectories_of(answer: Inferred, times: NDArray[np.float64]) -> Trajectories:
    """The answer to a request for trajectories."""
    outputs, said = answer.outputs, answer.parameters
    for name in ("status", "evaluations"):
        if name not in outputs:
            raise InvalidArgument(f"model {answer.model!r}: expected dynamics, got an answer without {name!r}")
    return Trajectories(
        outputs.get("y"),
        times,
        outputs["status"],
        outputs["evaluations"],
        outputs.get("decoded"),
        outputs.get("rewards"),
        int(said.get("seed", 0)),
        str(said.get("solver", "")),
        int(said.get("network_rows", 0)),
        int(said.get("reward_rows", 0)),
        str(said.get("fingerprint", "")),
        [each for each in str(said.get("warnings", "")).split("; ") if each],
        answer.seconds,
        answer.model,
        answer.version,
        answer.id,
        outputs,
        said,
    )
